"""Training curves of a model, and its held-out errors beside naive forecasts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from laglens.errors import LaglensError
from laglens.figures.settings import FigureSettings
from laglens.figures.style import (
    ACCENT,
    CATEGORIES,
    FAINT,
    MUTED,
    SECOND,
    SMALL,
    WIDTH,
    fit,
    look,
    page,
    place,
    text_width,
)
from laglens.figures.times import number

STEPS = ("step", "epoch")
ERRORS = "held_out_errors"
COUNT = "n_series"  # in the errors of a card: how many series of each kind
MODEL = "model"
MARKERS = "sD^vP"
ENTROPY = "_entropy"  # ends the names of the columns of attention
TOP, HEIGHT = 0.78, 2.3  # inches of the panels
BELOW, GAP, ROW = 1.3, 0.18, 0.15  # inches of the panel of attention, above it, and of a row of its legend
COLUMNS = 4  # of that legend
DARK = tuple(colour for colour in CATEGORIES if colour != "#F0E442")  # its yellow is too light for a line
WIDE = 50.0  # ratio of last to first step from which the step axis is logarithmic


def draw_training(
    curve: pd.DataFrame,
    card: Mapping[str, Any],
    settings: Mapping[str, Any] | FigureSettings | None = None,
    *,
    title: str = "",
    subtitle: str = "",
) -> Figure:
    """Losses and attention against steps or epochs with the chosen epoch marked, beside the errors of the card.

    Parameters
    ----------
    curve
        A column ``step`` or ``epoch``; columns that end in ``loss`` are drawn, and below them those that end in
        ``_entropy``, such as ``encoder_L00_entropy``, where there are any.
    card
        Model card: ``training.best_epoch`` is marked, ``held_out_errors`` (by forecast, or by forecast and kind
        of series) is drawn; both may be absent.
    settings
        The ``figures`` section of the config.
    title, subtitle
        What was drawn.

    Raises
    ------
    LaglensError
        The table has no step column, no loss, or no row.
    """
    FigureSettings.parse(settings)
    step, losses = _columns(curve)
    errors = error_table(card)
    layers = [str(name) for name in curve.columns if str(name).endswith(ENTROPY)]
    note = _note(curve, card, step, errors, layers)
    best = card.get("training", {}).get("best_epoch")
    with look():
        gap = GAP + ROW * -(-len(layers) // COLUMNS)
        figure = page(TOP + HEIGHT + (gap + BELOW if layers else 0) + 0.62, note, title, subtitle)
        right = 3.0 if len(errors) else 0.2
        axes = place(figure, 0.66, TOP, WIDTH - 0.66 - right, HEIGHT)
        _draw_losses(axes, curve, step, losses, best)
        if layers:
            axes.set_xlabel("")
            axes.tick_params(labelbottom=False)
            below = place(figure, 0.66, TOP + HEIGHT + gap, WIDTH - 0.66 - right, BELOW, label="attention", sharex=axes)
            _draw_entropies(below, curve, step, layers, best)
        if len(errors):
            names = errors.columns if len(errors) == 1 else errors.index
            labels = max(text_width(*_row_name(name)) for name in names)
            left = WIDTH - right + 0.35 + labels
            _draw_errors(place(figure, left, TOP, WIDTH - 0.2 - left, HEIGHT), errors)
    return figure


def error_table(card: Mapping[str, Any]) -> pd.DataFrame:
    """Mean absolute errors of a card, rows by kind of series, columns by forecast; empty where it has none."""
    errors = card.get(ERRORS, {})
    columns = {
        name: pd.Series(value if isinstance(value, Mapping) else {"validation windows": value})
        for name, value in errors.items()
        if name != COUNT
    }
    order = sorted(columns, key=lambda name: name != MODEL)
    return pd.DataFrame(columns)[order].astype(float) if columns else pd.DataFrame()


def _columns(curve: pd.DataFrame) -> tuple[str, list[str]]:
    step = next((name for name in STEPS if name in curve), None)
    if step is None:
        raise LaglensError(f"the training curve has no column {' or '.join(STEPS)}; it has {', '.join(curve.columns)}")
    losses = [str(name) for name in curve.columns if str(name).endswith("loss")]
    if not losses or curve.empty:
        raise LaglensError("the training curve holds no loss; train the model again")
    return step, losses


def _draw_losses(axes: Axes, curve: pd.DataFrame, step: str, losses: list[str], best: int | None) -> None:
    at = curve[step].to_numpy(float)
    if at[-1] / at[0] >= WIDE:
        axes.set_xscale("log")
    values = curve[losses].to_numpy(float)
    if np.nanmin(values) > 0 and np.nanmax(values) / np.nanmin(values) > 3:
        axes.set_yscale("log")
    for name, colour, style in zip(losses, (ACCENT, SECOND, *CATEGORIES), ("-", (0, (5, 1.5)), *"-" * 8), strict=False):
        axes.plot(at, curve[name], color=colour, linestyle=style, label=name.removesuffix("_loss").replace("_", " "))
    if best is not None:
        chosen = "validation_loss" if "validation_loss" in losses else losses[0]
        height = float(curve.loc[curve[step] == best, chosen].iloc[0])
        axes.axvline(best, color=MUTED, linewidth=0.6, linestyle=(0, (1, 2)))
        axes.plot(best, height, "o", color=SECOND, markersize=4.5, label=f"kept: {step} {best}", linestyle="none")
    if len(losses) > 1 or best is not None:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, borderaxespad=0.1, **LEGEND)
    _tick(axes, at, values)
    axes.set_xlabel(step)
    axes.set_ylabel("loss")


def _draw_entropies(axes: Axes, curve: pd.DataFrame, step: str, layers: list[str], best: int | None) -> None:
    """One line to a layer; layers of one stack share a line style, those of one depth a colour."""
    stacks = list(dict.fromkeys(name.rpartition("_L")[0] for name in layers))
    styles = ("-", (0, (5, 1.5)), (0, (1, 1)))
    for name in layers:
        stack, _, depth = name.removesuffix(ENTROPY).rpartition("_L")
        style, colour = styles[stacks.index(stack) % len(styles)], DARK[int(depth) % len(DARK)]
        axes.plot(curve[step], curve[name], color=colour, linestyle=style, label=f"{stack} L{depth}", gid="entropy")
    if best is not None:
        axes.axvline(best, color=MUTED, linewidth=0.6, linestyle=(0, (1, 2)))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=COLUMNS, frameon=False, borderaxespad=0.1, **LEGEND)
    axes.set_ylim(0, 1.05)
    axes.yaxis.set_major_locator(FixedLocator([0, 0.5, 1]))
    axes.set_xlabel(step)
    axes.set_ylabel("entropy of attention")


LEGEND: dict[str, Any] = {"fontsize": SMALL, "handlelength": 2.0, "columnspacing": 1.2, "handletextpad": 0.5}


def _tick(axes: Axes, at: np.ndarray, values: np.ndarray) -> None:
    for axis, data in ((axes.xaxis, at), (axes.yaxis, values)):
        if axis.get_scale() == "log":
            axis.set_major_locator(FixedLocator(_round_steps(float(np.nanmin(data)), float(np.nanmax(data)))))
            axis.set_minor_locator(NullLocator())
        else:
            axis.set_major_locator(MaxNLocator(6, integer=axis is axes.xaxis))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1e3 else number(value)))


def _round_steps(low: float, high: float) -> list[float]:
    """1, 2, 5 times powers of ten between two ends; powers alone beyond two decades."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    digits = (1, 2, 5) if high / low < 100 else (1,)
    return [digit * 10.0**decade for decade in decades for digit in digits]


