"""The capture runs in a model's own environment, which may be old and have little in it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ALONE = """
import sys, torch, numpy

present = {name.partition(".")[0] for name in sys.modules} | set(sys.stdlib_module_names)

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in present | {"laglens"}:
            raise ImportError(f"{name} is not installed")

sys.meta_path.insert(0, Nothing())
"""
CAPTURE = """
from laglens.attention.capture import AttentionCapture, read_attention

class EagerAttention(torch.nn.Module):
    def forward(self, x):
        return torch.softmax(x @ x.transpose(1, 2), -1) @ x

layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
model = torch.nn.Sequential(layer, EagerAttention()).eval()
x = torch.randn(2, 5, 8)
_, capture = read_attention(model, x)
_, cut = read_attention(model, x, edit=lambda call: call.without(torch.eye(5, dtype=torch.bool)))
print([record.source for record in capture.records], cut.records[0].weights.diagonal(0, 2, 3).max().item())
"""
MODULES = ("laglens.attention.capture", "laglens.attention.streaming", "laglens.models.tokens", "laglens.errors")


def run(program: str) -> str:
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_the_capture_needs_torch_and_numpy_alone() -> None:
    assert run(ALONE + CAPTURE) == "['mha', 'softmax'] 0.0"


@pytest.mark.parametrize("module", MODULES)
def test_what_it_imports_is_written_for_python_3_9(module: str) -> None:
    """And needs nothing beyond torch, numpy and what these bring."""
    show = f"import {module}\nprint(*(m.__file__ for n, m in sys.modules.items() if n.startswith('laglens')))"
    files = run(ALONE + show).split()
    assert len(files) > 1
    for file in files:
        tree = ast.parse(Path(file).read_text(), feature_version=(3, 9))
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        zips = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "zip"]
        assert not any(call.keywords for call in zips), f"{file}: zip(strict=...) needs Python 3.10"
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
        assert not imported & {"Self", "TypeAlias", "ParamSpec", "assert_never", "override", "pairwise"}, file
        annotated = any(isinstance(node, (ast.arg, ast.AnnAssign)) and node.annotation for node in ast.walk(tree))
        assert not annotated or "annotations" in imported, f"{file}: annotations are evaluated"
