"""Softmax that a model writes out: what is attention, what only looks like it, and what entered the product."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from attention_models import EagerAttention, Gate
from models import sharpen
from torch import nn

from laglens.attention.calls import AttentionCall
from laglens.attention.capture import read_attention


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Biases of the models are drawn when they are built."""
    torch.manual_seed(0)


class Halved(nn.Module):
    """Softmax in float32, product in half precision, as T5 does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = F.softmax((x @ x.transpose(1, 2)).float(), dim=-1).type_as(x)
        return torch.bmm(F.dropout(weights, 0.1, self.training).view(2, 9, 9), x)


class MaskedAfter(nn.Module):
    """Rows without a visible key are NaN after the softmax, and set to 0."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.zeros(9, 9, dtype=torch.bool)
        hidden[2], hidden[:, 5] = True, True
        weights = (x @ x.transpose(1, 2)).masked_fill(hidden, -math.inf).softmax(-1)
        return weights.masked_fill(hidden, 0.0) @ x


class InPlace(nn.Module):
    """Weights are changed in place between the softmax and the product."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = torch.softmax(x @ x.transpose(1, 2), -1)
        weights.clone().zero_()
        weights[:, :, 3] = 0
        return weights @ x


class CopyInPlace(nn.Module):
    """A cast copy of the weights is changed in place."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = torch.softmax((x @ x.transpose(1, 2)).double(), -1).float()
        weights[:, :, 3] = 0
        return weights @ x


class Einsum(nn.Module):
    """Values first, operands in a list."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = torch.special.softmax(torch.einsum("bqd,bkd->bqk", x, x), -1)
        return torch.einsum("b k d, b q k -> b q d", [x, weights])


@pytest.mark.parametrize("kind", [Halved, MaskedAfter, InPlace, CopyInPlace, Einsum])
def test_softmax_written_out_is_read_as_it_enters_the_product(kind: type) -> None:
    """The weights times the values are the output, computed outside the model."""
    x = drawn(2, 9, 6)
    output, capture = read_attention(kind().eval(), x)
    record = capture.records[0]
    assert (record.source, record.shape) == ("softmax", (9, 9)) and math.isnan(record.error)
    torch.testing.assert_close(record.weights @ x, output, atol=1e-5, rtol=1e-5)
    assert capture.ignored == []


class Router(nn.Module):
    """Experts of a router, a softmax over queries and one over two axes: none is attention over keys."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        experts = torch.stack([x, x.flip(-1)], 2)
        mixed = torch.einsum("bte,bted->btd", torch.softmax(x[..., :2], -1), experts)
        slots = torch.softmax(x @ x.transpose(1, 2), 1) @ x
        bins = torch.softmax(x, -1).view(2, 6, 9) @ x
        return mixed + slots + F.pad(bins, (0, 0, 0, 3))


def test_only_the_softmax_that_weights_values_is_attention() -> None:
    x = drawn(2, 9, 6)
    _, capture = read_attention(nn.Sequential(Gate(), Router(), sharpen(EagerAttention(6))).eval(), x)
    assert [record.module for record in capture.records] == ["2"]
    assert sorted(capture.ignored) == [("0", (2, 9, 6))] * 3 + [("1", (2, 9, 2)), ("1", (2, 9, 6))]


def test_a_softmax_that_is_a_module_belongs_to_the_module_that_calls_it() -> None:
    class SelfAttention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.normalise = nn.Softmax(-1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.normalise(x @ x.transpose(1, 2)) @ x

    _, capture = read_attention(nn.Sequential(SelfAttention()).eval(), drawn(2, 9, 6))
    assert [record.module for record in capture.records] == ["0"]


@pytest.mark.parametrize(
    ("equation", "value"),
    [
        ("bhqk,bkhd->bqhd", (2, 7, 3, 4)),  # keys before heads, as Informer's authors and many others write it
        ("bhqk,bkd->bhqd", (2, 7, 4)),  # heads share their values
        ("kdh,bhqk->bqdh", (7, 4, 3)),  # and so do samples
        ("bhqk,bhkde->bhqde", (2, 3, 7, 2, 2)),  # two axes of width
    ],
)
def test_values_of_any_layout_are_handed_on_beside_the_weights(equation: str, value: tuple[int, ...]) -> None:
    values, calls = drawn(*value, seed=1), []

    class Layout(nn.Module):
        def forward(self, scores: torch.Tensor) -> torch.Tensor:
            weights = scores.softmax(-1)
            operands = [weights, values] if equation.startswith("bhqk") else [values, weights]
            return torch.einsum(equation, *operands)

    class Keep:
        def read(self, call: AttentionCall) -> None:
            calls.append(call)

    scores = drawn(2, 3, 5, 7)
    output, _ = read_attention(Layout().eval(), scores, reader=Keep(), certify=False)
    letters = equation.split("->")[1]
    width = [letter for letter in letters if letter not in "bhq"]
    expected = output.permute([letters.index(letter) for letter in (*"bhq", *width)]).flatten(3)
    (call,) = calls
    assert call.value.dim() == 4
    torch.testing.assert_close(call.weights @ call.value, expected)
