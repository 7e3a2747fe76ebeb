"""Attention recorded in another environment, with torch and numpy alone, is what the model gives here."""

import ast
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from models import tiny
from torch import nn
from workflow_copy import REPOSITORY, WorkflowCopy

from laglens.attention.cube import STATISTICS, attention_tree
from laglens.attention.exchange import WINDOWS, read_arrays, write_arrays
from laglens.attention.recorded import Recording, recorded_tree, shown_histories
from laglens.attention.recording import Stack, TokenMap, record
from laglens.errors import LaglensError
from laglens.models.adapt import adapt
from laglens.signals.controls import make_control
from laglens.signals.windows import windows
from laglens.store import read_tree
from laglens.time.controls import control_time_tree
from laglens.time.recorded import recorded_controls
from laglens.time.reduce import to_time

HISTORY, HORIZON, PATCH = 48, 6, 4


NETWORK = '''
"""An encoder on patches with a special token in front; what a person may have, knowing nothing of laglens."""

import math

import torch
from torch import nn


class Patched(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(4, 16), nn.Linear(16, 6)
        self.first = nn.Parameter(torch.zeros(1, 1, 16))
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, history):
        tokens = self.embed(history.unflatten(1, (-1, 4)))
        return self.head(self.encoder(torch.cat([self.first.expand(len(tokens), -1, -1), tokens], 1))[:, -1])


def network():
    torch.manual_seed(0)
    model = Patched()
    for weight in model.parameters():
        if weight.dim() >= 2:
            nn.init.normal_(weight, std=2 / math.sqrt(weight.shape[-1]))
    return model.eval()
'''


def patched() -> nn.Module:
    with torch.random.fork_rng():
        exec(NETWORK, space := {})
        return space["network"]()


def stacks() -> list[Stack]:
    tokens = TokenMap.patches(HISTORY, 0, PATCH, readout="last").with_special(before=1)
    return [Stack("encoder", tuple(f"encoder.layers.{i}.self_attn" for i in range(2)), tokens, tokens)]


def signal(seed: int = 0, length: int = 80) -> xr.Dataset:
    rng = np.random.default_rng(seed)
    values = np.sin(np.arange(length) / 2)[None] + 0.3 * rng.normal(size=(1, length))
    return xr.Dataset({"value": (("sample", "time"), values)}, attrs={"name": f"signal {seed}", "truth": {}})


@pytest.fixture
def shown(tmp_path: Path):
    """Windows of a signal and of its controls, and the file that holds them."""
    observed_signal = signal()
    control = make_control(observed_signal, 3)
    observed, controls = (windows(s["value"], HISTORY, HORIZON, 5) for s in (observed_signal, control))
    histories = shown_histories(observed, controls, HISTORY)
    write_windows(tmp_path / "windows.npz", histories)
    return observed, control, controls.assign_attrs(control.attrs), histories, tmp_path / "windows.npz"


def write_windows(path: Path, histories: dict[str, np.ndarray]) -> None:
    about = {"kind": WINDOWS, "history": HISTORY, "horizon": HORIZON, "statistics": STATISTICS}
    write_arrays(path, histories, about)


def in_agreement(here: xr.DataTree, there: xr.DataTree, *, maps: float = 1e-6) -> None:
    """Same nodes, labels and attributes; maps within a tolerance, statistics within 1e-4."""
    assert list(here.children) == list(there.children)
    for name, node in here.children.items():
        ours, theirs = node.to_dataset(inherit=False), there[name].to_dataset(inherit=False)
        assert set(ours.variables) == set(theirs.variables)
        assert ours.attrs == theirs.attrs
        for key, variable in ours.variables.items():
            other = theirs.variables[key]
            assert (variable.dims, variable.dtype, variable.attrs) == (other.dims, other.dtype, other.attrs), key
            if variable.dtype.kind == "f":
                tolerance = 1e-4 if key in STATISTICS else maps
                np.testing.assert_allclose(variable.values, other.values, atol=tolerance, rtol=0, err_msg=str(key))
            else:
                assert variable.equals(other), key


