"""Probes through a model, and untrained models on a signal."""

from functools import partial

import numpy as np
import pytest
import torch
import xarray as xr
from models import TINY, tiny

from laglens.attention.cube import attention_tree
from laglens.models.registry import build_model
from laglens.models.untrained import untrained_model
from laglens.signals.probes import make_swap_probe
from laglens.signals.windows import windows
from laglens.time.probes import probe_time_tree, untrained_time_tree
from laglens.time.reduce import to_time


@pytest.fixture(scope="module")
def signal() -> xr.Dataset:
    values = np.random.default_rng(0).normal(size=(1, 80)).cumsum(1)
    return xr.Dataset({"value": (("sample", "time"), values)}, attrs={"name": "walk"})


def test_probes_keep_their_true_periods_and_give_a_map_for_each_input():
    model = tiny("numeric")
    probe = make_swap_probe([8.0, 11.0], 48, inputs=3)
    tree = probe_time_tree(model, probe)
    assert tree.to_dataset()["true_period"].values.tolist() == [8.0] * 3 + [11.0] * 3
    assert tree["encoder"]["attention"].shape == (6, 2, 2, 12, 12)
    assert tree.attrs["control"] == "swap"
    np.testing.assert_allclose(tree["encoder"]["attention"].sum("key"), 1, atol=1e-5)


def test_untrained_maps_are_those_of_each_draw(signal):
    cut = partial(windows, history=32, horizon=16, n=4)
    models = [build_model("numeric", TINY["numeric"], seed=seed) for seed in (1, 2, 3)]
    tree = untrained_time_tree(models, signal, cut)
    assert tree["encoder"].sizes["sample"] == 3
    assert tree.attrs["control"] == "untrained"
    alone = to_time(attention_tree(models[1], cut(signal["value"]), dtype="float32"))
    expected = alone["encoder"]["attention"].mean("sample")
    np.testing.assert_allclose(tree["encoder"]["attention"].isel(sample=1), expected, atol=1e-3)


def test_untrained_weights_are_drawn_as_the_architecture_draws_them():
    trained = tiny("numeric")
    card = {"architecture": "numeric", "options": TINY["numeric"]}
    first, again, other = (untrained_model(card, trained.state_dict(), seed=seed) for seed in (5, 5, 6))
    fresh = build_model("numeric", TINY["numeric"], seed=5)
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
        assert torch.equal(weight, fresh.state_dict()[name])
    largest = max(first.named_parameters(), key=lambda pair: pair[1].numel())[0]
    assert not torch.equal(first.state_dict()[largest], other.state_dict()[largest])
    assert not first.training


def test_weights_that_come_with_the_architecture_are_shuffled():
    """A factory that loads its weights gives the trained ones whatever the seed."""
    fresh = build_model("numeric", TINY["numeric"], seed=5)
    card = {"architecture": "numeric", "options": TINY["numeric"]}
    shuffled = untrained_model(card, fresh.state_dict(), seed=5)
    for name, parameter in shuffled.named_parameters():
        trained = fresh.state_dict()[name]
        torch.testing.assert_close(parameter.flatten().sort()[0], trained.flatten().sort()[0])
    weight = max(shuffled.named_parameters(), key=lambda pair: pair[1].numel())[0]
    assert not torch.equal(shuffled.state_dict()[weight], fresh.state_dict()[weight])
