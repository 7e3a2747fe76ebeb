"""A person's own model through `factory: file.py:build`: any attention of torch, files beside it, errors by line."""

import json
import math
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from models import entropy_ratio, sharpen
from torch import nn

import laglens
from laglens import store
from laglens.attention.capture import read_attention
from laglens.config.load import load_study
from laglens.errors import LaglensError
from laglens.launch import own_code
from laglens.models.agreement import check_horizon
from laglens.models.registry import build_model, load_model, restore_model
from laglens.models.tokens import HISTORY, HORIZON

ENCODER = """
from torch import nn

class Forecaster(nn.Module):
    def __init__(self, history=24, horizon=6, width=16):
        super().__init__()
        self.embed = nn.Linear(1, width)
        layer = nn.TransformerEncoderLayer(width, 2, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(width, horizon)

    def forward(self, history):
        return self.head(self.encoder(self.embed(history[..., None]))[:, -1])

def build(**options):
    return Forecaster(**options)
"""
TRANSFORMER = """
import torch
from torch import nn

class Forecaster(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(1, 16), nn.Linear(16, 1)
        self.asked = nn.Parameter(torch.randn(6, 16))
        self.transformer = nn.Transformer(16, 2, 2, 1, 32, batch_first=True)

    def forward(self, history):
        asked = self.asked.expand(len(history), -1, -1)
        mask = nn.Transformer.generate_square_subsequent_mask(6)
        return self.head(self.transformer(self.embed(history[..., None]), asked, tgt_mask=mask))[..., 0]

build = Forecaster
"""
ATTENTION = """
import torch
from torch import nn

class Mix(nn.Module):
    def __init__(self, with_weights):
        super().__init__()
        self.with_weights = with_weights
        self.attention = nn.MultiheadAttention(16, 4)

    def forward(self, x):
        causal = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
        return x + self.attention(x, x, x, attn_mask=causal, need_weights=self.with_weights)[0]

class Forecaster(nn.Module):
    def __init__(self, with_weights):
        super().__init__()
        self.embed, self.head = nn.Linear(1, 16), nn.Linear(16, 6)
        self.mixes = nn.Sequential(Mix(with_weights), Mix(with_weights))

    def forward(self, history):
        tokens = self.embed(history.T[..., None])  # time first
        return self.head(self.mixes(tokens)[-1])

def build(with_weights=True):
    return Forecaster(with_weights)
"""
SIZES = {"history": 24, "horizon": 6}


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write a file of the person, in the folder they run from."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def file(text: str, name: str = "my_model.py") -> str:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return f"{name}:build"

    return file


