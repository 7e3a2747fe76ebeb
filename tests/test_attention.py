"""Attention cubes: their layout, in memory and piece by piece, over tokens and over time, within a memory budget."""

import gc
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from memory import poisoned
from models import TINY, tiny
from stage_models import Attention, Channels, Decoding, Image, Picture, Small, Sparse, small, windows_of
from torch import Tensor, nn

from laglens.attention.batches import MOST_AT_ONCE, choose_store
from laglens.attention.cube import attention_into, attention_tree
from laglens.errors import LaglensError
from laglens.signals.windows import histories
from laglens.store import read_tree, tree_writer, write_tree
from laglens.time.reduce import to_time


def windows(model: nn.Module, n: int = 5, seed: int = 0) -> xr.Dataset:
    series = np.random.default_rng(seed).normal(size=(n, model.history + model.horizon)).cumsum(1)
    return xr.Dataset({"series": (("sample", "time"), series)}, coords={"start": ("sample", np.arange(n))})


def test_batches_do_not_influence_each_other_and_two_captures_agree() -> None:
    model = tiny("numeric")
    both = attention_tree(model, windows(model, 4), dtype="float32")
    halves = attention_tree(model, windows(model, 4), dtype="float32", batch=2)
    for stack in ("encoder", "decoder"):
        np.testing.assert_allclose(halves[stack]["attention"], both[stack]["attention"], atol=1e-5)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("architecture", TINY)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_tree_has_the_documented_layout(architecture: str, dtype: str) -> None:
    model = tiny(architecture)
    tree = attention_tree(model, windows(model), dtype=dtype, batch=2)
    tolerance = 2e-3 if dtype == "float16" else 1e-5
    assert tree.attrs["certificate"]["captured"] == tree.attrs["certificate"]["found"] > 0
    assert tree["forecast"].dims == ("sample", "step") and tree["forecast"].shape == (5, model.horizon)
    assert tree["start"].values.tolist() == [0, 1, 2, 3, 4]
    for stack in model.stacks:
        node = tree[stack.name]
        assert node["attention"].dims == ("sample", "layer", "head", "query", "key")
        assert node["attention"].dtype == dtype
        assert list(node["layer_name"].values) == list(stack.layers)
        assert node["layer_name"].dtype == object
        np.testing.assert_allclose(node["attention"].astype("f4").sum("key"), 1, atol=tolerance)
        np.testing.assert_array_equal(node["query_end"] - node["query_start"], TINY[architecture].get("patch", 1))


def test_row_statistics_come_from_the_full_rows() -> None:
    model = tiny("image")
    node = attention_tree(model, windows(model), dtype="float32")["encoder"]
    weights = node["attention"].values.astype(float)
    np.testing.assert_allclose(node["entropy"], -(weights * np.log(weights)).sum(-1), atol=1e-5)
    np.testing.assert_allclose(node["effective_keys"], 1 / (weights**2).sum(-1), rtol=1e-4)
    np.testing.assert_array_equal(node["top_key"], weights.argmax(-1))


def test_gaps_and_short_histories_are_refused() -> None:
    model = tiny("numeric")
    broken = windows(model)
    broken["series"][2, 3] = np.nan
    with pytest.raises(LaglensError, match="NaN"):
        attention_tree(model, broken)
    with pytest.raises(LaglensError, match="needs 32 samples of history, the windows have 20"):
        attention_tree(model, windows(model).isel(time=slice(20)))
    unknown_future = windows(model)
    unknown_future["series"][:, model.history :] = np.nan
    assert np.isfinite(attention_tree(model, unknown_future)["forecast"]).all()


@pytest.mark.parametrize("architecture", TINY)
def test_both_stores_agree_on_the_models_of_the_workflow(architecture: str) -> None:
    model = tiny(architecture)
    tokens, streamed = (attention_tree(model, windows(model), dtype="float32", store=s) for s in ("tokens", "time"))
    for name, node in to_time(tokens).children.items():
        other = streamed[name]
        assert other.attrs["store"] == "time" and (other["key_tokens"] == 1).all()
        np.testing.assert_allclose(other["attention"], node["attention"], atol=1e-6, rtol=1e-5)
        np.testing.assert_allclose(other["entropy"], node["entropy"], atol=1e-4)
    assert tokens.attrs["certificate"]["worst"] < 1e-5 and 0 < streamed.attrs["certificate"]["worst"] < 1e-5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"store": "disk"}, "store 'disk' is not one of tokens, time, auto"),
        ({"dtype": "int8"}, "dtype 'int8' is not one of float16, float32"),
        ({"statistics": ["gini"]}, "statistic 'gini' is not one of entropy, effective_keys, top_key"),
    ],
)
def test_wrong_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(LaglensError, match=message):
        attention_tree(small(Small), windows_of(small(Small)), **options)


