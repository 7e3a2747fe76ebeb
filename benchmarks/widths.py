"""How wide a knock-out should be: ``python -m benchmarks.widths [SERIES] [WEIGHTS ...]``.

Waves with overtones of 40 to 100 samples, other ones than `snakemake calibration` has: the width is chosen on these.
Column `apart`: against controls that keep clear of the comb also where a quarter of a period is less than twice the
width. Without weights the shipped models. CPU, one thread; half a minute to two for each model.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from benchmarks.measure import keep, show, show_machine
from benchmarks.trained import count_and_files, trained_models, windows_of
from laglens.attribution.cuts import Cut, comb, matched_cuts
from laglens.attribution.knock_out import knock_out, token_step
from laglens.calibration.knock_outs import SHORTEST
from laglens.calibration.series import drawn, wave_series

SEED = 0
WIDTHS = (0.25, 0.5, 0.75, 1.0)


def controls_apart(periods: np.ndarray, longest: float, step: float, width: float, sign: int) -> Cut:
    """A control a quarter of a period away, or as much farther as it needs to share no pair with the comb."""
    shifts = sign * np.clip(2 * width * step / periods, 0.25, 0.5)
    lags = (comb([period], longest, shift)[0] for period, shift in zip(periods, shifts, strict=True))
    return Cut(f"apart {sign:+}", tuple(lags))


def main(n: int = 100, files: list[str] | None = None) -> None:
    """Cut with every width in every model, print and keep."""
    torch.set_num_threads(1)
    rows, kept = [], {}
    for name, model in trained_models(files or []):
        length, step = model.history + model.horizon, token_step(model)
        series, periods = wave_series("harmonic", n, length, drawn(SEED, "harmonic", "widths"), shortest=SHORTEST)
        cuts = matched_cuts(periods[:, 0].tolist(), model.history, step, drawn(SEED, "harmonic", "random lags"))
        combs = [cut for cut in cuts if cut.name.startswith("comb")]
        for width in WIDTHS:
            apart = [controls_apart(periods[:, 0], model.history, step, width, sign) for sign in (-1, 1)]
            effects = knock_out(model, windows_of(series), [*combs, *apart], half_width=width)
            change, error = effects["error_change"], float(effects["error"].mean())
            whole, controls = change[0], change[1 : len(combs)]
            # The first control, half a period away, never shares a pair with the comb.
            others = change[[1, *range(len(combs), len(change))]]
            by_control = {cut.name: float(x) for cut, x in zip(combs[1:], controls.mean("sample"), strict=True)}
            found = {
                "effect": float(whole.mean()),
                "ratio": float(whole.mean() / controls.mean()),
                "ratio_apart": float(whole.mean() / others.mean()),
                "share": float(whole.mean()) / error,
                "win": float((whole > controls.mean("cut")).mean()),
            }
            each = ", ".join(f"{value:.3f}" for value in by_control.values())
            ratios = found["ratio"], found["ratio_apart"]
            rows.append((f"{name} {width:g}", found["effect"], each, *ratios, found["share"], found["win"]))
            kept[f"{name} {width:g}"] = found | {"controls": by_control, "series": n}
    show(
        f"Knock-out of all kP on {n} waves, half-widths in tokens; standard deviations of the history",
        ["", "effect", "each control", "effect / controls", "apart", "share of the error", "win"],
        rows,
    )
    keep("widths", kept)


if __name__ == "__main__":
    show_machine()
    main(*count_and_files(sys.argv[1:], 100))
