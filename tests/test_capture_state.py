"""A capture leaves the model and torch as they were, whatever happens."""

from __future__ import annotations

import math
import weakref

import pytest
import torch
import torch.nn.functional as F
from attention_models import EagerAttention, FusedAttention, records_of
from models import sharpen
from torch import nn

from laglens.attention.capture import AttentionCapture, read_attention
from laglens.errors import LaglensError

X = torch.randn(2, 9, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Biases of the models are drawn when they are built."""
    torch.manual_seed(0)


def nothing_remains(model: nn.Module) -> bool:
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    patched = F.scaled_dot_product_attention is not torch._C._nn.scaled_dot_product_attention
    return not (hooked or patched or torch.overrides._get_current_function_mode_stack())


def test_a_refused_capture_leaves_nothing_behind() -> None:
    model = sharpen(FusedAttention()).train()
    with pytest.raises(LaglensError, match="training mode"), AttentionCapture(model):
        pass
    assert nothing_remains(model)


def test_an_exception_in_the_model_leaves_nothing_behind() -> None:
    """The published demo and others leave hooks on the model."""

    class Failing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ZeroDivisionError

    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    for model in (nn.Sequential(FusedAttention(), Failing()), nn.Sequential(nn.Sequential(Failing()), attention)):
        with pytest.raises(ZeroDivisionError):
            read_attention(model.eval(), X)
        assert nothing_remains(model)
    with pytest.raises(
        RuntimeError, match="3D attn_mask"
    ):  # raised inside multi-head attention, while its inner call is redirected
        read_attention(attention.eval(), X, X, X, attn_mask=torch.zeros(3, 9, 9))
    assert nothing_remains(attention)


def test_two_captures_on_one_object_agree_and_leave_it_as_it_was() -> None:
    """The published demo breaks at the second call."""
    model = sharpen(
        nn.Sequential(FusedAttention(), EagerAttention(), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))
    )
    with torch.no_grad():
        before = model(X)
    (first_output, first), (second_output, second) = read_attention(model, X), read_attention(model, X)
    assert torch.equal(first_output, second_output)
    for one, other in zip(first.records, second.records, strict=True):
        assert (one.module, one.call, one.error) == (other.module, other.call, other.error) or math.isnan(one.error)
        assert torch.equal(one.weights, other.weights)
    assert nothing_remains(model)
    with torch.no_grad():
        assert torch.equal(model(X), before)


def test_hooks_change_no_output() -> None:
    """A forward hook that returns something replaces the output of its module."""
    model = sharpen(nn.Sequential(FusedAttention(), nn.Sequential(nn.Linear(8, 8), EagerAttention())))
    with torch.no_grad():
        expected = model(X)
    output, _ = read_attention(model, X)
    assert torch.equal(output, expected)


def test_softmax_results_are_let_go_when_the_model_returns() -> None:
    held: list[weakref.ref] = []

    class Head(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found = torch.softmax(x, -1)
            held.append(weakref.ref(found))
            return found.argmax(-1)

    model = nn.Sequential(FusedAttention(), Head()).eval()
    with torch.no_grad(), AttentionCapture(model) as capture:
        model(X)
        assert [reference() for reference in held] == [None]
        model(X)
    assert capture.ignored == [("1", (2, 9, 8))] * 2
    assert len(records_of(model, X)) == 1


def test_softmax_results_are_let_go_when_the_model_is_not_called_as_a_whole() -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = FusedAttention()

        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return torch.softmax(self.attention(x), -1)

    model = Parts().eval()
    with torch.no_grad(), AttentionCapture(model) as capture:
        held = weakref.ref(model.encode(X))
    assert held() is None
    assert capture.ignored == [("", (2, 9, 8))]
