"""Write the table of shipped models in docs/models.md from their cards: ``make docs``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from laglens.store import read_card

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/models.md"
WEIGHTS = ROOT / "src/laglens/weights"
BEGIN, END = "<!-- made by docs/tables.py from the cards -->", "<!-- end -->"
KINDS = {"sine": "sine", "harmonic": "harmonic", "two_periods": "two periods"}
FORECASTS = {"model": "`{name}`", "seasonal_naive": "last cycle, true period", "last_value": "last value"}


def shipped_models() -> list[dict[str, Any]]:
    """Cards of all shipped weights, with the size of the file."""
    paths = sorted(WEIGHTS.glob("*.safetensors"))
    return [read_card(path) | {"megabytes": path.stat().st_size / 1e6} for path in paths]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Give a Markdown table."""
    lines = [header, ["---" for _ in header], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def facts(card: Mapping[str, Any]) -> list[str]:
    """Size and training of one model."""
    options, training = card["options"], card["training"]
    tokens = (card["history"] + card["horizon"]) // options["patch"]
    layers = f"{options['encoder_depth']} + {options['decoder_depth']} layers of {options['heads']} heads"
    size = f"{card['parameters']:,} ({card['megabytes']:.1f} MB)"
    return [
        f"`{card['name']}`",
        f"{card['history']} -> {card['horizon']}",
        f"{tokens} of {options['patch']} samples",
        layers,
        size,
        f"{training['steps']:,} steps of {training['batch']}, seed {training['seed']}",
    ]


def errors(cards: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Held-out errors of every model, and of the naive forecasts on the same series."""
    rows = []
    for forecast, label in FORECASTS.items():
        for card in cards:
            measured = card["held_out_errors"][forecast]
            rows.append((label.format(**card), *(f"{measured[kind]:.3f}" for kind in KINDS)))
    return list(dict.fromkeys(rows))


def generated(cards: Sequence[Mapping[str, Any]]) -> str:
    """Everything between the two marks of the page."""
    header = ["model", "samples", "tokens", "attention", "parameters", "training"]
    n_series = cards[0]["held_out_errors"]["n_series"]
    measured = (
        f"Mean absolute error over the horizon on {n_series} held-out series of each kind, "
        "in standard deviations of the history:\n"
    )
    error_table = table(["forecast", *KINDS.values()], errors(cards))
    return "\n".join([BEGIN, table(header, map(facts, cards)), measured, error_table, END])


def updated(page: str, text: str, begin: str = BEGIN) -> str:
    """Replace what lies between the marks of `page` by `text`, which has them too."""
    before, _, rest = page.partition(begin)
    inside, found, after = rest.partition(END)
    if not (inside and found):
        sys.exit(f"the marks '{begin}' and '{END}' are missing in the page")
    return before + text + after


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text("utf-8"), generated(shipped_models())), "utf-8")