def both_ways(model: nn.Module, shown, path: Path, **options) -> tuple[list[xr.DataTree], list[xr.DataTree]]:
    """Time trees of the windows and of the controls, from running a model here and from recording it."""
    observed, control, controls, histories, file = shown
    normalisation = options.pop("normalisation", "mass")
    direct = [
        to_time(attention_tree(model, observed, store="time"), normalisation=normalisation),
        control_time_tree(
            model, control, lambda value: windows(value, HISTORY, HORIZON, 5), normalisation=normalisation
        ),
    ]
    record(options.pop("recorded", model), windows=file, output=path, **options)
    recording = Recording.read(path, histories)
    tree = recorded_tree(recording, observed, {})
    return direct, [
        to_time(tree, normalisation=normalisation),
        recorded_controls(recording, controls, {}, normalisation=normalisation),
    ]


@pytest.mark.parametrize("normalisation", ["mass", "mean"])
def test_a_recording_is_what_the_model_gives_here(shown, tmp_path: Path, normalisation: str) -> None:
    module = patched()
    model = adapt(module, history=HISTORY, horizon=HORIZON, stacks=stacks()).eval()
    direct, recorded = both_ways(
        model, shown, tmp_path / "r.npz", recorded=module, stacks=stacks(), batch=2, normalisation=normalisation
    )
    in_agreement(direct[0], recorded[0])
    in_agreement(direct[1], recorded[1], maps=1e-3)  # kept in float16
    np.testing.assert_allclose(direct[0]["forecast"], recorded[0]["forecast"], atol=1e-5)
    assert direct[0]["encoder"]["special_mass"].mean() > 0.01
    for here, there in zip(direct, recorded, strict=True):
        errors = [tree.attrs["certificate"]["worst"] for tree in (here, there)]
        assert max(errors) < 1e-4
        ours, theirs = (
            tree.attrs | {"certificate": tree.attrs["certificate"] | {"worst": 0}} for tree in (here, there)
        )
        assert ours == theirs


def test_decoding_steps_and_cross_attention_are_recorded(shown, tmp_path: Path) -> None:
    model = tiny("encoder_decoder", history=HISTORY, horizon=HORIZON)
    direct, recorded = both_ways(model, shown, tmp_path / "r.npz", batch=3)
    assert list(recorded[0].children) == ["encoder", "decoder", "cross"]
    in_agreement(direct[0], recorded[0], maps=1e-5)  # a step is fed with the rounding of those before
    in_agreement(direct[1], recorded[1], maps=1e-3)


def test_the_same_recording_is_the_same_bytes_whatever_lies_in_between(shown, tmp_path: Path) -> None:
    for name in ("a", "b"):
        record(patched(), windows=shown[4], output=tmp_path / f"{name}.npz", stacks=stacks())
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz", "windows.npz"]


FOREIGN = """
import sys

ABSENT = {"lazy_loader", "matplotlib", "numcodecs", "pandas", "pyarrow", "pydantic", "safetensors", "scipy",
          "snakemake", "statsmodels", "timm", "tqdm", "transformers", "xarray", "yaml", "zarr"}

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

sys.meta_path.insert(0, Missing())

from laglens.attention.recording import Stack, TokenMap, record
from my_network import network

tokens = TokenMap.patches(48, 0, 4, readout="last").with_special(before=1)
layers = tuple(f"encoder.layers.{i}.self_attn" for i in range(2))
stack = Stack("encoder", layers, query=tokens, key=tokens)
for signal in sys.argv[1:]:
    windows = f"results/windows/foreign/{signal}.npz"
    record(network(), windows=windows, output=f"recordings/{signal}.npz", stacks=[stack])
assert not ABSENT & {name.partition(".")[0] for name in sys.modules}
"""