def test_auto_keeps_tokens_while_the_whole_cube_fits() -> None:
    model = small(Picture)
    series = histories(windows_of(model, 6), model.history)
    cube = 4 * 6 * 2 * 3 * 26**2  # bytes, samples, layers, heads, tokens
    for memory, expected in ((cube * 100, "tokens"), (cube, "tokens"), (cube - 1, "time"), (cube / 10, "time")):
        assert choose_store("auto", model, series, memory=memory, device="cpu") == expected
    node = attention_tree(model, windows_of(model, 6), memory_gb=(cube - 1) / 1e9)["encoder"]
    assert node.attrs["store"] == "time" and node["attention"].shape == (6, 2, 3, 12, 12)
    assert node["entropy"].sizes["token"] == 26


@pytest.mark.parametrize("store", ["tokens", "time"])
@pytest.mark.parametrize("statistics", [(), ("entropy",), ("effective_keys", "top_key")])
def test_only_the_statistics_asked_for_are_kept(store: str, statistics: tuple[str, ...]) -> None:
    node = attention_tree(small(Small), windows_of(small(Small)), store=store, statistics=statistics)["encoder"]
    assert set(node.data_vars) == {"attention", *statistics} | ({"special_mass"} if store == "time" else set())


@pytest.mark.parametrize("rollout", [False, True])
@pytest.mark.parametrize("store", ["tokens", "time"])
@pytest.mark.parametrize("kind", [Picture, Channels])
def test_a_tree_written_while_the_model_runs_is_the_same(
    kind: type[Small], store: str, rollout: bool, tmp_path: Path
) -> None:
    model = small(kind)
    options: dict[str, Any] = {"store": store, "rollout": rollout, "batch": 2}
    whole = attention_tree(model, windows_of(model), **options)
    with tree_writer(tmp_path / "pieces.zarr.zip", ["encoder"]) as writer:
        attention_into(writer, model, windows_of(model), **options)
    write_tree(whole, tmp_path / "whole.zarr.zip")
    xr.testing.assert_identical(read_tree(tmp_path / "pieces.zarr.zip"), read_tree(tmp_path / "whole.zarr.zip"))


@pytest.mark.parametrize("store", ["tokens", "time"])
@pytest.mark.parametrize("kind", [Picture, Channels, Decoding, Sparse])
def test_what_was_in_memory_does_not_reach_a_later_batch(kind: type[Small], store: str) -> None:
    model = small(kind)
    options: dict[str, Any] = {"store": store, "dtype": "float32", "rollout": kind in (Picture, Channels)}
    whole = attention_tree(model, windows_of(model, 11), batch=11, **options)
    with poisoned():
        parts = attention_tree(model, windows_of(model, 11), batch=4, **options)
    np.testing.assert_allclose(parts["forecast"], whole["forecast"], atol=1e-5)
    for name, node in whole.children.items():
        assert set(node.data_vars) == set(parts[name].data_vars)
        for variable, expected in node.data_vars.items():
            np.testing.assert_allclose(parts[name][variable], expected, atol=1e-4, err_msg=str(variable))


class WrittenOut(Attention):
    """Attention whose softmax the model writes out, in its own type."""

    def weigh(self, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        return torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1) @ v


