"""Write the results in docs/calibration.md and docs/claims.md from those of a study: ``python docs/calibration.py``.

    snakemake calibration claims --cores 2 --configfile studies/calibration.yaml
    python docs/calibration.py

Goals that were not reached are bold.
"""

from __future__ import annotations

import operator
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tables import END, table, updated

ROOT = Path(__file__).parents[1]
RESULTS = Path("results")
PICTURES = {
    "calibration/rates": "calibration_rates",
    "calibration/knock_out": "calibration_knock_out",
    "claims/claims": "claims",
}
BEGIN = "<!-- made by docs/calibration.py from {part} -->"
ABOVE, BELOW, WITHIN = operator.ge, operator.le, lambda value, goal: abs(value) <= goal


class Line(NamedTuple):
    """A row of a table: what it is called, where it is in the summary, and what is asked of it."""

    label: str
    quantity: str
    kind: str
    heads: str = "all"
    weights: str = "trained"
    goal: float | None = None
    reached: Callable[[float, float], bool] = ABOVE
    percent: bool = False


KNOCK_OUTS = [
    Line("effect of the comb", "comb effect", "harmonic"),
    Line("share of the error", "comb share of the error", "harmonic", goal=1.2, percent=True),
    Line("controls", "comb controls", "harmonic"),
    Line("effect / controls", "comb effect / controls", "harmonic", goal=10),
    Line("win", "comb win", "harmonic", goal=0.95),
    Line("effect - controls", "comb effect - controls", "harmonic"),
    Line("effect on AR(1) noise, coefficient .9", "comb effect", "ar1_0.9", goal=0.02, reached=WITHIN),
    Line("effect, random weights", "comb effect", "harmonic", weights="random", goal=0.02, reached=WITHIN),
    Line("highest causal lag in kP (chance)", "causal curve in kP", "harmonic", goal=0.95),
    Line("the same, random weights", "causal curve in kP", "harmonic", weights="random"),
]
KINDS = {"sine": "sine", "harmonic": "overtones", "two_periods": "two periods"}
ASKED = {"sine": 0.95, "harmonic": 0.95, "two_periods": 0.9}
# Label behind the name of the kind, quantity, heads, weights.
OF_WAVES = [
    ("one head", "detected in kP", "at_multiple", "trained"),
    ("all heads that follow", "detected in kP", "following", "trained"),
    ("random weights, heads that follow", "detected in kP", "following", "random"),
    ("random weights, all heads", "detected in kP", "all", "random"),
    ("strongest lag at P itself, one head", "top lag at P", "at_period", "trained"),
    ("period error, one head [samples]", "period error", "at_multiple", "trained"),
    ("the same, divided by the multiple found", "period error, folded", "at_multiple", "trained"),
]


def detections() -> Iterator[Line]:
    """A line for every kind of wave in every reading."""
    for label, quantity, heads, weights in OF_WAVES:
        for kind, name in KINDS.items():
            line = Line(f"{name}, {label}", quantity, kind, heads, weights)
            if (heads, weights) == ("at_multiple", "trained") and quantity == "detected in kP":
                line = line._replace(goal=ASKED[kind])
            elif (heads, weights) == ("following", "random"):
                line = line._replace(goal=0.05, reached=BELOW)
            yield line


def false_alarms(summary: pd.DataFrame) -> list[Line]:
    """A line for each kind of noise, and for random weights over all of them."""
    kinds = summary.loc[summary["quantity"] == "false alarms", "kind"].drop_duplicates()
    names = {kind: kind.replace("ar1_0", "AR(1) ").replace("_", " ") for kind in kinds}
    lines = [Line(name, "false alarms", kind, "following", goal=0.05, reached=BELOW) for kind, name in names.items()]
    every = Line("every noise, random weights, all heads", "false alarms", "every noise", "all", "random")
    return [*lines, every._replace(goal=0.05, reached=BELOW)]


def number(value: float, *, percent: bool = False) -> str:
    """As docs write numbers: .95, 12.3, 510 %."""
    if percent:
        return f"{100 * value:.0f} %"
    text = f"{value:.2f}" if abs(value) < 9.995 else f"{value:.3g}"
    return "0" if text in ("0.00", "-0.00") else text.replace("0.", ".", 1) if abs(value) < 1 else text


def cell(found: pd.DataFrame, line: Line) -> str:
    """Value, interval and chance; bold where a goal is missed, a limit by all of the interval."""
    if found.empty:
        return "-"
    row = found.iloc[0]
    value, lower, upper = (number(row[name], percent=line.percent) for name in ("value", "lower", "upper"))
    judged = row["lower"] if line.reached is BELOW else row["value"]
    if line.goal is not None and not line.reached(judged, line.goal):
        value = f"**{value}**"
    chance = f" ({number(row['chance'])})" if np.isfinite(row["chance"]) else ""
    return f"{value} [{lower.removesuffix(' %')}, {upper.removesuffix(' %')}]{chance}"


