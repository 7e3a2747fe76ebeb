"""The published claims: answers from tables with known content, and their picture."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from laglens.calibration.claims import claims_table
from laglens.errors import LaglensError
from laglens.figures.claims import draw_claims
from laglens.figures.style import render

LAG = np.arange(0.0, 200.0, 8.0)


def lags(peaks: dict[int, float]) -> xr.DataTree:
    """Two heads; the second has z and ratio at the lags nearest to multiples of 62.8, the limit is 2."""
    z = np.zeros((1, 1, 2, len(LAG)))
    for k, height in peaks.items():
        z[0, 0, 1, np.abs(LAG - 62.8 * k).argmin()] = height
    dims = ("part", "layer", "head", "lag")
    coords = {"part": np.array(["horizon->history"], object), "layer": [3], "head": [0, 1], "lag": LAG}
    stack = xr.Dataset({"z": (dims, z), "ratio": (dims, z), "limit": (dims, np.full(z.shape, 2.0))}, coords)
    return xr.DataTree.from_dict({"/decoder": stack.assign_attrs(samples_per_token=8.0)})


def verdicts() -> pd.DataFrame:
    head = {"stack": "decoder", "layer": 3, "reason": ""}
    rows = [
        head | {"head": 0, "period": 62.8, "verdict": "not supported", "contrast": 0.1, "untrained": 0.2},
        head | {"head": 1, "period": 62.8, "verdict": "supported", "contrast": 0.9, "untrained": 0.2},
        head | {"head": 0, "period": 6.3, "verdict": "not testable", "reason": "under 2 tokens"},
        head | {"head": 1, "period": 6.3, "verdict": "not testable", "reason": "under 2 tokens"},
    ]
    return pd.DataFrame(rows)


def knock_outs() -> pd.DataFrame:
    row = {"period": 62.8, "cut": "comb", "measure": "error_change", "effect": 0.4, "control": 0.1, "lower": 0.2}
    return pd.DataFrame([row | {"upper": 0.5, "matters": "yes", "head": "decoder L03 H01"}, row | {"cut": "band"}])


@pytest.fixture
def answers() -> pd.DataFrame:
    pairs = [
        {"heads": "at_period", "head": 7, "condition": condition, "at_a": shown and i < 15, "at_b": False}
        for condition, shown in {"both": True, "a removed": False, "b removed": True, "sham": True}.items()
        for i in range(20)
    ]
    trees = {"published": lags({1: 9.0, 2: 3.0}), "ablated": lags({1: 1.0})}
    tables = ({name: verdicts() for name in trees}, {name: knock_outs() for name in trees})
    return claims_table(trees, *tables, pd.DataFrame(pairs), model="tiny", period=62.8)


def ask(answers: pd.DataFrame, question: str, signal: str, at: str) -> pd.Series:
    chosen = (answers["question"] == question) & (answers["signal"] == signal) & (answers["at"] == at)
    return answers[chosen].iloc[0]


def test_peaks_are_counted_at_every_multiple(answers):
    first = ask(answers, "peak", "published", "1 x 62.8")
    assert (first["answer"], first["heads"], first["of"], first["head"]) == ("yes", 1, 2, "decoder L03 H01")
    assert first["value"] == 9
    assert ask(answers, "peak", "published", "2 x 62.8")["answer"] == "yes"
    assert ask(answers, "peak", "published", "3 x 62.8")["answer"] == "no"
    assert ask(answers, "peak", "ablated", "1 x 62.8")["answer"] == "no"
    far = claims_table({"s": lags({})}, {}, {}, pd.DataFrame(columns=["heads", "condition"]), model="m", period=90.0)
    assert far["answer"].tolist() == ["no", "no", "no lag there"]


def test_verdicts_name_the_best_head_and_what_cannot_be_tested(answers):
    found = ask(answers, "verdict", "published", "62.8")
    assert (found["answer"], found["heads"], found["head"]) == ("supported", 1, "decoder L03 H01")
    assert (found["value"], found["limit"]) == (0.9, 0.2)
    assert ask(answers, "more than random weights", "published", "62.8")["heads"] == 1
    coarse = ask(answers, "verdict", "ablated", "6.3")
    assert (coarse["answer"], coarse["reason"]) == ("not testable", "under 2 tokens")
    used = ask(answers, "used", "published", "62.8")
    assert (used["answer"], used["value"], used["limit"]) == ("yes", 0.4, 0.1)


def test_what_is_removed_is_counted_with_its_interval(answers):
    both = ask(answers, "pairs", "both", "a")
    assert (both["heads"], both["of"], both["value"]) == (15, 20, 0.75)
    assert both["lower"] == pytest.approx(0.509, abs=1e-3)
    gone = ask(answers, "pairs", "a removed", "a")
    assert (gone["value"], gone["lower"]) == (0, 0)


def test_the_picture_has_the_same_bytes_twice_and_needs_answers(answers):
    signals = ["published", "ablated"]
    first, second = (render(draw_claims(answers, signals=signals), dpi=60) for _ in range(2))
    assert first == second
    assert first[:4] == b"\x89PNG"
    with pytest.raises(LaglensError, match="no answer about peaks or pairs"):
        draw_claims(answers[answers["question"] == "verdict"], signals=signals)
