"""Trees written piece by piece and read lazily: the same bytes, nothing missing, nothing left behind."""

import random
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import xarray as xr
from disk import most_bytes_of_a_file
from numpy.typing import NDArray

from laglens import store
from laglens.errors import LaglensError
from laglens.store import Awaited, TreeWriter, opened_tree, tree_writer
from laglens.store.layout import CHILDREN, canonical, encodings

CUBE = ("sample", "layer", "head", "query", "key")
Part = tuple[str, dict, dict[str, NDArray]]
Pieces = list[Part]


def whole(samples: int = 5, tokens: int = 20, dtype: str = "float16", seed: int = 0) -> xr.DataTree:
    """Two nodes with cubes and row statistics, a root with what is known only at the end."""
    rng = np.random.default_rng(seed)

    def node(layers: int) -> xr.Dataset:
        weights = rng.dirichlet(np.ones(tokens), (samples, layers, 4, tokens))
        variables = {
            "attention": (CUBE, weights.astype(dtype)),
            "entropy": (CUBE[:-1], rng.random((samples, layers, 4, tokens)).astype("float32"), {"units": "nats"}),
            "top_key": (CUBE[:-1], rng.integers(0, tokens, (samples, layers, 4, tokens), "int32")),
            "selected": (CUBE[:-1], rng.random((samples, layers, 4, tokens)) < 0.5),
        }
        coords = {"layer": np.arange(layers), "layer_name": ("layer", [f"layers.{n}" for n in range(layers)])}
        return xr.Dataset(variables, coords, {"store": "tokens"})

    root = xr.Dataset(
        {"forecast": (("sample", "step"), rng.random((samples, 7)))}, attrs={"certificate": {"worst": 1e-7}}
    )
    return xr.DataTree.from_dict({"/": root, "/encoder": node(3), "/decoder": node(2)})


def awaited(node: xr.Dataset) -> dict[str, Awaited]:
    return {str(n): Awaited(v.dims, v.shape, str(v.dtype), v.attrs) for n, v in node.data_vars.items()}


def pieces(tree: xr.DataTree, batch: int) -> Pieces:
    """Every node by batches of samples and single layers, as a running model hands them in."""
    found: Pieces = []
    for name, node in tree.children.items():
        for first in range(0, node.sizes["sample"], batch):
            for layer in range(node.sizes["layer"]):
                where = {"sample": slice(first, first + batch), "layer": layer}
                found.append((name, where, {str(n): v.isel(where).values for n, v in node.data_vars.items()}))
    return found


def write_in_pieces(tree: xr.DataTree, path: Path, parts: Iterable[Part]) -> None:
    with tree_writer(path, list(tree.children)) as writer:
        for name, node in tree.children.items():
            dataset = node.to_dataset(inherit=False)
            writer.add(name, dataset.drop_vars(list(dataset.data_vars)), awaited(dataset))
        for part in parts:
            writer.write(*part)
        writer.add("/", tree.to_dataset(inherit=False))


@pytest.mark.parametrize(("tokens", "batch"), [(20, 1), (20, 2), (20, 5), (200, 2)])  # some or one sample in a chunk
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_pieces_in_any_order_give_the_bytes_of_the_whole(tmp_path: Path, tokens: int, batch: int, dtype: str) -> None:
    tree = whole(tokens=tokens, dtype=dtype)
    parts = pieces(tree, batch)
    random.Random(batch).shuffle(parts)
    write_in_pieces(tree, tmp_path / "pieces.zarr.zip", parts)
    store.write_tree(tree, tmp_path / "whole.zarr.zip")
    assert (tmp_path / "pieces.zarr.zip").read_bytes() == (tmp_path / "whole.zarr.zip").read_bytes()
    assert list(store.read_tree(tmp_path / "pieces.zarr.zip").children) == ["encoder", "decoder"]


