"""Write docs/distributions.md and its figure from results: ``python docs/distributions.py six_kinds``."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from laglens.heads.distributions import MEASURES, TRAINED, UNTRAINED

ROOT = Path(__file__).parents[1]
PAGE, PICTURE = ROOT / "docs/distributions.md", ROOT / "docs/images/distributions.png"
RESULTS = Path("results/distributions")
INTRODUCTION = """\
Made by `docs/distributions.py` from `results/distributions/{name}*.csv`; [heads](heads.md#kinds-of-series) says what
the measures are. Intervals are Student's over seeds: they hold for these series and other trainings."""
SPREAD = """\
One-way analysis of variance: do series differ more than trainings of one series? p is not corrected for the number of
measures."""
COLOURS = {TRAINED: "#1f6f8b", UNTRAINED: "#9a9a9a"}


def draw(values: pd.DataFrame, answers: pd.DataFrame) -> Figure:
    """Every training as a dot, and every effect with its interval."""
    figure = Figure(
        figsize=(9, 0.34 * len(values["signal"].unique()) + 0.3 * len(answers) / 2 + 1.2), layout="constrained"
    )
    left, right = figure.subplots(1, 2)
    _draw_values(left, values)
    _draw_answers(right, answers)
    return figure


def page(name: str, values: pd.DataFrame, answers: pd.DataFrame, spread: pd.DataFrame) -> str:
    """The page, in Markdown."""
    trained = values[values["group"] == TRAINED]
    plateau = f"{int(trained['plateau'].sum())} of {len(trained)}"
    parts = [
        ["# Kinds of series", INTRODUCTION.format(name=name)],
        ["![Each training as a dot, and each effect with its interval](images/distributions.png)"],
        [
            "## Answers",
            _table(["question", "group", "effect", "95 %", "in seed sd", "seeds", "answer"], _answers(answers)),
        ],
        ["## Series against seeds", SPREAD, _table(["measure", "group", "F", "p"], _spread(spread))],
        ["## Convergence", f"{plateau} trainings stopped before the most epochs allowed. By series, for each seed:"],
        [_table(["series", "best epoch", "validation loss", "skill"], _convergence(trained))],
    ]
    return "\n\n".join(block for part in parts for block in part) + "\n"


def _answers(answers: pd.DataFrame) -> list[list[str]]:
    return [
        [
            row["text"],
            row["group"],
            f"{row['effect']:.3f}",
            "-" if np.isnan(row["low"]) else f"{row['low']:.3f} to {row['high']:.3f}",
            "-" if np.isnan(row["in_seed_sd"]) else f"{row['in_seed_sd']:.1f}",
            str(row["n_seeds"]),
            row["answer"],
        ]
        for row in answers.to_dict("records")
    ]


def _spread(spread: pd.DataFrame) -> list[list[str]]:
    return [
        [MEASURES[row["measure"]], row["group"], f"{row['f']:.1f}", f"{row['p']:.2g}"]
        for row in spread.to_dict("records")
    ]


def _convergence(trained: pd.DataFrame) -> list[list[str]]:
    rows = []
    for signal, ours in trained.groupby("signal", sort=False):
        columns = [
            ", ".join(f"{value:.3g}" for value in ours[key]) for key in ("best_epoch", "validation_loss", "skill")
        ]
        rows.append([f"`{signal}`", *columns])
    return rows


def _table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *rows])


def _draw_values(axes: Axes, values: pd.DataFrame) -> None:
    names = list(dict.fromkeys(values["signal"]))
    for group, ours in values.groupby("group", sort=False):
        places = [names.index(name) + (0.15 if group == UNTRAINED else -0.15) for name in ours["signal"]]
        axes.plot(ours["gini_first"], places, "o", color=COLOURS[str(group)], label=group, markersize=5)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel(f"{MEASURES['gini_first']}; one dot: one training")
    axes.legend(frameon=False)


def _draw_answers(axes: Axes, answers: pd.DataFrame) -> None:
    trained = answers[answers["group"] == TRAINED].set_index("question")["seed_sd"]  # the yardstick of both groups
    for i, row in enumerate(answers.to_dict("records")):
        scale = trained.get(row["question"], 0.0) or np.nan
        axes.plot(row["effect"] / scale, i, "o", color=COLOURS[row["group"]], markersize=5)
        axes.plot([row["low"] / scale, row["high"] / scale], [i, i], color=COLOURS[row["group"]], linewidth=1.5)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(answers)), [f"{row['question']} ({row['group']})" for row in answers.to_dict("records")])
    axes.invert_yaxis()
    axes.set_xlabel("effect / sd between trained seeds")


def main(name: str) -> None:
    """Write the page and its figure."""
    matplotlib.use("Agg")
    tables = [pd.read_csv(RESULTS / f"{name}{suffix}.csv") for suffix in ("", ".answers", ".spread")]
    PICTURE.parent.mkdir(exist_ok=True)
    draw(*tables[:2]).savefig(PICTURE, dpi=150, metadata={"Software": None})
    PAGE.write_text(page(name, *tables))


if __name__ == "__main__":
    main(sys.argv[1])
