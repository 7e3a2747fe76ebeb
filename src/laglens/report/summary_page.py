"""The summary as a page to read and to print."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

import numpy as np
import pandas as pd

from laglens.report.summary import FOLLOW, NEED, SHOW

STYLE = """
:root { color-scheme: light dark; }
body { font: 14px/1.5 "DejaVu Sans", Verdana, system-ui, sans-serif; margin: 2rem auto; padding: 0 1rem; }
body { max-width: 68rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .3rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid #8885; }
th { font-weight: normal; opacity: .75; } td.number { white-space: nowrap; }
.supported { font-weight: bold; } .supported::before { content: "● "; }
.not-supported::before { content: "○ "; } .not-testable::before { content: "– "; }
.why { opacity: .8; }
"""
MEANING = {
    FOLLOW: (
        "Supported: at least one head attends at the multiples of the period more than on noise with the same memory "
        "(over all heads and periods at once), follows other periods too when they are put in, and does so more than "
        "any head with random weights. The number counts these heads; the head named is the strongest."
    ),
    NEED: (
        "Supported: cutting the attention at the multiples of the period costs the forecast more than cutting as many "
        "other lags, and enough to matter. The number is that difference, with its bootstrap interval over windows, in "
        "standard deviations of the history."
    ),
    SHOW: (
        "Supported: at least one series of the panel shows a lag that noise with the memory of that series does not, "
        "with false discoveries among all its series kept rare. The number counts these series; the lag named is the "
        "one that most of them show. Every series has a row in results/lags/MODEL/SIGNAL.series.csv."
    ),
}


def summary_page(table: pd.DataFrame) -> str:
    """The rows of `laglens.report.summary.summary_table` as HTML that stands alone, a table for every model."""
    body = "".join(_section(str(model), rows) for model, rows in table.groupby("model", sort=False))
    asked = {name: text for name, text in MEANING.items() if name in set(table["question"])}
    meaning = "".join(f"<dt>{escape(name.capitalize())}</dt><dd>{escape(text)}</dd>" for name, text in asked.items())
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>laglens: summary</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        "<h1>What was asked, and the answers</h1>\n"
        f"{body}<h2>What the words mean</h2>\n<dl>{meaning}</dl>\n"
        "<p>Not testable: the tokens are too coarse for the period, or too few of its multiples lie within the lags. "
        "All columns: summary.csv. The evidence, head by head: explorer.html.</p>\n</body>\n</html>\n"
    )


def _section(model: str, rows: pd.DataFrame) -> str:
    head = "".join(
        f'<th scope="col">{name}</th>' for name in ("signal", "question", "verdict", "number", "head", "why not")
    )
    lines = "\n".join(f"<tr>{cells}</tr>" for cells in _lines(rows))
    return (
        f'<h2>{escape(model)}</h2>\n<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}\n'
        "</tbody></table></div>\n"
    )


def _lines(rows: pd.DataFrame) -> Iterator[str]:
    before = None
    for row in rows.to_dict("records"):
        signal = "" if row["signal"] == before else escape(row["signal"])
        before = row["signal"]
        verdict = row["verdict"]
        yield (
            f"<td>{signal}</td><td>{escape(question(row))}</td>"
            f'<td class="{verdict.replace(" ", "-")}">{verdict}</td><td class="number">{escape(answer(row))}</td>'
            f'<td>{escape(_text(row["head"]))}</td><td class="why">{escape(_text(row["reason"]))}</td>'
        )


def question(row: dict) -> str:
    """A question in words, with the period in the unit of the signal."""
    if np.isfinite(row["period_time"]):
        period = f"{row['period_time']:.4g} {row['time_unit']}"
        if row["question"] == SHOW:
            return f"{SHOW}, most often {period}"
        found = " (found in the input)" if row["period_of"] == "input" else ""
        return f"{'heads follow' if row['question'] == FOLLOW else 'the forecast needs'} {period}{found}"
    return "heads follow any period of a grid" if row["period_of"] == "grid" else row["question"]


def answer(row: dict) -> str:
    """The number of a verdict, with its interval where it has one."""
    if not np.isfinite(row["number"]):
        return ""
    if row["question"] in (FOLLOW, SHOW):
        p = f", p = {row['p']:.2g}" if np.isfinite(row["p"]) else ""
        return f"{row['number']:.0f} {row['unit']}{p}"
    return f"{row['number']:+.2g} sd [{row['lower']:.2g}, {row['upper']:.2g}]".replace("-", "\N{MINUS SIGN}")


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
