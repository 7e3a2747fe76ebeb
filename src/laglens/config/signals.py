"""The `signals` section of the config: generated series, real series, and a person's own table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    PositiveFloat,
    PositiveInt,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from laglens.config.generators import (
    GARCH11,
    Chirp,
    Generated,
    Harmonics,
    HeavyTailedAR1,
    JumpDiffusion,
    MultiSeasonality,
    OneOverF,
    PlantedLag,
    Published,
    RandomWalk,
    RandomWalkEcho,
    RegimeSwitching,
    SeasonTrendOutliers,
    TrendBreaks,
)
from laglens.config.messages import nearest, readable
from laglens.config.section import Name, Section
from laglens.errors import LaglensError

DATASET_LENGTHS = {
    "sunspots": 309,
    "co2": 2284,
    "co2_monthly": 526,
    "elnino": 732,
    "interest_inflation": 107,
    "nile": 100,
    "macrodata": 203,
}
DATASET_COLUMNS = {  # of the data sets with more than one series; the first is the default
    "interest_inflation": ("Dp", "R"),
    "macrodata": (
        "infl", "realgdp", "realcons", "realinv", "realgovt", "realdpi", "cpi", "m1", "tbilrate", "unemp", "pop",
        "realint",
    ),
}  # fmt: skip
EVERY = "*"  # column: every numeric one
UnitOfTime = Literal["seconds", "minutes", "hours", "days", "weeks", "months", "quarters", "years"]


class RealSeries(Section):
    """A real series that comes with statsmodels."""

    dataset: Literal["sunspots", "co2", "co2_monthly", "elnino", "interest_inflation", "nile", "macrodata"] = Field(
        description="which one; see docs/signals.md"
    )
    column: str | None = Field(None, description="series of `interest_inflation` (Dp, R) or `macrodata` (infl, ...)")

    @model_validator(mode="after")
    def _has_column(self) -> Self:
        if self.column is not None:
            known = DATASET_COLUMNS.get(self.dataset)
            if known is None:
                raise ValueError(f"dataset '{self.dataset}' has one series only; leave out 'column'")
            if self.column not in known:
                raise ValueError(f"dataset '{self.dataset}' has no '{self.column}'; {nearest(self.column, known)}")
        return self

    @property
    def known_length(self) -> int:
        """Samples in time."""
        return DATASET_LENGTHS[self.dataset]


class OwnTable(Section):
    """One or more series of a person's own CSV or Parquet file."""

    file: str = Field(description="a .csv or .parquet file; relative to the folder you run from")
    column: str | list[str] | None = Field(
        None,
        description="column or columns with the values, each a series; '*': every numeric column; null: the only one",
    )
    series: str | None = Field(
        None,
        description="column with the name of the series that a row belongs to; null: each value column is a series",
    )
    time: str | None = Field(None, description="column with dates or numbers, evenly spaced; null: rows are numbered")
    time_unit: UnitOfTime | None = Field(
        None, description="unit of time on figures; null: what the dates suggest, else samples"
    )
    window: int | None = Field(None, ge=8, description="cut each series into pieces of this many samples; null: do not")
    stride: PositiveInt | None = Field(None, description="samples from one cut to the next; null: `window`")
    periods: list[PositiveFloat] = Field([], description="periods you know of, in samples; drawn and tested as truth")
    interpolate: bool = Field(False, description="fill gaps on a straight line; false: a gap is an error")
    unit: str = Field("", description="unit of the values")

    @field_validator("file")
    @classmethod
    def _is_table(cls, file: str) -> str:
        if not file.lower().endswith((".csv", ".parquet")):
            raise ValueError(f"'{file}' is neither a .csv nor a .parquet file")
        return file

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.stride is not None and self.window is None:
            raise ValueError("'stride' is given without 'window'")
        columns = self.value_columns
        if self.column not in (None, EVERY) and (not columns or len(set(columns)) < len(columns)):
            raise ValueError("'column' is an empty list, or names a column twice")
        if self.series is not None and (len(columns) > 1 or self.column == EVERY):
            raise ValueError("with 'series' the values are in one 'column'")
        roles = {"time": self.time, "series": self.series}
        for role, column in roles.items():
            if column is not None and column in columns:
                raise ValueError(f"'{column}' is given both as '{role}' and as 'column'")
        if self.series is not None and self.series == self.time:
            raise ValueError(f"'{self.time}' is given both as 'time' and as 'series'")
        return self

    @property
    def known_length(self) -> int | None:
        """Samples in time, where the config alone tells."""
        return self.window

    @property
    def value_columns(self) -> list[str]:
        """The columns asked for by name."""
        if self.column == EVERY:
            return []
        return [self.column] if isinstance(self.column, str) else list(self.column or ())

    @property
    def is_panel(self) -> bool:
        """Whether it holds several series that have names."""
        return self.series is not None or self.column == EVERY or len(self.value_columns) > 1

    @property
    def columns(self) -> Iterator[tuple[str, str]]:
        """Every column that the file must have, with the key that asks for it."""
        if isinstance(self.column, str) and self.column != EVERY:
            yield "column", self.column
        for i, column in enumerate(self.column if isinstance(self.column, list) else ()):
            yield f"column[{i}]", column
        for key in ("time", "series"):
            if getattr(self, key) is not None:
                yield key, getattr(self, key)


