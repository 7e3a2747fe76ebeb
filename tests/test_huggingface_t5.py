"""T5, on which Chronos and MOMENT are built: position biases, cross-attention, decoding with and without a cache."""

import copy

import pytest
import torch
from models import entropy_ratio, sharpen

from laglens.attention.capture import read_attention

N_INPUT, N_OUTPUT = 20, 7


@pytest.fixture(scope="module")
def t5():
    from transformers.models.t5.configuration_t5 import T5Config
    from transformers.models.t5.modeling_t5 import T5ForConditionalGeneration

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = T5Config(
            vocab_size=50,
            d_model=32,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            relative_attention_num_buckets=8,
            relative_attention_max_distance=16,
            decoder_start_token_id=0,
            eos_token_id=None,
        )
        model = sharpen(T5ForConditionalGeneration(config), 1.2)
        # The position bias is a table, not a projection: of the size of the scores.
        for stack in (model.encoder, model.decoder):
            torch.nn.init.normal_(stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight, std=2)
    return model


@pytest.fixture(scope="module")
def words():
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randint(1, 50, (3, n), generator=generator) for n in (N_INPUT, N_OUTPUT))


@torch.no_grad()
def eager(model, **inputs):
    model = copy.deepcopy(model)
    model.set_attn_implementation("eager")
    return model(**inputs, output_attentions=True)


def by_kind(records):
    kinds = {"encoder.": [], "SelfAttention": [], "EncDecAttention": []}
    for record in records:
        kinds[next(kind for kind in kinds if kind in record.module)].append(record)
    return {"encoder": kinds["encoder."], "decoder": kinds["SelfAttention"], "cross": kinds["EncDecAttention"]}


@pytest.mark.parametrize("padded", [False, True])
def test_weights_of_all_three_kinds_are_those_of_eager_attention(t5, words, padded):
    mask = torch.ones(3, N_INPUT, dtype=torch.long)
    if padded:
        mask[1, 12:] = 0
    inputs = {"input_ids": words[0], "decoder_input_ids": words[1], "attention_mask": mask}
    expected = eager(t5, **inputs)
    output, capture = read_attention(t5, **inputs)
    torch.testing.assert_close(output.logits, expected.logits, rtol=1e-4, atol=1e-4)
    found = by_kind(capture.records)
    of_library = {
        "encoder": expected.encoder_attentions,
        "decoder": expected.decoder_attentions,
        "cross": expected.cross_attentions,
    }
    for kind, attentions in of_library.items():
        assert len(found[kind]) == len(attentions) == 2
        for record, weights in zip(found[kind], attentions, strict=True):
            torch.testing.assert_close(record.weights, weights, rtol=1e-4, atol=2e-5)
            assert record.error <= 1e-5
        assert entropy_ratio(torch.stack([record.weights for record in found[kind]])) < 0.9
    assert all((record.weights.triu(1) == 0).all() for record in found["decoder"])
    if padded:
        assert all((record.weights[1, ..., 12:] == 0).all() for record in found["encoder"] + found["cross"])


def test_position_bias_of_the_first_layer_is_in_all(t5, words):
    """Recomputed in float64 without the bias, the maps of no layer agree; with it, all do."""
    projected = {}
    hooks = []
    for name, module in t5.named_modules():
        if name.startswith("encoder.") and name.endswith((".q", ".k")):
            hooks.append(
                module.register_forward_hook(lambda _, args, output, name=name: projected.update({name: output}))
            )
    _, capture = read_attention(t5, input_ids=words[0], decoder_input_ids=words[1])
    for hook in hooks:
        hook.remove()
    with torch.no_grad():
        bias = t5.encoder.block[0].layer[0].SelfAttention.compute_bias(N_INPUT, N_INPUT, device="cpu").double()
    for record in by_kind(capture.records)["encoder"]:
        query, key = (projected[f"{record.module}.{part}"].unflatten(-1, (4, 8)).transpose(1, 2) for part in "qk")
        score = query.double() @ key.double().transpose(-2, -1)
        torch.testing.assert_close(record.weights.double(), (score + bias).softmax(-1), rtol=1e-4, atol=1e-5)
        assert (record.weights - score.softmax(-1)).abs().max() > 0.1


@pytest.mark.parametrize("use_cache", [True, False])
def test_generation_gives_the_rows_of_one_pass(t5, words, use_cache):
    """Each step's last row, whether it runs on one query with cached keys or on all so far."""

    class Generating(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.t5 = t5

        def forward(self, tokens):
            return self.t5.generate(
                tokens, max_new_tokens=N_OUTPUT, min_new_tokens=N_OUTPUT, do_sample=False, use_cache=use_cache
            )

    generated, capture = read_attention(Generating().eval(), words[0])
    expected = eager(t5, input_ids=words[0], decoder_input_ids=generated[:, :-1])
    found = by_kind(capture.records)
    for kind, attentions in (("decoder", expected.decoder_attentions), ("cross", expected.cross_attentions)):
        for layer, weights in enumerate(attentions):
            steps = [record for record in found[kind] if f"block.{layer}." in record.module]
            assert len(steps) == N_OUTPUT
            for step, record in enumerate(steps):
                assert record.shape[0] == (1 if use_cache else step + 1)
                row = record.weights[..., -1, :]
                torch.testing.assert_close(row, weights[:, :, step, : row.shape[-1]], rtol=1e-4, atol=2e-5)
