"""Lags of attention that somebody captured: a torch module of their own, or a plain array."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from trees import softmax

import laglens


class Patches(nn.Module):
    """Patches of 4 samples, one attention layer, a forecast from the last token: nothing of laglens in it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(4, 16), nn.Linear(16, 12)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 1)

    def forward(self, history: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(self.embed(history.unflatten(1, (-1, 4)).float()))[:, -1])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    tokens = laglens.TokenMap.patches(128, 0, 4, readout="last")
    stack = laglens.Stack("encoder", ("encoder.layers.0.self_attn",), tokens, tokens)
    network = Patches()
    with torch.no_grad():
        network.encoder.layers[0].self_attn.in_proj_weight.mul_(4)  # far from uniform
    return laglens.adapt(network, history=128, horizon=12, stacks=[stack])


def test_every_step_works_on_a_module_of_ones_own(model):
    signal = laglens.make_signal(
        {"generator": "harmonics", "length": 400, "components": [{"period": 24}], "noise": 0.1}, name="wave"
    )
    cut = partial(laglens.windows, history=128, horizon=12, n=4)
    attrs = {"signal": signal.attrs}
    time = laglens.to_time(laglens.attention_tree(model, cut(signal["value"]), attrs=attrs))
    node = time["encoder"].to_dataset(inherit=False)
    ratio = laglens.lag_ratio(node, "readout->history", history=128)
    assert laglens.lag_profile(node, "readout->history", history=128).sizes["lag"] == ratio.sizes["lag"]
    assert laglens.comb_contrast(ratio, [24.0]).dims == ("sample", "layer", "head", "period")
    assert laglens.subdiagonal_means(node).sizes["lag"] == 31
    noise = laglens.control_time_tree(model, laglens.make_control(signal, 19), cut, attrs=attrs)
    assert laglens.measure_lags(time, noise)["encoder"]["ratio_interval"].dims[-1] == "bound"
    comb = laglens.comb_test(time, noise, [24.0])
    probe = laglens.make_swap_probe(laglens.swap_periods(4, 128, 3), 140, inputs=4)
    waves = laglens.probe_time_tree(model, probe)
    swap = laglens.swap_test(waves, n_permutations=99)
    white = laglens.probe_time_tree(model, laglens.make_white_probe(20, 140))
    tracked = laglens.track_periods(waves, white)
    untrained = laglens.untrained_contrasts(time, [24.0])
    table = laglens.verdict_table(comb, swap, untrained, tracked)
    assert len(table) == 2
    assert table["chance_at_multiple"].between(0, 1).all()
    stretched = laglens.stretch_period(model, signal["value"], n=3)
    assert (stretched["encoder"]["period"] > 8).all()


def test_an_array_of_weights_becomes_a_tree():
    """A head that looks 20 samples back, on 32 tokens of 4 samples and a special one before them."""
    tokens = laglens.TokenMap.patches(128, 0, 4, readout="last").with_special(before=1)
    lag = np.subtract.outer(tokens.time, tokens.time)
    logits = np.where(np.abs(lag - 20) < 2, 3.0, 0.0) + np.zeros((2, 1, 1, 33, 33))
    tree = laglens.label_attention(softmax(logits), tokens, history=128)
    node = laglens.to_time(tree)["encoder"].to_dataset(inherit=False)
    ratio = laglens.lag_ratio(node, "history->history", history=128)
    assert float(ratio["lag"][ratio.mean("sample").squeeze().argmax("lag")]) == 20
    assert float(node["special_mass"].mean()) > 0


def test_weights_that_do_not_fit_are_refused():
    tokens = laglens.TokenMap.patches(128, 0, 4)
    with pytest.raises(laglens.LaglensError, match=r"the weights are \(2, 32, 32\); they should be \(sample, layer"):
        laglens.label_attention(np.full((2, 32, 32), 1 / 32), tokens, history=128)
    with pytest.raises(laglens.LaglensError, match="give the weights after the softmax"):
        laglens.label_attention(np.ones((1, 1, 1, 32, 32)), tokens, history=128)