def _draw_errors(axes: Axes, errors: pd.DataFrame) -> None:
    """Dots by kind of series, one marker per forecast; a single kind becomes one named row per forecast."""
    single = len(errors) == 1
    rows = [_row_name(name)[0] for name in (errors.columns if single else errors.index)]
    for index, name in enumerate(errors.columns):
        at = index if single else np.arange(len(errors))
        axes.plot(errors[name], at, linestyle="none", label=_plain(name), **_marker(index, name == MODEL))
    longest = errors.iloc[0] if single else errors.max(axis=1)
    axes.hlines(np.arange(len(rows)), 0, longest, color=FAINT, linewidth=0.6, zorder=0)
    axes.set_xlim(0, float(np.nanmax(errors.to_numpy())) * 1.06)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axes.yaxis.set_major_locator(FixedLocator(range(len(rows))))
    axes.set_yticklabels(rows, fontsize=SMALL)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("mean absolute error (sd)", loc="right")
    if not single:
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, borderaxespad=0.1, **LEGEND)


def _marker(index: int, model: bool) -> dict[str, Any]:
    if model:
        return {
            "marker": "o",
            "color": ACCENT,
            "markersize": 7,
            "markeredgewidth": 1.8,
            "fillstyle": "none",
            "zorder": 3,
        }
    return {"marker": MARKERS[(index - 1) % len(MARKERS)], "color": FAINT, "markersize": 5, "markeredgecolor": MUTED}


def _row_name(name: object) -> tuple[str, float]:
    """Name of a row of errors, cut where it would leave no room for them, and its size."""
    return fit(_plain(name), 1.2, SMALL)[0], SMALL


def _plain(name: object) -> str:
    return str(name).replace("_", " ")


def _note(curve: pd.DataFrame, card: Mapping[str, Any], step: str, errors: pd.DataFrame, layers: list[str]) -> str:
    size = f"{card['parameters']:,} parameters; " if "parameters" in card else ""
    count = card.get(ERRORS, {}).get(COUNT)
    series = f"{count} series of each kind" if count else "data"
    held_out = (
        f"Right: error over the horizon on {series} the model was not trained on, in standard deviations of the "
        "history, beside forecasts that need no model."
    )
    attention = (
        "Entropy: of the attention of each layer on a few windows it was not trained on, as a share of that of "
        "attention to all keys alike; without a null."
    )
    said = [attention] * bool(layers) + [held_out] * bool(len(errors))
    return " ".join([f"{size}{len(curve)} points to {step} {int(curve[step].iloc[-1]):,}.", *said])