@pytest.mark.parametrize("samples", [1, 3, 30])
def test_every_entry_is_what_zarr_itself_would_write(tmp_path: Path, samples: int) -> None:
    tree = whole(samples=samples, tokens=150)
    tree["encoder"]["attention"][0] = np.nan  # chunks of nothing but the fill value
    tree["encoder"]["top_key"][:] = 0
    store.write_tree(tree, tmp_path / "a.zarr.zip")
    with zipfile.ZipFile(tmp_path / "a.zarr.zip") as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    tree.attrs[CHILDREN] = list(tree.children)
    known = {node.path: encodings(node.to_dataset(inherit=False)) for node in tree.subtree}
    tree.map_over_datasets(canonical).to_zarr(
        tmp_path / "zarr", zarr_format=3, consolidated=False, write_inherited_coords=False, encoding=known
    )
    files = [path for path in (tmp_path / "zarr").rglob("*") if path.is_file()]
    assert found == {path.relative_to(tmp_path / "zarr").as_posix(): path.read_bytes() for path in files}


def test_pieces_in_the_order_of_a_model_go_straight_into_the_file(tmp_path: Path) -> None:
    tree = whole(samples=2, tokens=200)
    with tree_writer(tmp_path / "a.zarr.zip", list(tree.children)) as writer:
        for name, node in tree.children.items():
            dataset = node.to_dataset(inherit=False)[["attention"]]
            writer.add(name, dataset.drop_vars(list(dataset.data_vars)), awaited(dataset))
        for sample in range(2):
            for name, node in tree.children.items():
                for layer in node["layer"].values:
                    where = {"sample": sample, "layer": int(layer)}
                    writer.write(name, where, {"attention": node["attention"].isel(where).values})
                    assert not list(tmp_path.glob(".*/waiting/*"))
        writer.add("/", xr.Dataset())
    with zipfile.ZipFile(tmp_path / "a.zarr.zip") as archive:
        chunks = [name.split("/c/") for name in archive.namelist() if "attention/c/" in name]
    places = [("encoder", layer) for layer in range(3)] + [("decoder", layer) for layer in range(2)]
    expected = [
        [f"{node}/attention", f"{sample}/{layer}/{head}/0/0"]
        for sample in range(2)
        for node, layer in places
        for head in range(4)
    ]
    assert chunks == expected


def test_halves_cast_by_torch_are_stored_bit_by_bit(tmp_path: Path) -> None:
    scores = torch.randn(2, 3, 50, 50, generator=torch.Generator().manual_seed(0)) * 6
    half = scores.softmax(-1).half()  # most entries are subnormal
    with tree_writer(tmp_path / "a.zarr.zip", ["encoder"]) as writer:
        writer.add("encoder", xr.Dataset(), {"attention": Awaited(CUBE, (2, 1, 3, 50, 50), "float16")})
        writer.write("encoder", {"layer": 0}, {"attention": half})
        writer.add("/", xr.Dataset())
    back = store.read_tree(tmp_path / "a.zarr.zip")["encoder/attention"].values[:, 0]
    assert back.tobytes() == half.numpy().tobytes()


def test_values_that_were_known_or_given_at_once_need_no_pieces(tmp_path: Path) -> None:
    tree = whole()
    with tree_writer(tmp_path / "a.zarr.zip", ["encoder", "decoder"]) as writer:
        for name in ("decoder", "encoder", "/"):
            writer.add(name, tree[name].to_dataset(inherit=False))
    store.write_tree(tree, tmp_path / "b.zarr.zip")
    assert (tmp_path / "a.zarr.zip").read_bytes() == (tmp_path / "b.zarr.zip").read_bytes()


def drop_one(writer: TreeWriter, parts: Pieces) -> None:
    for part in parts[1:]:
        writer.write(*part)


def drop_one_value(writer: TreeWriter, parts: Pieces) -> None:
    name, where, arrays = parts[0]
    drop_one(writer, parts)
    writer.write(name, {**where, "head": slice(1, 4)}, {n: a[:, 1:] for n, a in arrays.items()})


def twice(writer: TreeWriter, parts: Pieces) -> None:
    for part in [*parts, parts[0]]:
        writer.write(*part)


def overlapping(writer: TreeWriter, parts: Pieces) -> None:
    for part in parts[:1]:
        writer.write(*part)
        writer.write(*part)
    writer.finish()


