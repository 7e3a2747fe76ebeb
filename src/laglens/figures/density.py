"""Attention against attribution, token by token: how many tokens get how much of either."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from laglens.attribution.agreement import forecasting_rows, pool
from laglens.figures.heatmap import draw_colour_bar
from laglens.figures.reading import require, stacks
from laglens.figures.style import (
    FAINT,
    INK,
    LABEL,
    MUTED,
    OVERLAY,
    SMALL,
    WIDTH,
    explain,
    look,
    page,
    place,
    write,
)
from laglens.figures.times import number

COUNTS = "cividis"
BINS = 28
PER_ROW = 4
TOP, LEFT, GAP, BELOW, LARGEST = 0.98, 0.66, 0.16, 0.62, 1.7  # inches
SPREAD = (0.5, 99.5)  # percentiles of either that the axes reach over
FEWEST = 20  # tokens of a column, for a median
BAR_LEFT = 5.5


@dataclass(frozen=True)
class Pairs:
    """What every token of every window got from every head, and from one attribution; 1 = the mean of the tokens.

    Attributes
    ----------
    attention, attribution
        ``(pair,)``; pairs without either are left out.
    spearman
        Rank correlation over tokens of every window and head, ``(row,)``.
    mismatched
        The same with windows that do not belong together, mean.
    """

    attention: np.ndarray
    attribution: np.ndarray
    spearman: np.ndarray
    mismatched: float


def draw_density(agreement: xr.DataTree, time_tree: xr.DataTree, *, title: str = "", subtitle: str = "") -> Figure:
    """Two-dimensional histogram of attention and attribution over all tokens, windows and heads, one per method.

    Parameters
    ----------
    agreement
        From `laglens.attribution.agreement.agree_with_attention`.
    time_tree
        The time tree it was made from.
    title, subtitle
        What was compared: signal and model.

    Raises
    ------
    LaglensError
        A tree lacks something.
    """
    if "no_agreement" in agreement.attrs or not agreement.children:
        reason = agreement.attrs.get("no_agreement", "the model has no stack that forecasts")
        with look():
            return explain(title, subtitle, f"Not compared: {reason}.")
    require(agreement, ("attribution",), "agreement tree")
    methods = [str(name) for name in agreement["attribution_method"].values]
    pairs = {method: pairs_of(agreement, time_tree, method) for method in methods}
    ends = _ends(list(pairs.values()))
    counts = {method: _histogram(found, ends) for method, found in pairs.items()}
    norm = LogNorm(1, max(2, *(int(count.max()) for count in counts.values())))
    windows = time_tree.sizes["sample"]
    note = _note(agreement, windows)
    with look():
        across = min(PER_ROW, len(methods))
        side = min(LARGEST, (WIDTH - LEFT - 0.2 - GAP * (across - 1)) / across)
        rows = -(-len(methods) // across)
        bottom = TOP + (side + BELOW) * rows
        figure = page(bottom - 0.04, note, title, subtitle, room=BAR_LEFT - 0.4)
        draw_colour_bar(figure, norm, BAR_LEFT, 0.28, WIDTH - 0.22 - BAR_LEFT, "tokens", COUNTS, cut=False)
        for index, (method, found) in enumerate(pairs.items()):
            row, column = divmod(index, across)
            left, top = LEFT + column * (side + GAP), TOP + row * (side + BELOW)
            write(figure, left, top - 0.2, method.replace("_", " "), room=side, fontsize=LABEL, fontweight="bold")
            write(figure, left, top - 0.06, _correlation(found), room=side, fontsize=SMALL, color=MUTED)
            axes = place(figure, left, top, side, side, label=f"density {method}")
            draw_counts(axes, counts[method], ends, norm)
            _draw_medians(axes, found, ends)
            axes.set_xlabel("attention / mean")
            if column == 0:
                axes.set_ylabel("|attribution| / mean")
            else:
                axes.tick_params(axis="y", labelleft=False)
    return figure


def pairs_of(agreement: xr.DataTree, time_tree: xr.DataTree, method: str) -> Pairs:
    """Attention and attribution of every history token, as `laglens.attribution.agreement` pairs them."""
    root = agreement.to_dataset(inherit=False)
    size = np.abs(root["attribution"].sel(attribution_method=method).transpose("sample", "time").values)
    attention, attribution, spearman, mismatched = [], [], [], []
    nodes = stacks(time_tree, "attention", "time tree")
    for name, agreed in stacks(agreement, "spearman", "agreement tree").items():
        node = nodes[name]
        chosen = forecasting_rows(node, root)
        if chosen is None:
            continue
        rows, keys = chosen
        weights = node["attention"].transpose("sample", "layer", "head", "query", "key").values
        looked = weights[..., rows, :][..., keys].mean(-2, dtype=np.float64)
        used = pool(size, node["key_start"].values[keys], node["key_end"].values[keys])[:, None, None]
        attention.append(np.ravel(_over_mean(looked)))
        attribution.append(np.ravel(np.broadcast_to(_over_mean(used), looked.shape)))
        of_method = agreed.sel(attribution_method=method)
        spearman.append(np.ravel(of_method["spearman"].values))
        mismatched.append(np.ravel(of_method["mismatched"].values))
    x, y, r, null = (np.concatenate(values) for values in (attention, attribution, spearman, mismatched))
    known = np.isfinite(x) & np.isfinite(y) & (x > 0) & (y > 0)
    null = null[np.isfinite(null)]
    return Pairs(x[known], y[known], r[np.isfinite(r)], float(null.mean()) if len(null) else np.nan)


def _over_mean(values: np.ndarray) -> np.ndarray:
    mean = values.mean(-1, keepdims=True)
    return np.divide(values, mean, out=np.full_like(values, np.nan), where=mean > 0)


def _ends(pairs: list[Pairs]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Ends of the axes that all methods share, powers of ten of attention and of attribution."""
    found = []
    for name in ("attention", "attribution"):
        values = np.concatenate([getattr(one, name) for one in pairs])
        low, high = np.log10(np.percentile(values, SPREAD)) if len(values) else (-1.0, 1.0)
        found.append((float(min(low, -0.5)), float(max(high, 0.5))))
    return found[0], found[1]


