"""Official Cosmos files by all the names they come under, and what a user reads when one does not
fit.
"""

import io
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diagd_cli.checkpoints.archive import fill_rows
from diagd_cli.errors import WeightsError
from diagd_cli.families.cosmos.checkpoint import (
    OFFICIAL,
    tokenizer_tensors,
    transformer_layout,
    transformer_tensors,
)
from diagd_cli.families.cosmos.config import CosmosDvConfig
from diagd_cli.families.cosmos.tokenizer import CosmosTokenizer, parameter_shapes
from diagd_cli.model.config import Positions, TransformerConfig
from diagd_cli.model.transformer import Transformer

pytestmark = pytest.mark.filterwarnings(
    "ignore:.torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning"
)

GOLDEN = Path(__file__).parents[1] / "golden" / "cosmos"
CODEC = CosmosDvConfig(channels=2, multipliers=(1, 2, 1), blocks=1, z_channels=5, levels=(4, 3))


def config(name: str = "video2world_5b_tiny", **change) -> TransformerConfig:
    settings = json.loads((GOLDEN / f"{name}.json").read_text())["config"]
    sizes = {
        "vocab": 128 if settings["insert_cross_attn"] else 96,
        "outputs": settings["vocab_size"],
        "dim": settings["dim"],
        "layers": settings["n_layers"],
        "heads": settings["n_heads"],
        "kv_heads": settings["n_kv_heads"],
        "head_dim": settings["head_dim"] or settings["dim"] // settings["n_heads"],
        "mlp_dim": settings["ffn_hidden_size"],
        "cross_dim": settings["context_dim"] if settings["insert_cross_attn"] else 0,
    }
    return TransformerConfig(
        **{**sizes, "qk_norm": True, "positions": Positions(kind="rope-3d"), **change}
    )


def weights(name: str = "video2world_5b_tiny") -> dict[str, Tensor]:
    """By the released names, with the prefix `model.`."""
    tensors = load_file(GOLDEN / f"{name}.safetensors")
    return {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}


def joined(tensors) -> dict[str, Tensor]:
    return {name: torch.cat(rows) for name, rows in tensors}


# ---- Transformer ---------------------------------------------------------------------------------


def renamed(names: dict[str, str]):
    """Within a layer, the first match counts."""

    def change(state: dict[str, Tensor]) -> dict[str, Tensor]:
        result = {}
        for name, tensor in state.items():
            old = next((old for old in names if f".{old}" in name), "")
            result[name.replace(f".{old}", f".{names[old]}") if old else name] = tensor
        return result

    return change