def wrong_dtype(writer: TreeWriter, parts: Pieces) -> None:
    name, where, arrays = parts[0]
    writer.write(name, where, {"attention": arrays["attention"].astype("float32")})


def wrong_shape(writer: TreeWriter, parts: Pieces) -> None:
    name, where, arrays = parts[0]
    writer.write(name, where, {"attention": arrays["attention"][:1]})


def outside(writer: TreeWriter, parts: Pieces) -> None:
    name, where, arrays = parts[0]
    writer.write(name, {**where, "layer": 3}, arrays)


def half_a_matrix(writer: TreeWriter, parts: Pieces) -> None:
    name, where, arrays = parts[0]
    writer.write(name, {**where, "key": slice(0, 5)}, {"attention": arrays["attention"][..., :5]})


def unknown_variable(writer: TreeWriter, parts: Pieces) -> None:
    writer.write("encoder", {}, {"lag": np.zeros(3)})


def unknown_node(writer: TreeWriter, parts: Pieces) -> None:
    writer.add("cross", xr.Dataset())


def other_sizes(writer: TreeWriter, parts: Pieces) -> None:
    writer.add("/", xr.Dataset({"x": ("sample", np.zeros(5))}), {"y": Awaited(("sample",), (4,), "float32")})


def text(writer: TreeWriter, parts: Pieces) -> None:
    writer.add("/", xr.Dataset(), {"y": Awaited(("sample",), (4,), "<U3")})


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (drop_one, r"encoder/attention' is incomplete: \d+ chunks are missing; layer 0, head 0 came only in part"),
        (
            drop_one_value,
            r"encoder/attention' is incomplete: \d+ chunks are missing; layer 0, head 0 came only in part",
        ),
        (twice, r"encoder/attention': layer 0, head 0 was handed in twice"),
        (overlapping, r"encoder/attention': part of layer 0, head 0 was handed in twice"),
        (wrong_dtype, r"encoder/attention': a piece is float32 \(2, 4, 20, 20\), not float16 \(2, 4, 20, 20\), at"),
        (wrong_shape, r"encoder/attention': a piece is float16 \(1, 4, 20, 20\), not float16 \(2, 4, 20, 20\), at"),
        (outside, r"encoder/attention': there is no layer 3; it has 3"),
        (half_a_matrix, r"encoder/attention': a piece cannot be placed along 'key'"),
        (unknown_variable, r"'encoder/lag' is not awaited; add its node first"),
        (unknown_node, r"node 'cross' was added twice, or is not one of: /, encoder, decoder"),
        (other_sizes, r"'y' cannot be awaited: its sample has 4 values, that of its node 5"),
        (text, r"'y' cannot be awaited: only numbers with dims are, not <U3 \(4,\)"),
        (lambda writer, parts: None, r"incomplete: \d+ chunks are missing; layer 0, head 0 came not at all"),
    ],
)
def test_a_mistake_is_named_and_nothing_is_left(
    tmp_path: Path, mistake: Callable[[TreeWriter, Pieces], None], words: str
) -> None:
    tree = whole()

    def write() -> None:
        with tree_writer(tmp_path / "a.zarr.zip", list(tree.children)) as writer:
            for name, node in tree.children.items():
                dataset = node.to_dataset(inherit=False)
                writer.add(name, dataset.drop_vars(list(dataset.data_vars)), awaited(dataset))
            mistake(writer, pieces(tree, 2))
            writer.add("/", tree.to_dataset(inherit=False))

    with pytest.raises(LaglensError, match=words):
        write()
    assert not list(tmp_path.iterdir())


def test_a_node_that_never_came_is_named(tmp_path: Path) -> None:
    with pytest.raises(LaglensError, match="node '/' was never added"), tree_writer(tmp_path / "a.zarr.zip", []):
        pass
    with (
        pytest.raises(LaglensError, match="node 'decoder' was never added"),
        tree_writer(tmp_path / "a.zarr.zip", ["decoder"]) as writer,
    ):
        writer.add("/", xr.Dataset())
    assert not list(tmp_path.iterdir())