Generator = (
    Annotated[Harmonics, Tag("harmonics")]
    | Annotated[Chirp, Tag("chirp")]
    | Annotated[PlantedLag, Tag("planted_lag")]
    | Annotated[RandomWalkEcho, Tag("random_walk_echo")]
    | Annotated[HeavyTailedAR1, Tag("heavy_tailed_ar1")]
    | Annotated[GARCH11, Tag("garch11")]
    | Annotated[JumpDiffusion, Tag("jump_diffusion")]
    | Annotated[RegimeSwitching, Tag("regime_switching")]
    | Annotated[TrendBreaks, Tag("trend_breaks")]
    | Annotated[RandomWalk, Tag("random_walk")]
    | Annotated[SeasonTrendOutliers, Tag("season_trend_outliers")]
    | Annotated[MultiSeasonality, Tag("multi_seasonality")]
    | Annotated[OneOverF, Tag("one_over_f")]
)
GENERATOR_NAMES = tuple(
    get_args(get_args(branch)[0].model_fields["generator"].annotation)[0] for branch in get_args(Generator)
)
WITH_VARIANTS = get_args(Published.model_fields["generator"].annotation)
VARIANTS = ("published", "corrected")
KINDS = ("generator", "dataset", "file")


def _kind(written: Any) -> str | None:
    """Tag of the model for what a person wrote, or for a model already made."""
    get = written.get if isinstance(written, Mapping) else lambda key: getattr(written, key, None)
    if get("generator") is not None:
        return "published" if get("variant") == "published" else str(get("generator"))
    return "real series" if get("dataset") is not None else "own table" if get("file") is not None else None


def _one_known_kind(written: Any) -> Any:
    """Say what is wrong with `generator`, `dataset` or `file` before a model is chosen by them."""
    if isinstance(written, Section):
        return written
    if not isinstance(written, Mapping):
        raise ValueError("a signal is a mapping, such as {dataset: sunspots}")
    kinds = [key for key in KINDS if written.get(key) is not None]
    if len(kinds) != 1:
        raise ValueError(f"a signal has one of the keys {', '.join(KINDS)}; here: {' and '.join(kinds) or 'none'}")
    generator, variant = str(written.get("generator")), written.get("variant")
    if kinds == ["generator"] and generator not in GENERATOR_NAMES:
        raise ValueError(f"unknown generator '{generator}'; {nearest(generator, GENERATOR_NAMES)}")
    if generator in WITH_VARIANTS and variant not in (None, *VARIANTS):
        raise ValueError(f"unknown variant '{variant}'; {nearest(str(variant), VARIANTS)}")
    if variant == "published" and generator not in WITH_VARIANTS:
        raise ValueError(f"{kinds[0]} '{written[kinds[0]]}' has no published variant; leave out 'variant'")
    return written


Signal = Annotated[
    Generator
    | Annotated[Published, Tag("published")]
    | Annotated[RealSeries, Tag("real series")]
    | Annotated[OwnTable, Tag("own table")],
    Discriminator(_kind),
    BeforeValidator(_one_known_kind),
]


class _OneSignal(Section):
    signals: dict[Name, Signal]


def parse_signal(written: Mapping[str, Any], name: str) -> Generated | RealSeries | OwnTable:
    """Check one signal of the config and fill in its defaults.

    Raises
    ------
    LaglensError
        With one line per problem, each naming the full key.
    """
    section = {"signals": {name: written}}
    try:
        return _OneSignal.model_validate(section).signals[name]
    except ValidationError as error:
        raise LaglensError("\n".join(readable(error, _OneSignal, section))) from None