def fused(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Attention's three products in one, as some official checkpoints have them."""
    state = dict(state)
    for name in [name for name in state if ".attention.wq." in name]:
        parts = [state.pop(name.replace("wq", part)) for part in ("wq", "wk", "wv")]
        state[name.replace("wq", "wqkv")] = torch.cat(parts)
    return state


def engine(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """TransformerEngine's names, and its extra states."""
    state = dict(state)
    for name in [name for name in state if ".feed_forward.w1." in name]:
        stacked = torch.cat([state.pop(name), state.pop(name.replace("w1", "w3"))])
        state[name.replace("feed_forward.w1.weight", "layernorm_mlp.fc1_weight")] = stacked
    state = renamed(
        {
            "cross_attention_norm.weight": "inter_attention.layernorm_query.layer_norm_weight",
            "cross_attention.wq.weight": "inter_attention.layernorm_query.query_weight",
            "cross_attention.wk.weight": "inter_attention.key_value.key_weight",
            "cross_attention.wv.weight": "inter_attention.key_value.value_weight",
            "cross_attention.wo.weight": "inter_attention.proj.weight",
            "cross_attention.": "inter_attention.",
            "attention_norm.weight": "self_attention.layernorm_qkv.layer_norm_weight",
            "attention.wq.weight": "self_attention.layernorm_qkv.query_weight",
            "attention.wk.weight": "self_attention.layernorm_qkv.key_weight",
            "attention.wv.weight": "self_attention.layernorm_qkv.value_weight",
            "attention.wo.weight": "self_attention.proj.weight",
            "attention.": "self_attention.",
            "ffn_norm.weight": "layernorm_mlp.layer_norm_weight",
            "feed_forward.w2.weight": "layernorm_mlp.fc2_weight",
        }
    )(state)
    extra = {
        "model.layers.0.self_attention._extra_state": io.BytesIO(b"x"),
        "model.norm._extra_state": torch.ones(3),
    }
    return {**state, **extra}


def bare(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("model."): tensor for name, tensor in state.items()}


WAYS = {
    "released": lambda s: s,
    "without prefix": bare,
    "after training": lambda s: {"model": bare(s), "optimizer": {"state": {}}, "iteration": 7},
    "fused": fused,
    "TransformerEngine": engine,
    "TransformerEngine, fused": lambda s: engine(fused(s)),
}


@pytest.mark.parametrize("change", WAYS.values(), ids=WAYS)
def test_the_same_weights_by_all_their_names(tmp_path, change):
    torch.save(change(weights()), tmp_path / "model.pt")
    seen = joined(transformer_tensors(tmp_path / "model.pt", config()))
    save_file(weights(), tmp_path / "model.safetensors")
    wanted = joined(transformer_tensors(tmp_path / "model.safetensors", config()))
    assert seen.keys() == wanted.keys() and all(
        torch.equal(seen[name], wanted[name]) for name in wanted
    )
    model = Transformer(config(), torch.zeros(1, 3, dtype=torch.long))
    assert {n: p.shape for n, p in model.named_parameters()} == {
        n: t.shape for n, t in seen.items()
    }


def test_any_dtype_is_cast_to_the_models(tmp_path):
    torch.save(
        {name: tensor.bfloat16() for name, tensor in weights().items()}, tmp_path / "model.pt"
    )
    model = Transformer(config(), torch.zeros(1, 3, dtype=torch.long)).half()
    fill_rows(model, transformer_tensors(tmp_path / "model.pt", config()))
    assert torch.equal(model.head.weight, weights()["model.output.weight"].bfloat16().half())


def refusal(path: Path, wanted: TransformerConfig | CosmosDvConfig) -> str:
    """The one line of the error, which comes before the first tensor."""
    read = (
        transformer_tensors
        if isinstance(wanted, TransformerConfig)
        else lambda p, c: tokenizer_tensors([p], c)
    )
    with pytest.raises(WeightsError) as error:
        read(path, wanted)
    assert "\n" not in str(error.value)
    return str(error.value).replace(str(path), path.name)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"dim": 32}, "dim is 64 in the file, 32 in the preset"),
        ({"layers": 3}, "layers is 2 in the file, 3 in the preset"),
        ({"heads": 2}, "heads is 4 in the file, 2 in the preset"),
        ({"kv_heads": 4}, "kv_heads is 2 in the file, 4 in the preset"),
        ({"head_dim": 8}, "head_dim is 16 in the file, 8 in the preset"),
        ({"mlp_dim": 81}, "mlp_dim is 80 in the file, 81 in the preset"),
        ({"vocab": 96}, "vocab is 128 in the file, 96 in the preset"),
        ({"outputs": 0}, "outputs is 96 in the file, 128 in the preset"),
        ({"cross_dim": 0}, "cross_dim is 24 in the file, 0 in the preset"),
        (
            {"layers": 1, "dim": 8},
            "dim is 64 in the file, 8 in the preset; layers is 2 in the file, 1 in the preset",
        ),
        (
            {"qk_norm": False},
            "holds layers.0.attention.k_norm.weight, which the preset's model has not, and 7 more",
        ),
    ],
)
@pytest.mark.parametrize("layout", ["released", "TransformerEngine, fused"])
def test_a_preset_of_another_size(tmp_path, change, message, layout):
    torch.save(WAYS[layout](weights()), tmp_path / "model.pt")
    assert message in refusal(tmp_path / "model.pt", config(**change))


@pytest.mark.parametrize(
    "change", [{"bias": True}, {"norm": "layer"}, {"positions": Positions(kind="learned")}]
)
def test_a_preset_that_no_cosmos_file_can_fill(tmp_path, change):
    (name,) = change
    assert refusal(tmp_path / "model.pt", config(**change)).startswith(
        f"No Cosmos file fits transformer.{name}"
    )


