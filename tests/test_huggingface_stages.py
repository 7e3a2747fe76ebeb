"""Models of transformers through capture and time: tokens reduced afterwards equal the reduction while they run."""

import numpy as np
import pytest
import torch
import xarray as xr
from tiny_huggingface import TINY, histories, tiny

from laglens.attention.capture import read_attention
from laglens.attention.cube import attention_tree
from laglens.time.reduce import to_time

CHANGES = {
    "patchtst_channels": {"num_input_channels": 3, "channel_attention": True},
    "patchtst_cls": {"use_cls_token": True},
    "informer_one_layer": {"decoder_layers": 1, "sampling_factor": 2},
}


def model_of(case):
    name = case if case in TINY else case.partition("_")[0]
    return tiny(name, 1.2 if name == "patchtst" else 1.7, changes=CHANGES.get(case))


def windows(model, n=5):
    history = histories(model, n).numpy()
    series = np.concatenate([history, np.full((*history.shape[:-1], model.horizon), np.nan)], -1)
    dims = ("sample", "time") if model.channels == 1 else ("sample", "channel", "time")
    return xr.Dataset({"series": (dims, series)}, {"sample": np.arange(n), "time": np.arange(series.shape[-1])})


@pytest.mark.parametrize("case", [*TINY, *CHANGES])
def test_tokens_in_time_are_what_is_stored_in_time(case):
    model, n = model_of(case), 5
    over_tokens, over_time = (
        to_time(attention_tree(model, windows(model, n), store=store, dtype="float32", batch=2))
        for store in ("tokens", "time")
    )
    assert list(over_tokens.children) == list(over_time.children) == [stack.name for stack in model.stacks]
    for name, expected in over_tokens.children.items():
        found = over_time[name]
        assert found.sizes["sample"] == n * model.channels
        # The streamed output of a layer enters the next, whose sharp weights enlarge what rounding makes of it.
        np.testing.assert_allclose(found["attention"], expected["attention"], atol=1e-5)
        np.testing.assert_allclose(found["special_mass"], expected["special_mass"], atol=1e-5)
        np.testing.assert_allclose(found["entropy"], expected["entropy"], atol=1e-4)
        np.testing.assert_allclose(found["attention"].sum("key") + found["special_mass"], 1, atol=1e-5)
    np.testing.assert_allclose(over_time["forecast"], over_tokens["forecast"], rtol=1e-4, atol=1e-4)


def test_special_mass_is_that_of_the_cls_token_and_of_filled_up_keys():
    model = model_of("patchtst_cls")
    node = to_time(attention_tree(model, windows(model), store="tokens", dtype="float32"))["encoder"]
    tokens = attention_tree(model, windows(model), store="tokens", dtype="float32")["encoder"]["attention"]
    np.testing.assert_allclose(node["special_mass"], tokens[..., 1:, 0], atol=1e-6)
    assert node["special_mass"].max() > 0.05
    model = tiny("autoformer", changes={"label_length": 24})
    cross = to_time(attention_tree(model, windows(model), store="time"))["cross"]
    assert cross.sizes["key"] == 24 and cross["special_mass"].max() > 0.05


def test_channels_of_a_window_follow_each_other():
    model = model_of("patchtst_channels")
    given = windows(model)
    tree = to_time(attention_tree(model, given, store="time"))
    assert tree["channel"].values.tolist() == [0, 1, 2] * 5
    _, capture = read_attention(model, torch.from_numpy(given["series"].values[3:4, :, : model.history]))
    weights = next(record.weights for record in capture.records if record.call == 0)
    np.testing.assert_allclose(tree["encoder"]["attention"][9:12, 0], weights, atol=1e-5)


@pytest.mark.parametrize("store", ["tokens", "time"])
@pytest.mark.parametrize("case", ["informer", "informer_one_layer"])
def test_informer_rows_lie_at_their_queries(case, store):
    """Selected rows are the captured ones, others even over the keys so far; of a step only the last row counts."""
    model = model_of(case)
    given = windows(model, 3)
    tree = attention_tree(model, given, store=store, dtype="float32", batch=3)
    _, capture = read_attention(model, torch.from_numpy(given["series"].values[:, : model.history]))
    n_even = 0
    for stack in model.stacks:
        n_key = len(stack.key)
        for layer, module in enumerate(stack.layers):
            records = [record for record in capture.records if record.module == module]
            for query in range(len(stack.query)):
                record = records[query] if stack.steps else records[0]
                rows = record.weights.reshape(3, 2, *record.weights.shape[-2:])
                if record.selected is None:
                    own, chosen = rows[:, :, query], torch.ones(3, 2, dtype=torch.bool)
                else:
                    places = record.selected.reshape(3, 2, -1) == query
                    chosen = places.any(-1)
                    own = torch.full((3, 2, rows.shape[-1]), 1 / rows.shape[-1])
                    own[chosen] = rows[places]
                    n_even += int((~chosen).sum())
                expected = torch.nn.functional.pad(own, (0, n_key - own.shape[-1]))
                node = tree[stack.name]
                np.testing.assert_allclose(node["attention"][:, layer, :, query], expected, atol=2e-6)
                if "selected" in node:
                    np.testing.assert_array_equal(node["selected"][:, layer, :, query], chosen)
    assert n_even > 10
    assert "selected" in tree["encoder"] and "selected" in tree["decoder"]