def record_elsewhere(folder: Path, *signals: str) -> subprocess.CompletedProcess[str]:
    """Run the script of a person, who has torch and numpy and the source of laglens."""
    (folder / "my_network.py").write_text(NETWORK)
    (folder / "record.py").write_text(FOREIGN)
    return subprocess.run(
        [sys.executable, "record.py", *signals],
        cwd=folder,
        env={"PYTHONPATH": str(REPOSITORY / "src"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_torch_and_numpy_are_all_that_is_needed_to_record(shown, tmp_path: Path) -> None:
    (tmp_path / "results/windows/foreign").mkdir(parents=True)
    shown[4].rename(tmp_path / "results/windows/foreign/wave.npz")
    run = record_elsewhere(tmp_path, "wave")
    assert run.returncode == 0, run.stderr
    record(
        patched(), windows=tmp_path / "results/windows/foreign/wave.npz", output=tmp_path / "here.npz", stacks=stacks()
    )
    here, there = (read_arrays(tmp_path / name, "a recording") for name in ("here.npz", "recordings/wave.npz"))
    assert here[1].keys() == there[1].keys() and here[1]["stacks"] == there[1]["stacks"]
    for name, array in here[0].items():
        np.testing.assert_allclose(array, there[0][name], atol=1e-6, err_msg=name)


def test_a_recording_of_other_windows_is_refused(shown, tmp_path: Path) -> None:
    record(patched(), windows=shown[4], output=tmp_path / "r.npz", stacks=stacks())
    Recording.read(tmp_path / "r.npz", shown[3])
    other = {name: array.copy() for name, array in shown[3].items()}
    other["controls"][0, 0, 0] += 1e-9
    with pytest.raises(LaglensError, match="r.npz was recorded with other windows.*snakemake windows"):
        Recording.read(tmp_path / "r.npz", other)


def test_damaged_and_foreign_files_are_named(shown, tmp_path: Path) -> None:
    file, histories = shown[4], shown[3]
    with pytest.raises(LaglensError, match="no file '.*missing.npz'; make it with `snakemake windows`"):
        record(patched(), windows=tmp_path / "missing.npz", output=tmp_path / "r.npz")
    with pytest.raises(LaglensError, match="windows.npz: a file of windows, not of a recording"):
        Recording.read(file, histories)
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(LaglensError, match="text.npz: damaged, or not a file of windows"):
        record(patched(), windows=tmp_path / "text.npz", output=tmp_path / "r.npz")
    arrays, about = read_arrays(file, WINDOWS)
    arrays["histories"][0, 0] = 7.0
    np.savez(tmp_path / "altered.npz", about=np.array(json.dumps(about)), **arrays)
    with pytest.raises(LaglensError, match="altered.npz: damaged"):
        record(patched(), windows=tmp_path / "altered.npz", output=tmp_path / "r.npz")
    assert not (tmp_path / "r.npz").exists()


def test_what_cannot_be_read_is_not_recorded(shown, tmp_path: Path) -> None:
    options = {"windows": shown[4], "output": tmp_path / "r.npz"}
    with pytest.raises(LaglensError, match="cannot be told.*TokenMap"):
        record(patched(), **options)
    with pytest.raises(LaglensError, match="is in training mode"):
        record(patched().train(), stacks=stacks(), **options)
    (whole,) = stacks()
    with pytest.raises(LaglensError, match="belongs to no stack"):
        record(patched(), stacks=[replace(whole, layers=whole.layers[:1])], **options)
    with pytest.raises(LaglensError, match="not a tensor of shape"):
        record(patched(), stacks=stacks(), predict=lambda model, history: model(history.float())[:, :3], **options)
    with pytest.raises(LaglensError, match="not of 32 and 6"):
        record(tiny("encoder", history=32), **options)
    assert not (tmp_path / "r.npz").exists()


FACTORY = """
import laglens
from my_network import network

def build():
    tokens = laglens.TokenMap.patches(48, 0, 4, readout="last").with_special(before=1)
    layers = tuple(f"encoder.layers.{i}.self_attn" for i in range(2))
    return laglens.adapt(network(), history=48, horizon=6, stacks=[laglens.Stack("encoder", layers, tokens, tokens)])
"""


@pytest.fixture
def study(tmp_path: Path) -> WorkflowCopy:
    """A study of one network, run here and recorded elsewhere."""
    workflow = WorkflowCopy.create(tmp_path / "workflow")
    (workflow.root / "my_network.py").write_text(NETWORK)
    (workflow.root / "my_model.py").write_text(FACTORY)
    lengths = {"history": HISTORY, "horizon": HORIZON}
    workflow.configure(
        {
            "models": {
                "here": {"architecture": "factory", "factory": "my_model.py:build"},
                "foreign": {"architecture": "recording", "folder": "recordings", **lengths},
            },
            "runs": [{"models": ["here", "foreign"], "signals": ["wave"]}],
            "comparisons": None,
            "attention.dtype": "float32",
        }
    )
    return workflow


@pytest.mark.slow
def test_the_workflow_goes_on_from_a_recording_as_from_the_model_itself(study: WorkflowCopy) -> None:
    run = study.snakemake()
    lines = [line for line in run.stdout.splitlines() if line.startswith("import_recording: ")]
    assert run.returncode == 1 and len(lines) == 1, run.stdout
    assert "there is no recording 'recordings/wave.npz'" in lines[0] and "results/windows/foreign/wave.npz" in lines[0]
    assert study.stale()["import_recording"] == 1
    recorded = record_elsewhere(study.root, "wave")
    assert recorded.returncode == 0, recorded.stderr
    run = study.snakemake()
    assert run.returncode == 0, run.stdout
    assert study.stale() == {}
    study.edit("my_network.py", "def network():", "def network():  # of which there is one")
    assert study.stale() == {}
    results = study.results()
    for stage in ("lags", "heads", "flow"):
        here, foreign = (results[f"{stage}/{name}/wave.csv"].decode().splitlines() for name in ("here", "foreign"))
        assert len(here) == len(foreign) > 1
    assert not [name for name in results if name.startswith("attribution/foreign")]
    trees = [read_tree(study.root / f"results/time/{name}/wave.zarr.zip") for name in ("here", "foreign")]
    np.testing.assert_allclose(trees[0]["encoder"]["attention"], trees[1]["encoder"]["attention"], atol=1e-6)
    lags = [read_tree(study.root / f"results/lags/{name}/wave.zarr.zip")["encoder"] for name in ("here", "foreign")]
    np.testing.assert_allclose(lags[0]["ratio"], lags[1]["ratio"], atol=1e-5)
    study.edit("my_network.py", "manual_seed(0)", "manual_seed(1)")  # which my_model.py imports
    stale = study.stale()
    assert stale["load_model"] == stale["capture_attention"] == stale["capture_controls"] == 1
    assert not {"import_recording", "export_windows"} & set(stale)
    study.configure({"attention.windows": 5})
    run = study.snakemake()
    lines = [line for line in run.stdout.splitlines() if line.startswith("import_recording: ")]
    assert run.returncode == 1 and len(lines) == 1 and "recorded with other windows" in lines[0], run.stdout


def test_windows_can_be_asked_for_before_there_is_a_recording(study: WorkflowCopy) -> None:
    run = study.snakemake("windows")
    assert run.returncode == 0, run.stdout
    assert set(study.results()) >= {"windows/foreign/wave.npz"}
    assert not any(name.startswith(("attention/", "models/")) for name in study.results())
    arrays, about = read_arrays(study.root / "results/windows/foreign/wave.npz", WINDOWS)
    assert arrays["histories"].shape == (4, HISTORY) and arrays["controls"].shape == (19, 4, HISTORY)
    assert (about["history"], about["horizon"], about["signal"]) == (HISTORY, HORIZON, "wave")


def test_what_is_imported_elsewhere_is_in_the_syntax_of_python_3_9() -> None:
    files = "[m.__file__ for name, m in sys.modules.items() if name.startswith('laglens') and m.__file__]"
    program = f"import sys, laglens.attention.recording; print(*{files}, sep='\\n')"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert len(found) > 10
    assert {file: newer for file in found if (newer := too_new(Path(file).read_text()))} == {}


def too_new(text: str) -> list[str]:
    """What a text uses that Python 3.9 has not, of what is easily used unawares."""
    met = []
    tree = ast.parse(text, feature_version=(3, 9))
    checked = (
        node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    )
    unseen = {id(inner) for block in checked for inner in ast.walk(block)}
    for node in (node for node in ast.walk(tree) if id(node) not in unseen):
        if isinstance(node, ast.ImportFrom) and node.module == "typing":
            met += [alias.name for alias in node.names if alias.name in ("Self", "TypeAlias", "ParamSpec")]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            named = {keyword.arg for keyword in node.keywords}
            newer = {"zip": {"strict"}, "dataclass": {"slots", "kw_only"}}.get(node.func.id, set()) & named
            union = node.func.id in ("isinstance", "issubclass") and isinstance(node.args[1], ast.BinOp)
            met += [ast.unparse(node)] if newer or union else []
    return met


def test_newer_syntax_would_be_seen() -> None:
    newer = ["from typing import Self", "zip(a, b, strict=True)", "isinstance(a, int | str)"]
    assert sorted(too_new("\n".join(newer))) == sorted(["Self", *newer[1:]])
    with pytest.raises(SyntaxError):
        too_new("match a:\n    case 1:\n        pass\n")
