"""Artifacts are atomic, deterministic, and complain loudly when damaged."""

import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from disk import most_bytes_of_a_file

from laglens import store
from laglens.errors import LaglensError
from laglens.store.layout import chunks

CUBE = ("sample", "layer", "head", "query", "key")


def cube(seed: int = 0, dtype: str = "float16", tokens: int = 20) -> xr.DataTree:
    rng = np.random.default_rng(seed)
    weights = rng.random((3, 2, 4, tokens, tokens)).astype(dtype)
    node = xr.Dataset(
        {"attention": (CUBE, weights)},
        coords={"layer": [0, 1], "layer_name": ("layer", np.array(["encoder.0.attn", "encoder.1.attn"]))},
        attrs={"b": 1, "a": {"z": [1.5], "k": np.float64(2)}},
    )
    root = xr.Dataset({"series": (("sample", "time"), rng.random((3, 30)))}, attrs={"title": "ü", "list": [1, 2]})
    return xr.DataTree.from_dict({"/": root, "/encoder": node})


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_tree_survives_the_round_trip(tmp_path: Path, dtype: str) -> None:
    store.write_tree(cube(dtype=dtype), tmp_path / "a.zarr.zip")
    back = store.read_tree(tmp_path / "a.zarr.zip")
    expected = cube(dtype=dtype)
    assert back["encoder/attention"].dtype == dtype
    np.testing.assert_array_equal(back["encoder/attention"], expected["encoder/attention"])
    assert list(back["encoder/layer_name"].values) == ["encoder.0.attn", "encoder.1.attn"]
    assert back["encoder"].attrs == {"a": {"k": 2.0, "z": [1.5]}, "b": 1}
    assert back.attrs == {"title": "ü", "list": [1, 2]}


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = cube(), cube()
    second["encoder"].attrs = dict(reversed(second["encoder"].attrs.items()))
    for name, tree in (("a", first), ("b", second)):
        store.write_tree(tree, tmp_path / f"{name}.zarr.zip")
    assert (tmp_path / "a.zarr.zip").read_bytes() == (tmp_path / "b.zarr.zip").read_bytes()
    store.write_tree(cube(seed=1), tmp_path / "b.zarr.zip")
    assert (tmp_path / "a.zarr.zip").read_bytes() != (tmp_path / "b.zarr.zip").read_bytes()


def test_dates_of_three_centuries_and_gaps_in_them_survive(tmp_path: Path) -> None:
    dates = np.array([f"{year}-12-31" for year in range(1700, 2009)] + ["NaT", "2020-05-01T12:30:15.123456"])
    dataset = xr.Dataset(coords={"date": ("time", dates.astype("datetime64[ns]"))})
    store.write_dataset(dataset, tmp_path / "a.zarr.zip")
    xr.testing.assert_identical(store.read_dataset(tmp_path / "a.zarr.zip"), dataset)


def test_nodes_come_back_in_the_order_in_which_they_were_written(tmp_path: Path) -> None:
    names = ["encoder", "decoder", "cross", "a", "z", "m", "b"]  # zarr lists them in the order of a set of names
    tree = xr.DataTree.from_dict({f"/{name}": xr.Dataset({"x": ("i", [1.0])}) for name in names})
    store.write_tree(tree, tmp_path / "a.zarr.zip")
    back = store.read_tree(tmp_path / "a.zarr.zip")
    assert list(back.children) == names
    assert back.attrs == {}


@pytest.mark.parametrize(
    ("dims", "shape", "itemsize", "expected"),
    [
        (CUBE, (3, 2, 4, 20, 20), 2, (3, 1, 1, 20, 20)),
        (CUBE, (999, 2, 4, 100, 100), 2, (52, 1, 1, 100, 100)),  # 4 MB of samples with all heads
        (CUBE, (3, 2, 4, 200, 200), 2, (1, 1, 1, 200, 200)),
        (CUBE, (3, 2, 4, 1100, 1100), 2, (1, 1, 1, 1100, 1100)),
        (("sample", "channel", *CUBE[1:]), (3, 7, 2, 4, 200, 200), 2, (1, 1, 1, 1, 200, 200)),
        (CUBE[:-1], (10_000, 18, 16, 2465), 4, (1, 18, 16, 2465)),
        (CUBE[:-1], (10_000, 2, 4, 100), 4, (1310, 2, 4, 100)),
        (("lag", "head"), (3000, 4), 8, (3000, 4)),
        (("sample", "time"), (0, 5), 8, (1, 5)),
    ],
)
def test_chunks_hold_whole_matrices_and_a_bounded_number_of_samples(
    dims: tuple[str, ...], shape: tuple[int, ...], itemsize: int, expected: tuple[int, ...]
) -> None:
    assert chunks(dims, shape, itemsize) == expected