def test_an_exception_of_the_model_passes_through_and_keeps_the_old_artifact(tmp_path: Path) -> None:
    path, tree = tmp_path / "a.zarr.zip", whole()
    store.write_tree(tree, path)
    before = path.read_bytes()

    def interrupted() -> Iterator[Part]:
        yield pieces(tree, 2)[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_in_pieces(tree, path, interrupted())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("limit", [100, 20_000, 80_000])  # in the metadata, a chunk that waits, the zip
def test_a_full_disk_reaches_the_caller_and_leaves_nothing(tmp_path: Path, limit: int) -> None:
    tree = whole(samples=3, tokens=100)
    with most_bytes_of_a_file(limit), pytest.raises(LaglensError, match="a.zarr.zip: cannot be written: .*too large"):
        write_in_pieces(tree, tmp_path / "a.zarr.zip", reversed(pieces(tree, 1)))
    assert not list(tmp_path.iterdir())


def test_a_killed_writer_leaves_no_artifact_and_its_workspace_is_swept(tmp_path: Path) -> None:
    program = (
        "import sys, time; import numpy as np, xarray as xr; from laglens.store import Awaited, tree_writer\n"
        "with tree_writer(sys.argv[1], ['a']) as writer:\n"
        "    x = Awaited(('sample', 'layer', 'query', 'key'), (2, 9, 200, 200), 'float32')\n"
        "    writer.add('a', xr.Dataset(), {'x': x})\n"
        "    writer.write('a', {'layer': slice(0, 4)}, {'x': np.ones((2, 4, 200, 200), 'float32')})\n"
        "    print('ready', flush=True); time.sleep(60)"
    )
    path = tmp_path / "a.zarr.zip"
    process = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not path.exists() and len(list(tmp_path.iterdir())) == 1
    time.sleep(0.05)
    store.write_tree(whole(), path)
    assert list(tmp_path.iterdir()) == [path]


def test_only_a_few_pieces_wait_for_a_slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from laglens.store.chunked import ChunkedArray

    stored: list[int] = []
    store_chunk = ChunkedArray._store

    def slow(self: ChunkedArray, index: tuple[int, ...], block: NDArray) -> None:
        time.sleep(0.02)
        store_chunk(self, index, block)
        stored.append(1)

    monkeypatch.setattr(ChunkedArray, "_store", slow)
    ahead = []
    with tree_writer(tmp_path / "a.zarr.zip", ["a"]) as writer:
        writer.add("a", xr.Dataset(), {"x": Awaited(("sample", "query", "key"), (20, 200, 200), "float32")})
        for n in range(20):
            writer.write("a", {"sample": n}, {"x": np.full((200, 200), n, "float32")})
            ahead.append(n + 1 - len(stored))
        writer.add("/", xr.Dataset())
    assert max(ahead) <= 4  # one in work, two waiting, one just handed in


def test_small_pieces_do_not_wait_for_a_large_one_before_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model goes on to the next layer while the weights of the last one are written, also with statistics."""
    from laglens.store.chunked import ChunkedArray

    store_chunk, go_on, in_time = ChunkedArray._store, threading.Event(), []

    def waiting(self: ChunkedArray, index: tuple[int, ...], block: NDArray) -> None:
        in_time.append(go_on.wait(5))
        store_chunk(self, index, block)

    monkeypatch.setattr(ChunkedArray, "_store", waiting)
    dims = ("layer", "query", "key")
    with tree_writer(tmp_path / "a.zarr.zip", ["a"]) as writer:
        awaited = {"x": Awaited(dims, (3, 99, 99), "float32")}
        awaited |= {name: Awaited(dims[:2], (3, 99), "float32") for name in "abcd"}
        writer.add("a", xr.Dataset(), awaited)
        for layer in range(2):
            writer.write("a", {"layer": layer}, {"x": np.ones((99, 99), "float32")})
            writer.write("a", {"layer": layer}, {name: np.ones(99, "float32") for name in "abcd"})
        go_on.set()
        writer.write("a", {"layer": 2}, {name: np.ones(a.shape[1:], "float32") for name, a in awaited.items()})
        writer.add("/", xr.Dataset())
    assert all(in_time)
    assert (store.read_tree(tmp_path / "a.zarr.zip")["a/x"] == 1).all()


class CountedReads(zipfile.ZipFile):
    """Keeps the names of the entries that are read."""

    names: ClassVar[list[str]] = []

    def open(self, name: Any, mode: Any = "r", *args: Any, **options: Any) -> Any:
        if mode == "r":
            self.names.append(getattr(name, "filename", name))
        return super().open(name, mode, *args, **options)


@pytest.fixture
def read_entries(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(zipfile, "ZipFile", CountedReads)
    monkeypatch.setattr(CountedReads, "names", [])
    return CountedReads.names


@pytest.mark.parametrize("tokens", [20, 200, 1100])  # several samples in a chunk, one matrix of 80 KB or of 2.4 MB
def test_reading_one_matrix_reads_no_other_layer_or_head(tmp_path: Path, read_entries: list[str], tokens: int) -> None:
    weights = np.random.default_rng(0).random((1, 2, 3, tokens, tokens), dtype="float32").astype("float16")
    store.write_tree(
        xr.DataTree.from_dict({"/encoder": xr.Dataset({"attention": (CUBE, weights)})}), tmp_path / "a.zarr.zip"
    )
    read_entries.clear()
    with opened_tree(tmp_path / "a.zarr.zip") as tree:
        matrix = tree["encoder"]["attention"].sel(sample=0, layer=1, head=2)
        assert not [name for name in read_entries if "/c/" in name]
        np.testing.assert_array_equal(matrix, weights[0, 1, 2])
    assert [name for name in read_entries if "/c/" in name] == ["encoder/attention/c/0/1/2/0/0"]


def test_a_reduction_in_pieces_reads_every_chunk_once_and_keeps_none(tmp_path: Path, read_entries: list[str]) -> None:
    tree = whole(samples=6, tokens=200)
    store.write_tree(tree, tmp_path / "a.zarr.zip")
    read_entries.clear()
    with opened_tree(tmp_path / "a.zarr.zip") as opened:
        cube = opened["encoder"]["attention"]
        parts = [cube.isel(sample=slice(n, n + 1), layer=m).sum("key").values for n in range(6) for m in range(3)]
        chunks = [name for name in read_entries if name.startswith("encoder/attention/c/")]
        assert len(chunks) == len(set(chunks)) == 6 * 3 * 4
        assert not cube.variable._in_memory
    expected = tree["encoder"]["attention"].sum("key").values
    np.testing.assert_array_equal(np.concatenate(parts).reshape(expected.shape), expected)


def test_an_opened_tree_is_the_tree_that_was_written(tmp_path: Path) -> None:
    store.write_tree(whole(), tmp_path / "a.zarr.zip")
    with opened_tree(tmp_path / "a.zarr.zip") as tree:
        assert list(tree.children) == ["encoder", "decoder"]
        assert tree.attrs == {"certificate": {"worst": 1e-7}}
        assert tree.load().identical(store.read_tree(tmp_path / "a.zarr.zip"))


def test_errors_of_a_callers_code_are_not_taken_for_damage(tmp_path: Path) -> None:
    store.write_tree(whole(), tmp_path / "a.zarr.zip")
    with pytest.raises(KeyError, match="cross"), opened_tree(tmp_path / "a.zarr.zip") as tree:
        tree["cross"]


def test_damage_shows_when_its_chunk_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr.zip"
    store.write_tree(whole(tokens=200), path)
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo("encoder/attention/c/1/0/0/0/0")
    damaged = bytearray(path.read_bytes())
    damaged[entry.header_offset + 200] ^= 1
    path.write_bytes(damaged)
    with opened_tree(path) as tree:
        assert np.isfinite(tree["encoder"]["attention"].isel(sample=0).values).all()
    with (
        pytest.raises(LaglensError, match=r"a\.zarr\.zip: damaged .*delete it and run again"),
        opened_tree(path) as tree,
    ):
        tree["encoder"]["attention"].isel(sample=1).load()
