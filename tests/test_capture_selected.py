"""ProbSparse attention computes some of the queries only: their rows are placed by index."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from attention_models import Projected
from models import entropy_ratio, sharpen
from torch import nn

from laglens.attention.capture import read_attention


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Biases of the models are drawn when they are built."""
    torch.manual_seed(0)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class ProbSparseAttention(Projected):
    """The `top` queries furthest from uniform attention see the keys; the others get the mean of the values.

    Zhou et al. 2021, "Informer: Beyond Efficient Transformer for Long Sequence Time-Series Forecasting".
    """

    top = 4

    def weigh(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        score = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
        chosen = (score.amax(-1) - score.mean(-1)).topk(self.top, sorted=False).indices
        rows = score.gather(2, chosen[..., None].expand(*chosen.shape, score.shape[-1]))
        update = torch.softmax(rows, -1) @ value
        context = value.mean(2, keepdim=True).expand_as(value).clone()
        return context.scatter(2, chosen[..., None].expand_as(update), update)


class FlatProbSparseAttention(ProbSparseAttention):
    """Batch and heads in one axis of the scores, not of the indices."""

    def weigh(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        score = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
        chosen = torch.topk(score.amax(-1) - score.mean(-1), self.top)[1]
        rows = score.gather(2, chosen[..., None].expand(*chosen.shape, score.shape[-1])).flatten(0, 1)
        update = torch.bmm(torch.softmax(rows, -1), value.flatten(0, 1)).unflatten(0, chosen.shape[:2])
        context = value.mean(2, keepdim=True).expand_as(value).clone()
        return context.scatter(2, chosen[..., None].expand_as(update), update)


class FusedProbSparseAttention(ProbSparseAttention):
    """The chosen queries go to torch's own function."""

    def weigh(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        score = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
        chosen = (score.amax(-1) - score.mean(-1)).topk(self.top).indices
        rows = query.gather(2, chosen[..., None].expand(*chosen.shape, query.shape[-1]))
        update = F.scaled_dot_product_attention(rows, key, value)
        context = value.mean(2, keepdim=True).expand_as(value).clone()
        return context.scatter(2, chosen[..., None].expand_as(update), update)


@pytest.mark.parametrize("kind", [ProbSparseAttention, FlatProbSparseAttention, FusedProbSparseAttention])
@pytest.mark.parametrize("top", [4, 9])
def test_rows_in_place_times_the_values_are_the_output(kind: type, top: int) -> None:
    model, x = sharpen(kind()), drawn(3, 9, 8)
    model.top = top
    seen: list[torch.Tensor] = []
    model.output.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    _, capture = read_attention(model, x)
    record = capture.records[0]
    weights, selected = record.weights.reshape(3, 2, top, 9), record.selected.reshape(3, 2, top)
    assert record.selected.shape == record.weights.shape[:-1]
    assert record.shape == (top, 9) and record.selected.dtype == torch.long
    assert entropy_ratio(weights) < 0.9
    full = torch.full((3, 2, 9, 9), 1 / 9).scatter(2, selected[..., None].expand(3, 2, top, 9), weights)
    value = model.inputs(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)[2]
    torch.testing.assert_close((full @ value).transpose(1, 2).flatten(2), seen[0], atol=2e-6, rtol=1e-5)


def test_a_batch_of_two_selects_as_two_batches_of_one() -> None:
    model, x = sharpen(ProbSparseAttention()), drawn(2, 9, 8)
    _, together = read_attention(model, x)
    for i, sample in enumerate(x):
        _, alone = read_attention(model, sample[None])
        assert torch.equal(alone.records[0].selected[0], together.records[0].selected[i])


class SparseKeysAttention(Projected):
    """Takes the top of the keys of each query: no query is left out."""

    def weigh(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        score = query @ key.transpose(-2, -1)
        least = score.topk(5, -1).values[..., -1:]
        return torch.softmax(score.masked_fill(score < least, -math.inf), -1) @ value


def test_the_top_of_something_else_selects_no_queries() -> None:
    _, capture = read_attention(sharpen(SparseKeysAttention()), drawn(2, 5, 8))
    assert capture.records[0].selected is None


class OnceSparseAttention(ProbSparseAttention):
    """Sparse at its first call only; then all queries in order."""

    calls = 0

    def weigh(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return (
            super().weigh(query, key, value) if self.calls == 1 else F.scaled_dot_product_attention(query, key, value)
        )


def test_what_one_call_selects_is_forgotten_at_the_next() -> None:
    layer = sharpen(OnceSparseAttention())
    layer.top = 9
    _, capture = read_attention(nn.Sequential(layer, nn.Identity(), layer).eval(), drawn(2, 9, 8))
    assert [record.selected is None for record in capture.records] == [False, True]


@pytest.fixture
def informer() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    transformers = pytest.importorskip("transformers")
    config = transformers.InformerConfig(
        prediction_length=6,
        context_length=24,
        lags_sequence=[1],
        num_time_features=1,
        d_model=16,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        sampling_factor=1,
        distil=False,
    )
    inputs = {
        "past_values": drawn(3, 25),
        "past_time_features": drawn(3, 25, 1, seed=1),
        "past_observed_mask": torch.ones(3, 25),
        "future_values": drawn(3, 6, seed=2),
        "future_time_features": drawn(3, 6, 1, seed=3),
    }
    return sharpen(transformers.InformerForPrediction(config)), inputs


def test_informer_rows_are_placed_by_index(informer: tuple[nn.Module, dict[str, torch.Tensor]]) -> None:
    """Rows in place, the mean elsewhere, times the values: the context that the model passed on."""
    model, inputs = informer
    attention = model.model.encoder.layers[0].self_attn
    passed: dict[str, torch.Tensor] = {}
    attention.v_proj.register_forward_hook(lambda module, args, output: passed.update(value=output))
    attention.out_proj.register_forward_pre_hook(lambda module, args: passed.update(context=args[0]))
    torch.manual_seed(0)
    _, capture = read_attention(model, **inputs)
    record = next(r for r in capture.records if r.module == "model.encoder.layers.0.self_attn")
    assert record.weights.shape == (3 * 2, 4, 24) and record.selected.shape == (3 * 2, 4)
    assert len({tuple(row) for row in record.selected.sort().values.tolist()}) > 1
    rows = torch.full((6, 24, 24), 1 / 24)
    rows = rows.scatter(1, record.selected[..., None].expand(6, 4, 24), record.weights)
    value = passed["value"].unflatten(-1, (2, 8)).transpose(1, 2)
    context = (rows.unflatten(0, (3, 2)) @ value).transpose(1, 2).flatten(2)
    torch.testing.assert_close(context, passed["context"], atol=2e-6, rtol=1e-5)
    causal = next(r for r in capture.records if r.module == "model.decoder.layers.0.self_attn")
    later = torch.arange(6) > causal.selected[..., None]
    assert causal.weights[later].abs().max() == 0
    cross = next(r for r in capture.records if r.module == "model.decoder.layers.0.encoder_attn")
    assert cross.selected is None and cross.shape == (6, 24)


def test_informer_sampling_is_repeatable_by_its_seed(informer: tuple[nn.Module, dict[str, torch.Tensor]]) -> None:
    model, inputs = informer
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        found.append(read_attention(model, **inputs)[1].records)
    for first, second in zip(*found, strict=True):
        assert torch.equal(first.weights, second.weights)