@pytest.mark.parametrize("store", ["tokens", "time"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("written_out", [False, True])
def test_models_in_half_precision_are_read_in_float32(store: str, dtype: torch.dtype, written_out: bool) -> None:
    class Written(Picture):
        attention = WrittenOut if written_out else Attention

    exact, model = small(Written), small(Written).to(dtype)
    options: dict[str, Any] = {"store": store, "dtype": "float32", "batch": 2, "rollout": True}
    expected, found = (attention_tree(m, windows_of(m), **options)["encoder"] for m in (exact, model))
    for name, variable in found.data_vars.items():
        assert variable.dtype == ("int32" if name == "top_key" else "float32")
    assert abs(found["attention"] - expected["attention"]).mean() < 2e-3  # the rounding of the model, layer by layer
    rows = found["attention"].sum("key") + (found["special_mass"] if store == "time" else 0)
    np.testing.assert_allclose(rows, 1, atol=0.02 if written_out else 1e-5)


class TooLarge(Picture):
    """Runs out of memory with more than two windows at once, halfway through."""

    error: type[BaseException] | str = MemoryError

    def encode(self, x: Tensor) -> Tensor:
        x = x + self.layers[0](x, x)
        if len(x) > 2:
            raise RuntimeError(self.error) if isinstance(self.error, str) else self.error("out")
        return x + self.layers[1](x, x)


@pytest.mark.parametrize("store", ["tokens", "time"])
@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError, "DefaultCPUAllocator: not enough memory"])
def test_a_batch_that_does_not_fit_in_memory_is_cut_in_half(
    store: str, error: type[BaseException] | str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, reference = small(TooLarge), small(Picture)
    model.error = error
    expected = attention_tree(reference, windows_of(model, 13), store=store, dtype="float32")
    caplog.clear()
    with caplog.at_level(logging.WARNING, "laglens"), tree_writer(tmp_path / "a.zarr.zip", ["encoder"]) as writer:
        attention_into(writer, model, windows_of(model, 13), store=store, dtype="float32")
    written = read_tree(tmp_path / "a.zarr.zip")
    np.testing.assert_allclose(written["encoder"]["attention"], expected["encoder"]["attention"], atol=2e-6)
    np.testing.assert_allclose(written["forecast"], expected["forecast"], atol=1e-5)
    assert caplog.messages == [
        "12 windows at once do not fit in memory; going on with 6",
        "6 windows at once do not fit in memory; going on with 3",
        "3 windows at once do not fit in memory; going on with 1",
    ]


def test_a_window_that_does_not_fit_in_memory_says_so_and_other_errors_pass() -> None:
    class Never(Picture):
        error = "out of memory"

        def encode(self, x: Tensor) -> Tensor:
            raise RuntimeError(self.error)

    model = small(Never)
    with pytest.raises(LaglensError, match="a single window do not fit in memory; set attention.store: time"):
        attention_tree(model, windows_of(model))
    model.error = "mat1 and mat2"
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        attention_tree(model, windows_of(model))


@pytest.fixture
def only_new() -> Iterator[None]:
    """What is there already is not looked through when living tensors are counted."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Counting:
    """A sink that keeps nothing, and counts the bytes of all tensors that live while it is given pieces."""

    def __init__(self) -> None:
        self.most, self.largest, self.batches = 0, 0, set()

    @staticmethod
    def living() -> int:
        tensors = [thing for thing in gc.get_objects() if type(thing) is Tensor]
        return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())

    def add(self, node: str, dataset: xr.Dataset, awaited: Any = None) -> None:
        pass

    def write(self, node: str, where: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self.most = max(self.most, self.living())
        self.largest = max(self.largest, sum(array.nbytes for array in arrays.values()))
        self.batches.add((where["sample"].start, where["sample"].stop))


@pytest.mark.usefixtures("only_new")
def test_memory_does_not_grow_with_the_number_of_samples() -> None:
    model, most = small(Picture), []
    for n in (2 * MOST_AT_ONCE, 6 * MOST_AT_ONCE):
        sink = Counting()
        attention_into(sink, model, windows_of(model, n), store="time")
        most.append(sink.most)
    assert most[1] <= 1.05 * most[0]


@pytest.mark.usefixtures("only_new")
def test_memory_of_a_batch_follows_the_budget() -> None:
    model, sizes = small(Picture), []
    for memory_gb, n in ((1e-9, 5), (2e-4, 80), (2.0, 80)):
        sink = Counting()
        attention_into(sink, model, windows_of(model, n), store="time", memory_gb=memory_gb)
        sizes.append(max(stop - start for start, stop in sink.batches))
        assert sizes[-1] == 1 or sink.most < memory_gb * 1e9
    assert sizes[0] == 1 < sizes[1] < sizes[2] == MOST_AT_ONCE


@pytest.mark.usefixtures("only_new")
def test_cubes_of_tokens_are_handed_on_layer_by_layer() -> None:
    """A cube need not fit in memory: no more than one layer of it is held."""

    class Deep(Picture):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(self.attention() for _ in range(12))

        @property
        def stacks(self):
            (stack,) = super().stacks
            return (type(stack)("encoder", tuple(f"layers.{i}" for i in range(12)), stack.query, stack.key),)

    sink = Counting()
    model = small(Deep)
    attention_into(sink, model, windows_of(model, 64), store="tokens", dtype="float32", statistics=())
    layer = 63 * 3 * 26**2 * 4
    assert sink.largest == layer
    sums_and_activations = (12 * 3 + 12 * 12) * 63 * 26 * 4
    assert sink.most < 3 * layer + sums_and_activations


def test_a_model_that_does_not_forecast_leaves_a_forecast_without_steps(tmp_path: Path) -> None:
    model = small(Image)
    tree = attention_tree(model, windows_of(model))
    assert tree["forecast"].shape == (5, 0) and tree["step"].size == 0
    write_tree(tree, tmp_path / "a.zarr.zip")
    time = to_time(read_tree(tmp_path / "a.zarr.zip"))
    assert time["forecast"].shape == (5, 0) and time["encoder"]["attention"].shape == (5, 2, 3, 12, 12)
