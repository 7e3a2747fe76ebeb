"""A reader decides what is kept of a call, and may take the place of the model's kernel."""

from __future__ import annotations

import math

import pytest
import torch
from attention_models import EagerAttention, FusedAttention
from models import sharpen
from torch import nn

from laglens.attention.calls import AttentionCall, Reading
from laglens.attention.capture import AttentionCapture, read_attention
from laglens.attention.weights import attention_weights, weights_of


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Biases of the models are drawn when they are built."""
    torch.manual_seed(0)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Rows:
    """Keeps the sums of the rows of one module."""

    def read(self, call: AttentionCall) -> Reading | None:
        if call.module != "0":
            return None
        return Reading(reduced={"rows": weights_of(call).sum(-1)})


def test_a_reader_decides_what_is_kept() -> None:
    model, x = sharpen(nn.Sequential(FusedAttention(), EagerAttention())), drawn(2, 9, 8)
    _, capture = read_attention(model, x, reader=Rows())
    kept, left = capture.records
    assert kept.weights is None and list(kept.reduced) == ["rows"] and kept.reduced["rows"].shape == (2, 2, 9)
    assert (left.weights, left.reduced, left.shape) == (None, None, (9, 9))
    assert capture.certificate["captured"] == 2


class Mine:
    """Replaces the kernel, and keeps weights that gradients reach."""

    def __init__(self) -> None:
        self.weights: list[torch.Tensor] = []

    def read(self, call: AttentionCall) -> Reading:
        query, key, value = call.operands
        self.weights.append(attention_weights(query, key, call.mask, call.is_causal, call.scale))
        return Reading(reduced={}, output=self.weights[-1] @ value)


def test_a_reader_may_replace_the_kernel_and_is_certified_against_it() -> None:
    model, x = sharpen(nn.Sequential(FusedAttention(), FusedAttention())), drawn(2, 9, 8)
    plain, _ = read_attention(model, x)
    for certify in (True, False):
        output, capture = read_attention(model, x, reader=Mine(), certify=certify)
        torch.testing.assert_close(output, plain, atol=1e-5, rtol=1e-5)
        assert [math.isnan(record.error) for record in capture.records] == [not certify] * 2
    assert capture.certificate["worst"] == 0 == capture.records[0].empty_rows


def test_gradients_reach_the_weights_of_a_replacing_reader() -> None:
    """The gradient of layer i has the identity and the shape of layer i, and two runs agree."""
    model, x = sharpen(nn.Sequential(FusedAttention(heads=2), FusedAttention(heads=4))), drawn(2, 9, 8)
    found = []
    for _ in range(2):
        with AttentionCapture(model, reader=(reader := Mine()), certify=False):
            output = model(x)
        found.append(torch.autograd.grad(output.square().sum(), reader.weights))
    assert [gradient.shape for gradient in found[0]] == [(2, 2, 9, 9), (2, 4, 9, 9)]
    for first, second in zip(*found, strict=True):
        assert first.abs().max() > 0
        torch.testing.assert_close(first, second)