def test_a_missing_chunk_reads_nan_and_a_flipped_bit_raises(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr.zip"
    store.write_tree(cube(), path)
    with zipfile.ZipFile(path) as archive:
        entry = next(i for i in archive.infolist() if i.filename.startswith("encoder/attention/c/"))
        contents = {i.filename: archive.read(i) for i in archive.infolist()}
    with zipfile.ZipFile(tmp_path / "gap.zarr.zip", "w") as archive:
        for name, content in contents.items():
            if name != entry.filename:
                archive.writestr(name, content)
    assert np.isnan(store.read_tree(tmp_path / "gap.zarr.zip")["encoder/attention"]).any()
    damaged = bytearray(path.read_bytes())
    damaged[entry.header_offset + 200] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(LaglensError, match=r"a\.zarr\.zip: damaged .*delete it and run again"):
        store.read_tree(path)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04"])
def test_a_truncated_artifact_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.zarr.zip").write_bytes(content)
    with pytest.raises(LaglensError, match="a.zarr.zip: damaged"):
        store.read_tree(tmp_path / "a.zarr.zip")
    with pytest.raises(LaglensError, match="no such artifact"):
        store.read_tree(tmp_path / "b.zarr.zip")


def test_a_full_disk_keeps_the_old_artifact(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr.zip"
    store.write_tree(cube(), path)
    before = path.read_bytes()
    larger = cube(seed=1, tokens=100)
    with most_bytes_of_a_file(100_000), pytest.raises(LaglensError, match="cannot be written: .*File too large"):
        store.write_tree(larger, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_leaves_no_artifact_and_its_workspace_is_swept(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from laglens.store import files\n"
        "files.move = lambda *a: (print('ready', flush=True), time.sleep(60))\n"
        "files.write_bytes(b'half', Path(sys.argv[1]))"
    )
    path = tmp_path / "a.bin"
    process = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not path.exists() and len(list(tmp_path.iterdir())) == 1
    time.sleep(0.05)
    store.write_bytes(b"whole", path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_weights_and_card_round_trip_and_truncation_is_loud(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    state = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(2, dtype=torch.float64)}
    store.write_weights(state, {"seed": 1, "errors": {"sine": np.float64(0.5)}}, path)
    back = store.read_weights(path)
    assert all(torch.equal(back[name], state[name]) for name in state)
    assert store.read_card(path) == {"seed": 1, "errors": {"sine": 0.5}}
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(LaglensError, match="not a complete safetensors file"):
        store.read_weights(path)
    with pytest.raises(LaglensError, match="no such weights"):
        store.read_weights(tmp_path / "other.safetensors")


def test_pickled_code_is_never_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (Path(tmp_path / "ran").touch, ())

    torch.save({"model": Evil()}, tmp_path / "m.safetensors")
    with pytest.raises(LaglensError, match="not a complete safetensors file"):
        store.read_weights(tmp_path / "m.safetensors")
    assert not (tmp_path / "ran").exists()


def test_tables_are_read_from_csv_and_parquet_and_errors_name_the_file(tmp_path: Path) -> None:
    table = pd.DataFrame({"t": [1, 2], "v": [0.1, 0.2]})
    store.write_table(table, tmp_path / "a.csv")
    table.to_parquet(tmp_path / "a.parquet")
    for name in ("a.csv", "a.parquet"):
        pd.testing.assert_frame_equal(store.read_table(tmp_path / name), table)
    (tmp_path / "b.parquet").write_bytes(b"nonsense")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "head.csv").write_text("a,b\n")
    (tmp_path / "twice.csv").write_text("\na,b,a\n1,2,3\n")
    for name, words in {
        "b.parquet": "cannot be read as parquet",
        "empty.csv": "cannot be read as csv",
        "head.csv": "no rows",
        "twice.csv": "two columns 'a'",
        "none.csv": "no such file",
        "a.xlsx": "not from '.xlsx'",
    }.items():
        with pytest.raises(LaglensError, match=f"{name}: .*{words}"):
            store.read_table(tmp_path / name)