def official_config(name: str) -> TransformerConfig:
    return TransformerConfig(**OFFICIAL[name], qk_norm=True, positions=Positions(kind="rope-3d"))


def shapes_only(path: Path, wanted: TransformerConfig) -> Path:
    """A file with tensors of the true shapes that take no room."""
    layout = transformer_layout(wanted)
    names = {name: shape for parts in layout.values() for name, shape in parts.items()}
    torch.save(
        {f"model.{name}": torch.zeros(1).bfloat16().expand(shape) for name, shape in names.items()},
        path,
    )
    return path


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_message_names_the_official_preset_that_fits(tmp_path, name):
    path = shapes_only(tmp_path / "model.pt", official_config(name))
    transformer_tensors(path, official_config(name))
    for other in OFFICIAL.keys() - {name}:
        assert refusal(path, official_config(other)).endswith(f"It fits the preset {name}")
    assert refusal(path, config()).endswith(f"It fits the preset {name}")


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_sizes_have_the_official_number_of_parameters(name):
    layout = transformer_layout(official_config(name))
    shapes = [torch.Size(shape) for parts in layout.values() for shape in parts.values()]
    counts = {
        "cosmos-4b": (4_014_088_192, 179),
        "cosmos-12b": (11_560_975_360, 443),
        "cosmos-5b-video2world": (4_584_845_312, 291),
        "cosmos-13b-video2world": (13_323_125_760, 723),
    }
    assert (sum(shape.numel() for shape in shapes), len(shapes)) == counts[name]


def test_names_that_are_missing_or_too_many(tmp_path):
    state = weights()
    del state["model.layers.1.ffn_norm.weight"]
    torch.save(state, tmp_path / "model.pt")
    assert "model.pt lacks layers.1.ffn_norm.weight." in refusal(tmp_path / "model.pt", config())
    torch.save(
        {**weights(), "model.extra.weight": torch.ones(1), "b": torch.ones(1)},
        tmp_path / "model.pt",
    )
    message = "model.pt holds b, which the preset's model has not, and 1 more names differ"
    assert message in refusal(tmp_path / "model.pt", config())


def test_shapes_that_no_size_explains(tmp_path):
    torch.save(
        {**weights(), "model.layers.1.attention.wv.weight": torch.ones(31, 64)},
        tmp_path / "model.pt",
    )
    message = "model.pt: layers.1.attention.wv.weight is (31, 64), the preset needs (32, 64)"
    assert message in refusal(tmp_path / "model.pt", config())


