"""What cannot be read, or is not what the model used, is an error that names the module and the way out."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from attention_models import (
    ByName,
    Call,
    EagerAttention,
    FlashAttention,
    FusedAttention,
    Projected,
    SpectralAttention,
    TalkingHeadsAttention,
)
from models import sharpen, tiny
from torch import nn

from laglens.attention.calls import AttentionCall, Reading
from laglens.attention.capture import AttentionCapture, read_attention
from laglens.attention.weights import attention_weights
from laglens.errors import LaglensError
from laglens.models.forecaster import Forecaster
from laglens.models.tokens import Stack, TokenMap


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Biases of the models are drawn when they are built."""
    torch.manual_seed(0)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X = drawn(2, 9, 8)


def refusal(model: nn.Module, *inputs: torch.Tensor, **options) -> str:
    with pytest.raises(LaglensError) as caught:
        read_attention(model.eval(), *(inputs or (X,)), **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_custom_kernel_is_missed_loudly() -> None:
    """Flash-attn, xformers and the like: other tools return an empty dict, or fewer layers than there are."""
    message = refusal(nn.Sequential(FusedAttention(), FlashAttention(), FusedAttention()))
    assert message.startswith("found 3 attention modules, captured 2: nothing seen in 1; kernels of flash-attn")
    assert "switch the model to torch's own attention" in message


def test_a_kernel_registered_with_torch_is_named() -> None:
    """Even in a module that is not called attention, and beside attention that can be read."""

    @torch.library.custom_op("laglens_test::flash_attn_forward", mutates_args=())
    def flash(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return attention_weights(query, key) @ value

    class Mixer(Projected):
        def weigh(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            first = F.scaled_dot_product_attention(query, key, value)
            return first + torch.ops.laglens_test.flash_attn_forward(query, key, value)

    message = refusal(nn.Sequential(FusedAttention(), Mixer()))
    assert message.startswith("found 2 attention modules, captured 1: nothing seen in 1; laglens_test.flash_attn")
    assert "attn_implementation='sdpa'" in message


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_is_named() -> None:
    from torch.nn.attention.flex_attention import flex_attention

    class Flexible(Projected):
        def weigh(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            return flex_attention(query, key, value)

    message = refusal(nn.Sequential(FusedAttention(32), Flexible(32)), drawn(2, 16, 32))
    assert message.startswith("found 2 attention modules, captured 1: nothing seen in 1; flex_attention ran there")


def test_replaced_attention_of_torch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """SageAttention advises to replace torch's function, which a tool that patches it itself would overwrite."""

    def quantised(query, key, value, **options):
        return value

    monkeypatch.setattr(F, "scaled_dot_product_attention", quantised)
    assert "was replaced by 'quantised', whose weights cannot be read; undo" in refusal(FusedAttention())
    assert F.scaled_dot_product_attention is quantised


def test_cait_with_its_talking_heads_is_not_captured_in_part() -> None:
    """Others return the unmixed softmax of these blocks, or only those of the class blocks."""
    from timm.models.cait import Cait

    model = Cait(img_size=64, patch_size=16, embed_dim=32, depth=4, num_heads=4, num_classes=0)
    message = refusal(sharpen(model), drawn(1, 3, 64, 64))
    assert message.startswith("found 6 attention modules, captured 2: nothing seen in blocks.0.attn, blocks.1.attn,")
    assert "and 1 more; their softmax is changed before it meets the values" in message
    assert "captured 0: nothing seen in the model itself; their softmax is changed" in refusal(TalkingHeadsAttention())


def test_attention_without_a_softmax_is_missed_loudly() -> None:
    message = refusal(nn.Sequential(ByName(), SpectralAttention()))
    assert message.startswith("found 1 attention modules, captured 0: nothing seen in 1;")


def test_a_model_without_attention_is_an_error() -> None:
    assert refusal(nn.Linear(8, 8)).startswith("found 0 attention modules, captured 0: nothing seen in any module;")


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")  # deprecated, and still met
@pytest.mark.parametrize("compiler", ["trace", "script"])
@pytest.mark.parametrize("attention", [FusedAttention, ByName, nn.MultiheadAttention])
def test_compiled_attention_is_an_error_not_an_empty_result(attention: type, compiler: str) -> None:
    """Also inside another model, and where the class is not called attention."""
    if attention is nn.MultiheadAttention:
        layer: nn.Module = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    elif compiler == "script":
        layer = {FusedAttention: ScriptedAttention, ByName: Scripted}[attention]()
    else:
        layer = attention()
    with torch.no_grad():
        compiled = torch.jit.trace(layer.eval(), (X,)) if compiler == "trace" else torch.jit.script(layer.eval())
    assert "nothing seen in the model itself; the model itself is compiled (jit)" in refusal(compiled)
    message = refusal(nn.Sequential(FusedAttention(), compiled))
    assert message.startswith("found 2 attention modules, captured 1: nothing seen in 1; 1 is compiled (jit)")
    assert message.endswith("read the module it was made from")


class Scripted(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(x, x, x)


class ScriptedAttention(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x @ x.transpose(1, 2), -1) @ x


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_compiled_code_without_attention_does_no_harm() -> None:
    with torch.no_grad():
        compiled = torch.jit.trace(nn.Sequential(nn.Linear(8, 8), nn.GELU()).eval(), (X,))
    _, capture = read_attention(nn.Sequential(compiled, FusedAttention()).eval(), X)
    assert capture.certificate["found"] == capture.certificate["captured"] == 1


def test_training_mode_is_refused() -> None:
    model = nn.Sequential(FusedAttention(), nn.Dropout(0.1))
    with pytest.raises(
        LaglensError, match=r"training mode \(Sequential, 0, 0.inputs and 2 more\), so .*call model.eval\(\) first"
    ):
        read_attention(model.train(), X)
    model.eval()[1].train()
    with pytest.raises(LaglensError, match=r"training mode \(1\)"), AttentionCapture(model):
        pass


def test_a_compiled_model_is_refused_where_torch_cannot_step_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before torch 2.6 a compiled model would be compiled again, with the capture in it or without."""
    model = nn.Sequential(torch.compile(FusedAttention(), backend="eager")).eval()
    monkeypatch.delattr(torch.compiler, "set_stance")
    assert refusal(model).startswith("0 is compiled by torch.compile")


def test_dropout_in_evaluation_mode_is_refused() -> None:
    query = drawn(1, 2, 5, 8)
    assert "'' drops attention at random (dropout_p=0.3) even in evaluation" in refusal(
        Call(dropout_p=0.3), query, query, query
    )


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_name_the_first_broken_module(value: float) -> None:
    model = tiny("numeric")
    with torch.no_grad():
        model.encoder[1].mlp.fc1.weight[0, 0] = value
        model.decoder[0].attn.qkv.weight[0, 0] = math.nan
    message = refusal(model, drawn(2, model.history).double())
    assert message.startswith("attention weights of '")
    assert "are not finite: 'weight' of 'encoder.1.mlp.fc1' is the first weight that holds NaN or infinite" in message


def test_broken_weights_behind_the_attention_are_found_in_the_output() -> None:
    model = sharpen(nn.Sequential(FusedAttention(), nn.Linear(8, 4)))
    with torch.no_grad():
        model[1].bias[0] = math.nan
    assert refusal(model).startswith("the output of the model is NaN: 'bias' of '1' is the first weight that holds")


def test_nan_in_the_input_is_not_blamed_on_the_weights() -> None:
    broken = X.clone()
    broken[0, 0] = math.nan
    model = sharpen(FusedAttention())
    model.register_buffer("mask", torch.full((3, 3), -math.inf).triu(1))  # infinite, as masks are
    message = refusal(model, broken)
    assert "are not finite, though all weights of the model are; look for NaN in the input" in message


class Wrong:
    """Uniform weights, or the mean as the output."""

    def __init__(self, replaces: bool) -> None:
        self.replaces = replaces

    def read(self, call: AttentionCall) -> Reading:
        query, key, value = call.operands
        uniform = torch.full((*query.shape[:-1], key.shape[-2]), 1 / key.shape[-2])
        return Reading(reduced={}, output=uniform @ value) if self.replaces else Reading(weights=uniform)


@pytest.mark.parametrize("replaces", [False, True])
def test_weights_that_are_not_those_of_the_kernel_fail_the_certificate(replaces: bool) -> None:
    model = sharpen(nn.Sequential(FusedAttention(), FusedAttention()))
    message = refusal(model, reader=Wrong(replaces))
    assert message.startswith("'0': the captured weights do not reproduce its output (relative error")
    assert "tolerance 1e-04" in message


def test_an_output_that_is_nan_fails_the_certificate() -> None:
    """NaN compares false with every tolerance."""

    class Broken:
        def read(self, call: AttentionCall) -> Reading:
            return Reading(reduced={}, output=torch.full_like(call.operands[0], math.nan))

    assert "relative error inf" in refusal(sharpen(FusedAttention()), reader=Broken())


class Gated(nn.Module):
    """Named attention, but a gate."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x, -1) * x


def test_modules_that_are_no_attention_are_excused_with_a_reason() -> None:
    """PatchTSMixer calls its gates attention."""

    class GatedAttention(Gated):
        pass

    model = nn.Sequential(FusedAttention(), nn.Sequential(GatedAttention(), GatedAttention())).eval()
    assert refusal(model).startswith("found 3 attention modules, captured 1: nothing seen in 1.0, 1.1; ")
    for name in ("GatedAttention", "1."):
        _, capture = read_attention(model, X, not_attention={name: "gates over features"})
        assert capture.certificate["found"] == capture.certificate["captured"] == 1
        assert capture.certificate["excused"] == {"1.0": "gates over features", "1.1": "gates over features"}
    assert "captured 1: nothing seen in 1.1; " in refusal(model, not_attention={"1.0": "a gate"})


class Channels(Forecaster):
    """Attends over time, then over something else."""

    history, horizon = 9, 0
    not_in_time: ClassVar = {"over_channels": "attention over channels"}

    def __init__(self) -> None:
        super().__init__()
        self.over_time, self.over_channels = FusedAttention(), SpectralAttention()

    @property
    def stacks(self) -> tuple[Stack, ...]:
        tokens = TokenMap.patches(9, 0, 1)
        return (Stack("encoder", ("over_time",), tokens, tokens),)

    def forward(self, history: torch.Tensor) -> torch.Tensor:
        return self.over_channels(self.over_time(history))


def test_what_a_forecaster_declares_to_be_out_of_time_need_not_be_read() -> None:
    _, capture = read_attention(sharpen(Channels()), X)
    assert capture.certificate["excused"] == {"over_channels": "attention over channels"}


def test_attention_that_is_read_but_in_no_stack_must_be_declared() -> None:
    class Undeclared(Channels):
        def __init__(self) -> None:
            super().__init__()
            self.extra, self.over_channels = FusedAttention(), EagerAttention()

        def forward(self, history: torch.Tensor) -> torch.Tensor:
            return super().forward(self.extra(history))

    message = refusal(sharpen(Undeclared()))
    assert message.startswith("attention of extra was read but belongs to no stack of the model: add it to `stacks`")
