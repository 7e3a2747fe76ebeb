"""The whole study: one section per stage of the workflow."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, StringConstraints, model_validator

from laglens.config.models import Model
from laglens.config.section import HEAD_PATTERN, Name, Section
from laglens.config.signals import Signal

AttributionMethod = Literal[
    "gradient",
    "input_x_gradient",
    "integrated_gradients",
    "integrated_gradients_trend",
    "integrated_gradients_surrogates",
    "occlusion",
]
Replacement = Literal["permuted", "uniform", "identity", "mean", "frozen"]
HeadLabel = Annotated[str, StringConstraints(pattern=HEAD_PATTERN)]
RowStatistic = Literal["entropy", "effective_keys", "top_key"]
NoiseKind = Literal["white", "shuffled", "ar1_0.6", "ar1_0.9", "ar1_0.97", "random_walk"]
WaveKind = Literal["sine", "harmonic", "two_periods"]
QueryPart = Literal["horizon->history", "history->history", "horizon->horizon", "history->horizon", "readout->history"]


class Run(Section):
    """Every model of the list is run on every signal of the list."""

    models: list[str] = Field(min_length=1, description="names of models")
    signals: list[str] = Field(min_length=1, description="names of signals")


class Comparison(Section):
    """One model on two signals, such as a series and the same series without one of its periods."""

    model: str = Field(description="name of the model")
    signals: list[str] = Field(min_length=2, max_length=2, description="the two signals; both in a run of the model")


class Distributions(Section):
    """The same models on series of different kinds, from several seeds; only their heads are measured."""

    trained: list[str] = Field(min_length=1, description="models that differ in their training seed alone")
    untrained: list[str] = Field([], description="the same with `train: {epochs: 0}`")
    signals: list[str] = Field(min_length=2, description="generated signals")


class Attention(Section):
    """How the attention is captured."""

    windows: PositiveInt = Field(16, description="windows of each signal that are shown to the model")
    windows_per_series: PositiveInt = Field(
        1, description="at least so many of every series of a panel, even if these are more than `windows`"
    )
    store: Literal["auto", "tokens", "time"] = Field(
        "auto",
        description="tokens: whole maps; time: maps reduced to time while the model runs, which needs little memory; "
        "auto: tokens where all of them fit in `memory_gb`",
    )
    dtype: Literal["float16", "float32"] = Field("float16", description="precision in which maps of tokens are stored")
    memory_gb: PositiveFloat = Field(
        2.0, description="GB for the windows that run at once, beside the model; sets how many there are"
    )
    statistics: list[RowStatistic] = Field(
        ["entropy", "effective_keys", "top_key"], description="what is kept of every row of tokens"
    )
    keep: bool = Field(
        True, description="keep these files; false: each is removed once it is reduced to time (docs/workflow.md)"
    )
    rollout: bool = Field(
        False, description="follow the attention through all layers token by token while the model runs, for `flow`"
    )


class Time(Section):
    """How tokens become time."""

    normalisation: Literal["mass", "mean"] = Field(
        "mass", description="mass: a row and its special mass sum to 1; mean: plain mean over both axes"
    )
    keep: bool = Field(
        True, description="keep these files; false: each is removed once nothing of this study has to be made from it"
    )


class Lags(Section):
    """How lags are measured, and against what."""

    max_lag: PositiveInt | Literal["auto"] = Field(
        "auto", description="largest lag in input samples; auto: what the model's history allows"
    )
    controls: int = Field(99, ge=19, description="AR(1) noise series per signal that the bands are made from")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="coverage of the bands, limits and intervals")
    untrained: int = Field(3, ge=3, description="draws of random weights that a trained head is compared with")
    swap_periods: int = Field(6, ge=3, description="periods of the waves that show whether a head follows them")
    swap_inputs: int = Field(8, ge=4, description="waves of each of these periods")
    permutations: int = Field(999, ge=99, description="permutations of their periods; the smallest p is 1 / (n + 1)")
    noises: int = Field(100, ge=20, description="white noise series that profiles on these waves are compared with")
    series_controls: int = Field(
        39,
        ge=9,
        description="of `controls`, how many at most every series of a panel is compared with on its own; with 19 or "
        "fewer one series alone cannot stand out at 5 %",
    )
    stretch: bool = Field(
        False,
        description="show every signal slower and faster too, for periods finer than a token: 9 runs more of each",
    )


class Heads(Section):
    """How heads are measured."""

    window: PositiveInt | Literal["auto"] = Field(
        "auto", description="keys up to this far away are local, in input samples; auto: one token"
    )
    top_keys: PositiveInt = Field(5, description="how many of the strongest keys `top_mass` counts")
    vectors: list[HeadLabel] | Literal["auto"] = Field(
        "auto",
        description='heads whose queries and keys the explorer shows, such as ["encoder L00 H03"]; auto: three, those '
        "with a supported verdict first; []: none",
    )


class Flow(Section):
    """How attention is followed through all layers: rollout, and maximum flow."""

    fusion: Literal["mean", "max", "min"] = Field("mean", description="how the heads of a layer become one map")
    residual: float = Field(0.5, ge=0, le=1, description="weight of the residual connection beside the attention")
    discard: float = Field(
        0.0, ge=0, lt=1, description="share of the weights of every row, the smallest ones, that are dropped"
    )
    start: int = Field(0, ge=0, description="first layer that is followed, counted from 0 through all stacks")
    maximum: Literal["none", "mean", "windows"] = Field(
        "mean",
        description="maximum flow: none, of the maps averaged over windows (mean), or of those of all windows",
    )
    queries: Literal["forecasting", "all"] = Field(
        "forecasting", description="output times whose maximum flow is computed; all of them take longer"
    )


class Attribution(Section):
    """How the forecast is attributed to the samples of the history."""

    methods: list[AttributionMethod] = Field(
        ["gradient", "input_x_gradient", "integrated_gradients", "occlusion"], min_length=1, description="which methods"
    )
    step: PositiveInt | None = Field(
        1, description="forecast sample that is explained, 1 = the first; null: the mean of the horizon"
    )
    window: PositiveInt | Literal["auto"] = Field(
        "auto", description="samples that occlusion takes out together; auto: one token"
    )
    points: PositiveInt = Field(16, description="points of the integral of integrated gradients")
    shares: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        [0.1, 0.3], description="shares of the history in deletion and insertion curves; []: no curves"
    )
    relevance: bool = Field(True, description="gradient relevance through all layers, for models with a gradient")
    replacements: list[Replacement] = Field(
        ["permuted", "uniform", "identity", "mean", "frozen"],
        description="what attention is replaced by to see how much the forecast changes; []: nothing",
    )
    draws: PositiveInt = Field(3, description="permutations of the attention weights")
    by_head: Replacement | None = Field(
        None, description="replacement that is also made in one head after the other; null: none"
    )
    half_width: PositiveFloat = Field(0.75, description="tokens on either side of a lag that a knock-out cuts with it")


class Calibration(Section):
    """How often the tests of a model are wrong and right: ``snakemake calibration``."""

    models: list[str] = Field([], description="names of models that forecast and are trained once")
    noises: list[NoiseKind] = Field(
        ["white", "shuffled", "ar1_0.6", "ar1_0.9", "ar1_0.97", "random_walk"],
        min_length=1,
        description="kinds of series without a period, on which every detection is a false alarm",
    )
    waves: list[WaveKind] = Field(
        ["sine", "harmonic", "two_periods"], min_length=1, description="kinds of series of known period"
    )
    series: int = Field(50, ge=10, description="series of each kind, tested one by one")
    untrained: int = Field(15, ge=10, description="series of each kind that random weights are tested on")
    controls: int = Field(39, ge=19, description="AR(1) noise series for each of them; the smallest p is 1 / (n + 1)")
    seed: int = Field(77, ge=0, description="of the series, apart from the seeds of trainings and probes")


class Claims(Section):
    """What published experiments claim, asked of every model: ``snakemake claims``."""

    models: list[str] = Field([], description="names of models that forecast and are trained once")
    signals: list[str] = Field([], description="names of signals: the published one, then the same without a wave")
    period: PositiveFloat = Field(62.832, description="samples whose multiples are asked about as peaks")
    pairs: int = Field(80, ge=20, description="pairs of unrelated periods, of which one is taken away")


class Figures(Section):
    """How figures are drawn; a change here reruns figure jobs only."""

    powermap: bool = Field(True, description="colour = weight to the power `gamma`; false: linear in the weight")
    gamma: float = Field(0.5, gt=0, le=2, description="exponent of the power map; smaller lifts weak weights")
    robust_percentiles: tuple[float, float] = Field(
        (5.0, 99.5), description="percentiles of the weights at the two ends of the colour scale"
    )
    show_log: bool = Field(False, description="colour = log10 of the weight; wins over `powermap`")
    top_overlay_percent: float = Field(0.0, ge=0, le=100, description="outline this share of the strongest cells, in %")
    heads: list[HeadLabel] | Literal["auto"] = Field(
        "auto",
        description='heads drawn in detail, such as ["encoder L00 H03"]; auto: the strongest against their limit',
    )
    part: QueryPart | Literal["auto"] = Field(
        "auto", description="query part that is drawn; auto: horizon->history, else readout->history"
    )
    window: int = Field(0, ge=0, description="window whose maps are drawn, counted from 0; profiles use all")
    traced_time: float | Literal["auto"] = Field(
        "auto",
        description="time whose way through the layers is drawn as arcs, in input samples from the start of the "
        "window; auto: the last forecast step",
    )
    formats: list[Literal["png", "svg", "pdf"]] = Field(["png", "svg"], min_length=1, description="file formats")
    dpi: int = Field(200, ge=20, le=1200, description="dots per inch of PNG files and of maps inside SVG files")

    @model_validator(mode="after")
    def _rising(self) -> Self:
        low, high = self.robust_percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(f"robust_percentiles [{low:g}, {high:g}] are not two rising numbers between 0 and 100")
        return self


class Report(Section):
    """What the explorer holds; a change here builds the page again and nothing else."""

    window: int = Field(0, ge=0, description="window whose maps and series it shows, counted from 0; profiles use all")
    megabytes: float = Field(
        20, ge=1, description="largest size of the page; maps that do not fit are kept with 8 bits, then pooled"
    )


class Study(Section):
    """A whole `config.yaml`."""

    seed: int = Field(0, ge=0, description="of everything random; signals and trainings may have their own")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where models run; auto: CUDA where there is one"
    )
    signals: dict[Name, Signal] = Field(min_length=1, description="Series by name: generated, real, or your own")
    models: dict[Name, Model] = Field(min_length=1, description="Models by name")
    runs: list[Run] = Field(min_length=1, description="which models see which signals")
    comparisons: dict[Name, Comparison] = Field({}, description="signal against signal, by name")
    distributions: dict[Name, Distributions] = Field(
        {}, description="kinds of series against each other, over seeds, by name"
    )
    attention: Attention = Field(Attention(), description="capture")
    time: Time = Field(Time(), description="tokens to time")
    lags: Lags = Field(Lags(), description="lag statistics")
    heads: Heads = Field(Heads(), description="measures of heads")
    flow: Flow = Field(Flow(), description="rollout and maximum flow")
    attribution: Attribution = Field(Attribution(), description="attribution of the forecast")
    figures: Figures = Field(Figures(), description="figures")
    claims: Claims = Field(Claims(), description="published claims, as a target of its own")
    calibration: Calibration = Field(Calibration(), description="error rates of the tests, as a target of its own")
    report: Report = Field(Report(), description="explorer")

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Every (model, signal) that is run, once, in the order of the config."""
        return list(dict.fromkeys((m, s) for run in self.runs for m in run.models for s in run.signals))