def histories(n: int = 3) -> torch.Tensor:
    return torch.randn(n, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def weights_of(model: nn.Module, history: torch.Tensor) -> dict[str, torch.Tensor]:
    return {record.module: record.weights for record in read_attention(model, history)[1].records}


def test_the_example_of_the_documentation_runs(write) -> None:
    page = (Path(__file__).parents[1] / "docs/models.md").read_text("utf-8")
    example = page.split("<!-- my_model.py: a test runs it -->\n```python\n")[1].split("```")[0]
    lines = [line for line in example.splitlines() if line.strip()]
    assert len(lines) <= 20 and max(map(len, lines)) <= 120
    model = load_model("factory", write(example), {"arguments": {"width": 16}})
    torch.save(model.model.state_dict(), "my_weights.pt")
    again = load_model(
        "factory", "my_model.py:build", {"arguments": {"width": 16}, "checkpoint": "my_weights.pt"}, seed=9
    )
    history = torch.randn(2, 96, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(model(history), again(history))
    assert model(history).shape == (2, 24)
    assert {name: w.shape[-2:] for name, w in weights_of(model, history).items()} == {
        f"model.encoder.layers.{i}.self_attn": (24, 24) for i in range(2)
    }
    np.testing.assert_array_equal(model.stacks[0].key.time, np.arange(24) * 4 + 1.5)


def test_a_transformer_encoder_is_read_with_its_fast_path_on(write) -> None:
    model = sharpen(load_model("factory", write(ENCODER), SIZES | {"arguments": {"width": 16}}), gain=3)
    (stack,) = model.stacks
    assert stack.layers == ("model.encoder.layers.0.self_attn", "model.encoder.layers.1.self_attn")
    assert not stack.causal and stack.key.readout.tolist() == [False] * 23 + [True]
    assert torch.backends.mha.get_fastpath_enabled()
    found = weights_of(model, histories())
    inner = model.model
    with torch.no_grad():
        tokens = inner.embed(histories().float()[..., None])
        for layer, name in zip(inner.encoder.layers, stack.layers, strict=True):
            expected = layer.self_attn(tokens, tokens, tokens, average_attn_weights=False)[1]
            assert entropy_ratio(expected) < 0.9
            torch.testing.assert_close(found[name], expected, atol=1e-5, rtol=1e-5)
            tokens = layer(tokens)
        torch.testing.assert_close(model(histories()).float(), inner(histories().float()))


def test_a_transformer_is_read_as_encoder_causal_decoder_and_cross(write) -> None:
    model = sharpen(load_model("factory", write(TRANSFORMER), SIZES))
    _, decoder, cross = model.stacks
    assert [(stack.name, len(stack.layers), stack.causal) for stack in model.stacks] == [
        ("encoder", 2, False),
        ("decoder", 1, True),
        ("cross", 1, False),
    ]
    assert set(cross.query.part) == {HORIZON} and set(cross.key.part) == {HISTORY}
    np.testing.assert_array_equal(decoder.key.time, np.arange(24, 30))
    found, inner = weights_of(model, histories()), model.model
    with torch.no_grad():
        past = inner.transformer.encoder(inner.embed(histories().float()[..., None]))
        layer, tokens = inner.transformer.decoder.layers[0], inner.asked.expand(3, -1, -1)
        mask = torch.ones(6, 6, dtype=torch.bool).triu(1)
        own = layer.self_attn(tokens, tokens, tokens, attn_mask=mask, average_attn_weights=False)
        tokens = layer.norm1(tokens + layer.self_attn(tokens, tokens, tokens, attn_mask=mask)[0])
        across = layer.multihead_attn(tokens, past, past, average_attn_weights=False)[1]
    assert entropy_ratio(across) < 0.9
    torch.testing.assert_close(found[decoder.layers[0]], own[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[cross.layers[0]], across, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("with_weights", [True, False])
def test_multihead_attention_with_time_first_is_read_whether_or_not_it_returns_weights(write, with_weights) -> None:
    options = SIZES | {"arguments": {"with_weights": with_weights}}
    model = sharpen(load_model("factory", write(ATTENTION), options))
    (stack,) = model.stacks
    assert stack.layers == ("model.mixes.0.attention", "model.mixes.1.attention")
    assert stack.causal and stack.query.readout.tolist() == [False] * 23 + [True]
    found, inner = weights_of(model, histories()), model.model
    with torch.no_grad():
        tokens = inner.embed(histories().float().T[..., None])
        causal = torch.ones(24, 24, dtype=torch.bool).triu(1)
        attention = inner.mixes[0].attention
        expected = attention(tokens, tokens, tokens, attn_mask=causal, average_attn_weights=False)[1]
    torch.testing.assert_close(found[stack.layers[0]], expected, atol=1e-5, rtol=1e-5)


def test_weights_and_card_build_the_same_model_again(write, tmp_path) -> None:
    model = load_model("factory", write(ENCODER), SIZES | {"arguments": {"width": 8}}, seed=3)
    card = {"architecture": "factory", "options": model.options, "training": {"seed": 3}}
    assert json.loads(json.dumps(card)) == card
    store.write_weights(model.state_dict(), card, tmp_path / "m.safetensors")
    again = restore_model(store.read_card(tmp_path / "m.safetensors"), store.read_weights(tmp_path / "m.safetensors"))
    with torch.no_grad():
        assert torch.equal(again(histories()), model(histories()))
    write(ENCODER.replace("self.head", "self.tail"))
    with pytest.raises(LaglensError, match="do not fit architecture 'factory'.*tail"):
        restore_model(card, model.state_dict())


def test_what_is_drawn_but_not_kept_among_the_weights_is_drawn_again(write) -> None:
    text = ENCODER.replace("from torch import nn", "import torch\nfrom torch import nn")
    text = text.replace("self.head =", "self.offset = torch.rand(1).item()\n        self.head =")
    model = load_model("factory", write(text.replace("[:, -1])", "[:, -1]) + self.offset")), SIZES, seed=3)
    card = {"architecture": "factory", "options": model.options}
    with torch.no_grad():
        same, other = (
            restore_model(card | {"training": {"seed": seed}}, model.state_dict())(histories()) for seed in (3, 4)
        )
        assert torch.equal(same, model(histories())) and not torch.equal(other, same)


def test_a_checkpoint_is_handed_over(write) -> None:
    state = build_model("factory", {"factory": write(ENCODER)} | SIZES, seed=5).model.state_dict()
    torch.save(state, "trained.pt")
    loading = """
import torch

def build(checkpoint):
    model = Forecaster()
    model.load_state_dict(torch.load(checkpoint, weights_only=True))
    return model
"""
    factory = write(ENCODER.split("def build", maxsplit=1)[0] + loading)
    model = load_model("factory", factory, SIZES | {"checkpoint": "trained.pt"})
    assert torch.equal(model.model.head.weight, state["head.weight"])
    assert model.options["checkpoint"] == "trained.pt"


def test_files_beside_the_file_are_imported_and_kept_apart_by_folder(write) -> None:
    own = "from sizes import WIDTH\n" + ENCODER.replace("width=16", "width=WIDTH")
    for folder, width in (("a", 4), ("b", 8)):
        write(own, f"{folder}/my_model.py")
        write(f"WIDTH = {width}\n", f"{folder}/sizes.py")
    found = [
        build_model("factory", {"factory": f"{folder}/my_model.py:build"} | SIZES).model.embed.out_features
        for folder in ("a", "b", "a")
    ]
    assert found == [4, 8, 4]
    assert build_model("factory", {"factory": "a/my_model.py:build"} | SIZES).model.embed.out_features == 4
    write("WIDTH = 6\n", "a/sizes.py")
    assert build_model("factory", {"factory": "a/my_model.py:build"} | SIZES).model.embed.out_features == 6


def test_installed_modules_stay_as_they_are(write) -> None:
    before = {name: sys.modules[name] for name in ("torch", "numpy", "laglens.models.factory", "json")}
    path = [*sys.path]
    write(ENCODER, "json.py")  # the name of a module that is loaded
    for factory in ("json.py:build", write(ENCODER, "b/my_model.py")):
        load_model("factory", factory, SIZES)
    assert {name: sys.modules[name] for name in before} == before
    assert [entry for entry in sys.path if entry not in path] == [str(Path("b").resolve())]


def test_an_error_in_a_file_below_the_folder_is_named(write) -> None:
    write("from nets.blocks import fail\n\ndef build():\n    return fail()\n")
    write("", "nets/__init__.py")
    write("def fail():\n    raise ValueError('no\\nmore')\n", "nets/blocks.py")
    with pytest.raises(LaglensError, match=r"^nets/blocks.py, line 2: ValueError: no more$"):
        build_model("factory", {"factory": "my_model.py:build"} | SIZES)


def test_an_import_inside_a_function_finds_the_file_beside(write) -> None:
    asks = "def forward(self, history):"
    write("VALUE = 1\n", "late_sibling.py")
    model = load_model("factory", write(ENCODER.replace(asks, f"{asks}\n        import late_sibling")), SIZES)
    with torch.no_grad():
        assert model(histories()).shape == (3, 6)


def digest(factory: str) -> dict[str, str]:
    from laglens import provenance

    provenance._scan.cache_clear()  # files change within this process
    return own_code(type("Model", (), {"factory": factory}))


def test_the_digest_follows_the_files_that_are_imported(write) -> None:
    factory = write("from sizes import WIDTH\nimport nets.blocks\n" + ENCODER)
    write("WIDTH = 4\n", "sizes.py")
    write("", "nets/__init__.py")
    write("from .parts import PART\n", "nets/blocks.py")
    write("PART = 1\n", "nets/parts.py")
    write("OTHER = 1\n", "unrelated.py")
    before = digest(factory)
    assert {Path(name).as_posix() for name in before} == {
        "my_model.py",
        "sizes.py",
        "nets/__init__.py",
        "nets/blocks.py",
        "nets/parts.py",
    }
    write("# a comment\nWIDTH = 4\n", "sizes.py")
    write("OTHER = 2\n", "unrelated.py")
    assert digest(factory) == before
    write("PART = 2\n", "nets/parts.py")
    assert {name for name, value in digest(factory).items() if value != before[name]} == {"./nets/parts.py"}
    write("PART = (\n", "nets/parts.py")
    with pytest.raises(LaglensError, match="parts.py, line 1: '\\(' was never closed"):
        digest(factory)


def test_a_model_that_does_not_forecast_is_one_that_the_config_says_does_not(write) -> None:
    code = ENCODER.replace("return Forecaster(**options)", "return laglens.adapt(Forecaster(), history=24, horizon=0)")
    factory = write("import laglens\n" + code)
    model = load_model("factory", factory, {"horizon": 0})
    check_horizon(model, 0, "mine")
    with pytest.raises(LaglensError, match=r"models.mine.horizon: this model does not forecast, .* write 'horizon: 0'"):
        check_horizon(model, None, "mine")
    with pytest.raises(LaglensError, match="with horizon 0, not 6; write 'horizon: 0'"):
        load_model("factory", factory, {"horizon": 6})
    section = {"architecture": "factory", "factory": factory, "horizon": 0}
    written = {"signals": {"nile": {"dataset": "nile"}}, "runs": [{"models": ["mine"], "signals": ["nile"]}]}
    assert load_study({"models": {"mine": section}} | written).models["mine"].horizon == 0
    claims = {"claims": {"models": ["mine"], "signals": ["nile"]}}
    with pytest.raises(LaglensError, match="'mine' does not forecast; take a model"):
        load_study({"models": {"mine": section}} | written | claims)


FAULTS = {
    "no such file": (None, {}, "there is no file 'my_model.py'"),
    "no such function": (ENCODER.replace("def build", "def biuld"), {}, "no function 'build'; did you mean 'biuld'"),
    "not Python": ("def build(:\n    pass\n", {}, "my_model.py, line 1: SyntaxError"),
    "fails while imported": ("import torch\n\nx = 1 / 0\n", {}, "my_model.py, line 3: ZeroDivisionError"),
    "lacks a package": ("import momentfmm\n", {}, "line 1: ModuleNotFoundError: No module named 'momentfmm'"),
    "fails in build": ("def build():\n    width = 3\n    return [][width]\n", {}, "my_model.py, line 3: IndexError"),
    "wrong argument": (ENCODER, {"arguments": {"widht": 3}}, "my_model.py, line .*unexpected keyword argument 'widht'"),
    "returns no module": ("def build():\n    return {'a': 1}\n", {}, "build returned dict, not a torch.nn.Module"),
    "a plain module without lengths": (ENCODER, {"history": None}, "plain Forecaster: set 'history' and 'horizon'"),
    "weights with NaN": (
        ENCODER
        + "\ndef build():\n    model = Forecaster()\n    model.head.bias.data[0] = float('nan')\n    return model\n",
        {},
        "weights that are not finite in head.bias",
    ),
    "dropout that stays on": (
        ENCODER.replace("return self.head(", "return nn.functional.dropout(self.head(").replace("-1])", "-1]))"),
        {},
        r"the same input is forecast differently, by up to .* dropout after model\.eval\(\)",
    ),
    "other lengths than it has": (
        "import laglens\n"
        + ENCODER.replace("return Forecaster(**options)", "return laglens.adapt(Forecaster(), history=24, horizon=6)"),
        {"history": 30},
        "a model with history 24, not 30; leave 'history' out",
    ),
    "wrong forecast": (
        ENCODER.replace("[:, -1])", ")"),
        {},
        r"the forecast of Forecaster is \(1, 24, 6\), not a tensor of shape \(1, 6\).*predict",
    ),
    "fails in forward": (
        ENCODER.replace("return self.head(", "return self.haed("),
        {},
        "my_model.py, line 13: AttributeError: 'Forecaster' object has no attribute 'haed'",
    ),
    "no attention": (
        "from torch import nn\n\ndef build():\n    return nn.Linear(24, 6)\n",
        {},
        "found 0 attention modules",
    ),
}


@pytest.mark.parametrize(("text", "options", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_one_line_that_says_where(write, text: str | None, options: dict, message: str) -> None:
    factory = write(text) if text else "my_model.py:build"
    given = {"arguments": {}} | SIZES | options
    with pytest.raises(LaglensError, match=message) as caught:
        load_model("factory", factory, given)
    assert "\n" not in str(caught.value)


def test_a_mask_kept_among_the_weights_may_be_infinite(write, tmp_path) -> None:
    kept = ENCODER.replace(
        "        self.head", "        self.register_buffer('mask', MASK(history))\n        self.head"
    ).replace("history[..., None])", "history[..., None]), mask=self.mask")
    factory = write(kept.replace("class", "MASK = nn.Transformer.generate_square_subsequent_mask\n\nclass"))
    model = load_model("factory", factory, SIZES)
    assert model.state_dict()["model.mask"].isinf().any()
    store.write_weights(
        model.state_dict(), {"architecture": "factory", "options": model.options}, tmp_path / "m.safetensors"
    )
    again = restore_model(store.read_card(tmp_path / "m.safetensors"), store.read_weights(tmp_path / "m.safetensors"))
    assert again.state_dict()["model.mask"].isinf().any()


PATCHED = ENCODER.replace("nn.Linear(1, width)", "nn.Linear(4, width)").replace(
    "history[..., None]", "history.unflatten(1, (6, 4))"
)


def test_tokens_that_are_no_samples_are_refused_with_the_way_to_say_what_they_are(write) -> None:
    with pytest.raises(LaglensError) as caught:
        load_model("factory", write(PATCHED), SIZES)
    message = str(caught.value)
    assert "encoder.layers.0.self_attn, encoder.layers.1.self_attn: 6 query and 6 key tokens" in message
    said = message.split("such as: ")[1]
    text = "import laglens\n" + PATCHED.replace(
        "return Forecaster(**options)", f"model = Forecaster()\n    return {said}"
    )
    (stack,) = load_model("factory", write(text), SIZES).stacks
    np.testing.assert_array_equal(stack.key.start, np.arange(0, 24, 4))


@pytest.mark.parametrize(
    ("stacks", "message"),
    [
        (
            "('encoder', ('encoder.layer.0.self_attn',), tokens, tokens)",
            "no module 'encoder.layer.0.self_attn'; did you",
        ),
        ("('encoder', ('encoder.layers.0.self_attn',), tokens, tokens)", "belongs to no stack of the model"),
        ("('encoder', LAYERS, tokens, tokens)", "its token maps have 12 queries and 12 keys.*has 6 and 6"),
    ],
)
def test_stacks_that_do_not_fit_are_named(write, stacks: str, message: str) -> None:
    layers = "LAYERS = ('encoder.layers.0.self_attn', 'encoder.layers.1.self_attn')\n"
    adapted = f"laglens.adapt(Forecaster(), history=24, horizon=6, stacks=[laglens.Stack{stacks}])"
    tokens = "tokens = laglens.TokenMap.patches(24, 0, 2)\n"
    text = "import laglens\n" + layers + tokens + PATCHED.replace("return Forecaster(**options)", f"return {adapted}")
    with pytest.raises(LaglensError, match=message):
        load_model("factory", write(text), {})


def test_an_adapted_model_is_called_as_its_function_says() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    module = nn.Sequential(nn.Linear(1, 8), nn.TransformerEncoder(layer, 1), nn.Linear(8, 1))

    def repeat_last(model: nn.Module, history: torch.Tensor) -> torch.Tensor:
        return model(history.float()[..., None])[:, -1].expand(-1, 5)

    model = laglens.adapt(module, history=12, horizon=5, predict=repeat_last).eval()
    history = torch.randn(2, 12, dtype=torch.float64)
    forecast, capture = read_attention(model, history)
    assert forecast.shape == (2, 5) and forecast.dtype == torch.float64
    assert [record.shape for record in capture.records] == [(12, 12)]
    assert model.stacks[0].layers == ("model.1.layers.0.self_attn",)


@pytest.mark.parametrize(
    ("predict", "read"),
    [
        (lambda model, history: model(history.float()[..., None]).mean(1), [True] * 12),
        (lambda model, history: model(history.float()[..., None])[:, [3, 5]].mean(1), [i in (3, 5) for i in range(12)]),
        (lambda model, history: model(history.float()[..., None]).softmax(-1)[:, 7], [i == 7 for i in range(12)]),
        (lambda model, history: model(history.float()[..., None])[:, -1].detach(), [False] * 12),
    ],
)
def test_the_tokens_that_the_forecast_is_read_from_are_told_by_its_gradient(predict, read: list[bool]) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    module = nn.Sequential(nn.Linear(1, 8), nn.TransformerEncoder(layer, 2), nn.Linear(8, 5))
    (stack,) = laglens.adapt(module, history=12, horizon=5, predict=predict).eval().stacks
    assert stack.key.readout.tolist() == read


def test_attention_in_the_module_itself_is_the_stack_of_no_name() -> None:
    class Own(nn.Module):
        def forward(self, history: torch.Tensor) -> torch.Tensor:
            x = history[:, None, :, None]
            return nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True)[:, 0, -3:, 0]

    model = laglens.adapt(Own(), history=12, horizon=3).eval()
    assert model.stacks[0].layers == ("model",) and model.stacks[0].causal
    assert set(weights_of(model, torch.randn(2, 12, dtype=torch.float64))) == {"model"}


def test_modules_that_a_person_calls_stacks_are_no_stacks_of_ours() -> None:
    class Stacked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stacks = nn.ModuleList([nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)])

        def forward(self, history: torch.Tensor) -> torch.Tensor:
            return self.stacks[0](history.float().unflatten(1, (-1, 1)).expand(-1, -1, 8))[:, -1, :3]

    module = Stacked().eval()
    assert set(weights_of(module, torch.randn(2, 12))) == {"stacks.0.self_attn"}
    assert laglens.adapt(module, history=12, horizon=3).eval().stacks[0].layers == ("model.stacks.0.self_attn",)


def test_a_batch_axis_that_holds_more_than_windows_is_refused() -> None:
    class Across(nn.Module):
        def forward(self, history: torch.Tensor) -> torch.Tensor:
            x = history.T[:, None, :, None]  # attends over the windows of a batch
            return nn.functional.scaled_dot_product_attention(x, x, x)[:, 0, :, 0].T

    with pytest.raises(LaglensError, match="cannot be told.*2 query and 2 key tokens"):
        _ = laglens.adapt(Across(), history=12, horizon=12).eval().stacks


def test_a_forecaster_of_ones_own_is_taken_as_it_is(write) -> None:
    factory = write(
        """
        from laglens.models.encoder import EncoderForecaster

        def build(history):
            return EncoderForecaster(history=history, horizon=3, width=8, heads=2)
        """
    )
    model = load_model("factory", factory, {"arguments": {"history": 18}})
    assert (model.history, model.horizon) == (18, 3)
    assert model.stacks[0].layers[0] == "model.encoder.layers.0.self_attn"
    history = 100 + torch.randn(2, 18, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(model(history), model.model(history))
    assert math.isfinite(model(history).sum().item())