def result_table(summary: pd.DataFrame, lines: Sequence[Line]) -> str:
    """One column per model, one row per line that the summary has."""
    models = list(dict.fromkeys(summary["model"]))
    rows = []
    for line in lines:
        chosen = summary[
            (summary["quantity"] == line.quantity)
            & (summary["kind"] == line.kind)
            & (summary["heads"] == line.heads)
            & (summary["weights"] == line.weights)
        ]
        if len(chosen):
            asked = "" if line.goal is None else number(line.goal, percent=line.percent)
            rows.append([line.label, *(cell(chosen[chosen["model"] == model], line) for model in models), asked])
    return table(["", *(f"`{model}`" for model in models), "asked"], rows)


def counted(summary: pd.DataFrame, quantity: str, kind: str, weights: str = "trained") -> int:
    """Series behind a line."""
    rows = summary[(summary["quantity"] == quantity) & (summary["kind"] == kind) & (summary["weights"] == weights)]
    return int(rows["n"].max())


def calibration(summary: pd.DataFrame) -> str:
    """Everything between the marks of docs/calibration.md."""
    n, n_random = counted(summary, "detected", "sine"), counted(summary, "detected", "sine", "random")
    quiet, quiet_random = (counted(summary, "false alarms", "white", weights) for weights in ("trained", "random"))
    waves = counted(summary, "comb effect", "harmonic")
    parts = [
        BEGIN.format(part="calibration/summary.csv"),
        f"""### Knock-outs

{waves} waves with overtones of 40 to 100 samples; effects in standard deviations of the history.
""",
        result_table(summary, KNOCK_OUTS),
        f"""![Effect of cutting the period, its controls, noise and random weights](images/calibration_knock_out.png)

### Detections

Share of waves that are significant at 5 % with their strongest lag in kP; {n} waves of each kind, of 24 to 100 samples,
{n_random} with random weights. Chance in brackets.
""",
        result_table(summary, [*detections()]),
        f"""### False alarms

Share of series without a period that are significant at 5 %: {quiet} of each kind over the heads that follow periods,
{quiet_random} with random weights. Bold: all of the interval lies above 5 %.
""",
        result_table(summary, false_alarms(summary)),
        "![How often the period test is wrong, and right](images/calibration_rates.png)\n",
        END,
    ]
    return "\n".join(parts)


def answers(claims: pd.DataFrame) -> Iterator[list[str]]:
    """One line per question that is not about pairs: what every model answers."""
    models = list(dict.fromkeys(claims["model"]))
    asked = claims[claims["question"] != "pairs"]
    for (question, signal, at), rows in asked.groupby(["question", "signal", "at"], sort=False):
        cells = []
        for model in models:
            row = rows[rows["model"] == model]
            cells.append(_answer(row.iloc[0]) if len(row) else "-")
        yield [str(question), f"`{signal}`", str(at), *cells]


def _answer(row: pd.Series) -> str:
    if row["answer"] == "not testable":
        return "not testable"
    if row["question"] == "used":
        return f"{row['answer']}: {number(row['value'])} ({number(row['limit'])})"
    return f"{row['answer']}: {row['heads']:.0f} of {row['of']:.0f}"


def pairs(claims: pd.DataFrame) -> Iterator[list[str]]:
    """One line per model and head: what it shows at both periods, by what was removed."""
    asked = claims[claims["question"] == "pairs"]
    # One head is often chosen for both reasons.
    asked = asked.assign(head=asked["head"].str.rpartition(": ")[2]).drop_duplicates(["model", "head", "signal", "at"])
    for (model, head), rows in asked.groupby(["model", "head"], sort=False):
        shown = {
            removed: " , ".join(number(value) for value in group.sort_values("at")["value"]).replace(" ,", ",")
            for removed, group in rows.groupby("signal", sort=False)
        }
        yield [f"`{model}`, {head}", *shown.values()]


def claimed(claims: pd.DataFrame) -> str:
    """Everything between the marks of docs/claims.md."""
    models = list(dict.fromkeys(claims["model"]))
    removed = list(dict.fromkeys(claims.loc[claims["question"] == "pairs", "signal"]))
    parts = [
        BEGIN.format(part="claims/summary.csv"),
        "Heads that pass, of all; for `used`, what cutting the comb costs (its controls), in sd of the history.\n",
        table(["question", "signal", "at", *(f"`{model}`" for model in models)], answers(claims)),
        "Share of pairs in which the head shows a, b:\n",
        table(["model, head", *removed], pairs(claims)),
        "![Peaks at multiples of 62.8 with and without the longest wave, and unrelated periods](images/claims.png)\n",
        END,
    ]
    return "\n".join(parts)


if __name__ == "__main__":
    for part, write in {"calibration": calibration, "claims": claimed}.items():
        results = RESULTS / part / "summary.csv"
        page = ROOT / f"docs/{part}.md"
        text = updated(page.read_text("utf-8"), write(pd.read_csv(results)), BEGIN.format(part=f"{part}/summary.csv"))
        page.write_text(text, "utf-8")
    for name, picture in PICTURES.items():
        shutil.copyfile(RESULTS / "figures" / f"{name}.png", ROOT / "docs/images" / f"{picture}.png")