def _histogram(found: Pairs, ends: tuple[tuple[float, float], tuple[float, float]]) -> np.ndarray:
    """Counts, ``(attribution, attention)``; what lies beyond the ends is counted in the outermost cells."""
    x, y = (
        np.clip(np.log10(values), low, high)
        for values, (low, high) in zip((found.attention, found.attribution), ends, strict=True)
    )
    return np.asarray(np.histogram2d(y, x, BINS, (ends[1], ends[0]))[0])


def draw_counts(
    axes: Axes, counts: np.ndarray, ends: tuple[tuple[float, float], tuple[float, float]], norm: LogNorm
) -> None:
    """Counts ``(attribution, attention)`` as colour on axes of powers of ten; empty cells stay white."""
    extent = (*ends[0], *ends[1])
    shown = np.ma.masked_equal(counts, 0)
    axes.imshow(shown, norm=norm, cmap=COUNTS, extent=extent, origin="lower", aspect="auto")
    axes.set(xlim=ends[0], ylim=ends[1])
    for axis, (low, high) in zip((axes.xaxis, axes.yaxis), ends, strict=True):
        whole = np.arange(np.ceil(low), np.floor(high) + 1)
        axis.set_major_locator(FixedLocator(list(whole[:: -(-len(whole) // 4)])))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda power, _: _ten_to_the(int(power))))
    for line in (axes.axvline, axes.axhline):
        line(0, color=FAINT, linewidth=0.5, zorder=3)


def _ten_to_the(power: int) -> str:
    """A power of ten; as a number where that is short."""
    if abs(power) <= 1:
        return number(10.0**power)
    return "10" + str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _draw_medians(axes: Axes, found: Pairs, ends: tuple[tuple[float, float], tuple[float, float]]) -> None:
    """Median attribution of the tokens that get about as much attention."""
    (low, high), _ = ends
    edges = np.linspace(low, high, BINS // 2 + 1)
    at = np.digitize(np.log10(found.attention), edges) - 1
    x, y = np.log10(found.attention), np.log10(found.attribution)
    columns = [i for i in range(len(edges) - 1) if np.count_nonzero(at == i) >= FEWEST]
    middle = [float(np.median(x[at == i])) for i in columns], [float(np.median(y[at == i])) for i in columns]
    axes.plot(*middle, color=INK, linewidth=2.2, zorder=4)
    axes.plot(*middle, color=OVERLAY, linewidth=1.1, zorder=5, gid="median")


def _correlation(found: Pairs) -> str:
    if not len(found.spearman):
        return "constant"
    low, high = np.percentile(found.spearman, [25, 75])
    mean, low, high, null = (number(round(float(x), 2)) for x in (found.spearman.mean(), low, high, found.mismatched))
    return f"r {mean} [{low}, {high}], null {null}"


def _note(agreement: xr.DataTree, windows: int) -> str:
    attrs: dict[Any, Any] = agreement.attrs
    step = "the mean of the horizon" if attrs.get("step", "mean") == "mean" else f"forecast sample {attrs['step']}"
    return (
        f"Every history token of {windows} windows and all heads: the attention of the queries that forecast, and the "
        f"absolute attribution of {step}, each over its mean over the tokens of the window; colour counts tokens, both "
        "axes are logarithmic. Line: median attribution of tokens with about the same attention; level, where "
        "attention tells nothing. r: rank correlation within windows and heads, mean and middle half; null: the mean "
        "with the attribution of other windows."
    )
