"""Probes: unrelated periods, waves alike but for their period, noise."""

import numpy as np
import pytest

from laglens.errors import LaglensError
from laglens.signals.probes import SHORTEST, make_probes, make_swap_probe, make_white_probe, swap_periods


@pytest.mark.parametrize(("step", "longest", "n"), [(8, 256, 6), (4, 256, 6), (1, 100, 6), (16, 512, 4)])
def test_periods_are_testable_and_share_no_teeth(step, longest, n):
    periods = swap_periods(step, longest, n)
    assert len(periods) == n
    assert periods.min() >= SHORTEST * step - 1e-9
    assert periods.max() <= longest / 2.5 + 1e-9
    for i, short in enumerate(periods):
        for long in periods[i + 1 :]:
            for multiple in (1, 2, 3, 4):
                assert abs(long / short / multiple - 1) >= 0.06


def test_no_room_for_periods_is_said():
    assert len(swap_periods(16, 200)) == 2
    with pytest.raises(LaglensError, match="hold no two unrelated periods of at least 4.5 tokens"):
        swap_periods(16, 100)


def test_waves_have_their_period_and_are_drawn_independently():
    probe = make_swap_probe([24.0, 36.0], 1440, inputs=3, seed=1)
    assert probe["true_period"].values.tolist() == [24.0] * 3 + [36.0] * 3
    for row in probe["value"]:
        period = int(row["true_period"])
        assert float(np.corrcoef(row[period:], row[:-period])[0, 1]) > 0.98
        assert float(row.std()) == pytest.approx(1, abs=0.05)
    assert abs(np.corrcoef(probe["value"].values)[0, 1:]).max() < 0.99
    again = make_swap_probe([24.0, 36.0], 1440, inputs=3, seed=1)
    assert probe.identical(again)
    assert not probe.equals(make_swap_probe([24.0, 36.0], 1440, inputs=3, seed=2))


def test_probes_of_a_model_say_when_its_tokens_are_too_coarse():
    fine = make_probes(8, 256, 128, periods=6, inputs=2, noises=5, name="m")
    assert fine["swap"].sizes == {"sample": 12, "time": 384}
    assert fine["white"].sizes == {"sample": 5, "time": 384}
    coarse = make_probes(64, 256, 128, periods=6, inputs=2, noises=5, name="m")
    assert coarse["swap"].sizes["sample"] == 0
    assert "no two unrelated periods" in coarse["swap"].attrs["left_out"]


def test_white_noise_is_white():
    values = make_white_probe(50, 500)["value"].values
    lag_one = np.mean(values[:, 1:] * values[:, :-1])
    assert abs(lag_one) < 0.03
    assert values.std() == pytest.approx(1, abs=0.02)


def test_too_few_are_refused():
    with pytest.raises(LaglensError, match="at least 2 periods"):
        make_swap_probe([24.0], 100)
    with pytest.raises(LaglensError, match="at least 1"):
        make_white_probe(0, 100)
