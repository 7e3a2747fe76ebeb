"""Write docs/gallery.md and its pictures from the figures of finished studies.

``python docs/gallery.py [FOLDER ...]``: the results of the default study, and of others for what it has no model for.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image

from laglens.store import write_bytes

ROOT = Path(__file__).parents[1]
PAGE, PICTURES = ROOT / "docs/gallery.md", ROOT / "docs/images/gallery"
RESULTS = ROOT / "results"
MOST = 250_000  # bytes
# Few colours tint the words: a narrower picture is better than one of less than 128.
SIZES = [(width, colours) for colours in (256, 128, 64) for width in (1000, 850, 720, 620)]
HEAD = """# Gallery

Every figure of laglens, drawn by the default study: `snakemake`, then `python docs/gallery.py`, which writes this
page and its pictures. Those at the end need models or signals of other studies, whose results it takes as well:
`python docs/gallery.py results other/results`. [Figures](figures.md) says how to read each of them.
"""
SHOWN = {  # figure: title, what to see
    "image_small/three_harmonics/verdicts": (
        "Verdicts",
        (
            "Which heads follow which period, and which of three tests each one passed. The shortest period is "
            "refused: it is shorter than two tokens."
        ),
    ),
    "image_small/tracking": (
        "Period tracking",
        (
            "The period read off the lags of a head against that of its input. On the line the head follows; position "
            "alone is flat."
        ),
    ),
    "image_small/three_harmonics/knock_out": (
        "Knock-out and causal lag curve",
        (
            "How far the forecast moves when one lag is cut, what a whole period is worth beside matched controls, and "
            "which head carries it."
        ),
    ),
    "image_small/three_harmonics/lag_strip": (
        "Lag strip",
        "All heads by lag: lit where a head goes beyond its limit on noise with the same memory.",
    ),
    "image_small/three_harmonics/mosaic": ("Mosaic", "The maps of all heads of one window as one image."),
    "numeric_small/sunspots/head_sheet": (
        "Head sheet",
        (
            "Where the strongest heads look in one window of the sunspots, with the series on both margins, and their "
            "lags over all windows."
        ),
    ),
    "comparisons/period_removed": (
        "Comparison",
        "One head on two signals, with and without a period, and the difference against its own null.",
    ),
    "numeric_small/sunspots/flow": ("Flow", "What reaches the forecast through all layers, under the series."),
    "numeric_small/sunspots/arcs": (
        "Arcs",
        "The ways through all layers by which the last step of the forecast is reached, the strongest at every layer.",
    ),
    "image_small/three_harmonics/explanations": (
        "Explanations",
        "Attributions, attention, rollout, flow and relevance of one forecast, as bands under its series.",
    ),
    "image_small/three_harmonics/agreement": (
        "Agreement with attribution",
        "Whether heads look where the forecast comes from, beside attributions of other windows.",
    ),
    "image_small/three_harmonics/density": (
        "Attention against attribution",
        "All tokens of all heads: the line is level where attention tells nothing about what the forecast uses.",
    ),
    "numeric_small/sunspots/forecasts": (
        "Forecasts",
        "The worst windows beside the best, with what was looked at and what was used.",
    ),
    "forecaster/season_trend_outliers/events": (
        "Attention to events",
        "What tokens with an outlier get, beside the same tokens of windows without one.",
    ),
    "image_small/three_harmonics/similarity": (
        "Head similarity",
        "How far apart the maps of all heads are, in the order of their clusters.",
    ),
    "image_small/layers": ("Heads by layer", "Entropy, Gini coefficient and locality of all heads on all signals."),
    "distributions/kinds": (
        "Kinds of series",
        "The same measures of several trainings on three kinds of series, and of random weights in grey.",
    ),
    "image_small/training": ("Training", "Losses, and errors beside forecasts that need no model."),
}

ELSEWHERE = {  # figure, by pattern, first found: title, what to see, what draws it
    "step_forecaster_*/*/alignment": (
        "Alignment",
        "Which moment of the history each step of the forecast reads through cross-attention, and how sharply.",
        "a model with a decoder, as in [studies/distributions.yaml](../studies/distributions.yaml)",
    ),
    "*/*/class_token": (
        "Class token",
        "Where the class token of an image model looks in the picture; these random weights look everywhere alike.",
        "an [image model with a class token](models.md)",
    ),
    "calibration/rates": (
        "False alarms",
        "How often the tests are wrong where nothing is there, and how often they find what is.",
        "the rule `calibration` ([how the tests were checked](calibration.md))",
    ),
    "calibration/knock_out": (
        "Knock-outs of periods that matter and of those that do not",
        "What cutting a period costs trained models, random weights, and series without a period.",
        "the rule `calibration` ([how the tests were checked](calibration.md))",
    ),
    "claims/claims": (
        "Claims",
        "The published experiments, asked of the models of this study.",
        "the rule `claims` ([what it asks](claims.md))",
    ),
}


def shrunk(path: Path) -> bytes:
    """Bytes of a picture, as wide and with as many colours as fit in `MOST`.

    Raises
    ------
    SystemExit
        The picture does not fit.
    """
    with Image.open(path) as picture:
        whole = picture.convert("RGB")
    for width, colours in SIZES:
        small = whole.resize((width, round(whole.height * width / whole.width)), Image.Resampling.LANCZOS)
        buffer = BytesIO()
        small.quantize(colours, dither=Image.Dither.NONE).save(buffer, "png", optimize=True)
        if buffer.tell() < MOST:
            return buffer.getvalue()
    sys.exit(f"{path}: {buffer.tell()} bytes when {width} pixels wide; the most is {MOST}")


def found(pattern: str, folders: Sequence[Path]) -> str | None:
    """First figure that fits the pattern, without its ending, and where it lies."""
    for folder in folders:
        for path in sorted((folder / "figures").glob(f"{pattern}.png")):
            return path.with_suffix("").as_posix()
    return None


def section(title: str, words: str, file: str, source: str) -> str:
    """One figure of the page."""
    return f"\n## {title}\n\n{words}\n\n![{title}: {words}](images/gallery/{file})\n\n{source}\n"


def main(folders: Sequence[Path] = (RESULTS,)) -> None:
    """Write the page and its pictures; name all figures of the default study that are missing first.

    A picture from elsewhere stays as it is when no folder has its figure.
    """
    missing = [name for name in SHOWN if not found(name, folders)]
    if missing:
        sys.exit(f"run `snakemake` first; not in {', '.join(map(str, folders))}: {', '.join(missing)}")
    PICTURES.mkdir(parents=True, exist_ok=True)
    text = HEAD
    for name, (title, words) in SHOWN.items():
        file = f"{name.replace('/', '-')}.png"
        write_bytes(shrunk(Path(f"{found(name, folders)}.png")), PICTURES / file)
        text += section(title, words, file, f"`results/figures/{name}`")
    for pattern, (title, words, needs) in ELSEWHERE.items():
        name = "-".join(part for part in pattern.split("/") if "*" not in part)
        file, path = f"{name}.png", found(pattern, folders)
        if path:
            write_bytes(shrunk(Path(f"{path}.png")), PICTURES / file)
        if (PICTURES / file).is_file():
            text += section(title, words, file, f"Drawn for {needs}.")
        else:
            print(f"{pattern}: in none of {', '.join(map(str, folders))}; left out", file=sys.stderr)
    PAGE.write_text(text, "utf-8")


if __name__ == "__main__":
    main([Path(folder) for folder in sys.argv[1:]] or (RESULTS,))