def test_files_of_something_else(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    assert "a.safetensors holds no Cosmos transformer" in refusal(
        tmp_path / "a.safetensors", config()
    )
    assert "a.safetensors holds no Cosmos video tokenizer" in refusal(
        tmp_path / "a.safetensors", CODEC
    )


# ---- tokenizer -----------------------------------------------------------------------------------


class Quantiser(nn.Module):
    """The tables that exports carry beside the weights."""

    def __init__(self):
        super().__init__()
        self.register_buffer(
            "_levels", torch.tensor(CODEC.levels, dtype=torch.int32), persistent=False
        )
        self.register_buffer("_basis", torch.tensor([1, 4], dtype=torch.int32), persistent=False)
        self.register_buffer("implicit_codebook", torch.zeros(12, 2), persistent=False)

    def forward(self, x):
        return x + self._levels.sum() + self._basis.sum() + self.implicit_codebook.sum()


class Patcher(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("wavelets", torch.ones(2), persistent=False)
        self.register_buffer("_arange", torch.arange(2), persistent=False)

    def forward(self, x):
        return x * self.wavelets.sum() * self._arange.sum()


def export(path: Path, parts: dict[str, nn.Module], shape: tuple[int, ...]) -> Path:
    """Trace modules, one after the other, under the names they have in the official archives."""
    model = nn.Sequential()
    for name, part in parts.items():
        model.add_module(name, part)
    torch.jit.trace(model, torch.zeros(shape), check_trace=False).save(str(path))
    return path


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> tuple[dict[str, Tensor], Path]:
    """encoder.jit and decoder.jit of a tokenizer, and its weights."""
    folder = tmp_path_factory.mktemp("jit")
    codec = CosmosTokenizer(CODEC).eval()
    state = {name: tensor.clone() for name, tensor in codec.state_dict().items()}
    codec.encoder.patcher3d = Patcher()  # stands there in the official archives; nothing calls it
    encoder = {"encoder": codec.encoder, "quant_conv": codec.quant_conv, "quantizer": Quantiser()}
    export(folder / "encoder.jit", encoder, (1, 3, 1, 16, 16))
    inverse = nn.Sequential()
    inverse.add_module("quantizer", Quantiser())
    decoder = {
        "inv_quant": inverse,
        "post_quant_conv": codec.post_quant_conv,
        "decoder": codec.decoder,
    }
    export(folder / "decoder.jit", decoder, (1, 2, 1, 1, 1))
    return state, folder


def test_the_two_archives_are_read(archives):
    state, folder = archives
    model = CosmosTokenizer(CODEC)
    fill_rows(model, tokenizer_tensors([folder / "encoder.jit", folder / "decoder.jit"], CODEC))
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("prefix", ["", "network.", "model.network."])
def test_a_checkpoint_of_training_and_unused_convolutions(archives, tmp_path, prefix):
    state, _ = archives
    extra = {
        "encoder.down.1.downsample.conv2.conv3d.weight": torch.ones(1),
        "quantizer._levels": torch.tensor([4, 3]),
    }
    inner = {f"{prefix}{name}": tensor for name, tensor in {**state, **extra}.items()}
    torch.save(
        {"model": {**inner, **({"loss.weight": torch.ones(1)} if prefix else {})}, "step": 1},
        tmp_path / "a.pt",
    )
    seen = joined(tokenizer_tensors([tmp_path / "a.pt"], CODEC))
    assert seen.keys() == state.keys() and all(
        torch.equal(seen[name], state[name]) for name in state
    )


def test_half_a_tokenizer_asks_for_the_other_half(archives):
    message = refusal(archives[1] / "encoder.jit", CODEC)
    assert (
        "encoder.jit lacks decoder.conv_in.0.conv3d.bias" in message
        and message.count("decoder.jit") == 1
    )


@pytest.mark.parametrize(
    "change, message",
    [
        ({"channels": 4}, "channels is 2 in the file, 4 in the preset"),
        ({"patch": 2, "multipliers": (1, 2, 1, 1)}, "patch is 4 in the file, 2 in the preset"),
        ({"z_channels": 6}, "z_channels is 5 in the file, 6 in the preset"),
        ({"levels": (4, 3, 3)}, "number of levels is 2 in the file, 3 in the preset"),
        ({"levels": (3, 4)}, "levels is (4, 3) in the file, (3, 4) in the preset"),
        ({"blocks": 2}, "blocks is 1 in the file, 2 in the preset"),
        (
            {"multipliers": (1, 2, 2)},
            "multipliers is (1, 2, 1) in the file, (1, 2, 2) in the preset",
        ),
        ({"attention": (256,)}, "lacks decoder.up.0.attn.0.0.k.conv3d.bias"),
    ],
)
def test_a_tokenizer_of_another_size(archives, tmp_path, change, message):
    state, _ = archives
    torch.save({**state, "quantizer._levels": torch.tensor([4, 3])}, tmp_path / "a.pt")
    assert message in refusal(tmp_path / "a.pt", CODEC.model_copy(update=change))


def test_the_official_tokenizer_has_the_official_number_of_parameters():
    shapes = parameter_shapes(CosmosDvConfig())
    encoder = [
        shape for name, shape in shapes.items() if name.startswith(("encoder.", "quant_conv."))
    ]
    decoder = [
        shape for name, shape in shapes.items() if name.startswith(("decoder.", "post_quant_conv."))
    ]
    assert (len(encoder), len(decoder)) == (142, 176) and len(shapes) == 318
    assert round(sum(torch.Size(shape).numel() for shape in encoder) / 1e6, 2) == 45.54
    assert round(sum(torch.Size(shape).numel() for shape in decoder) / 1e6, 2) == 65.36
