"""MineWorld's weights files: every official format loads, what does not fit is named, and nothing
in a file runs.
"""

import os
import pickle

import pytest
import torch
from families.mineworld_golden import (
    CODES,
    CONFIG,
    GOLDEN,
    TOKENIZER_CONFIG,
    facts,
    tensors,
    tokenizer,
    tokenizer_config,
    transformer,
    transformer_config,
)
from safetensors.torch import save_file

from diagd_cli.checkpoints.match import flat
from diagd_cli.errors import WeightsError
from diagd_cli.families.mineworld.checkpoint import (
    OFFICIAL,
    tokenizer_tensors,
    transformer_layout,
    transformer_tensors,
)
from diagd_cli.families.mineworld.config import VqImageConfig
from diagd_cli.families.mineworld.tokenizer import VqImageTokenizer
from diagd_cli.model.unset import Unset

FULL_SIZE = facts("full_size_shapes")


def stored(prefix: str = "transformer.") -> dict[str, torch.Tensor]:
    """The Transformer's tensors by official keys, with another prefix."""
    return {
        prefix + key.removeprefix("transformer."): tensor
        for key, tensor in tensors("transformer").items()
    }


def big_checkpoint() -> dict[str, torch.Tensor]:
    """Both models, and the table that older files hold."""
    tables = {"transformer.model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    return {
        **stored(),
        **tables,
        **{f"tokenizer.{key}": tensor for key, tensor in tensors("vae").items()},
    }


def same(entries, module) -> bool:
    ours, theirs = {name: torch.cat(parts) for name, parts in entries}, module.state_dict()
    return ours.keys() == theirs.keys() and all(
        ours[name].equal(tensor) for name, tensor in theirs.items()
    )


def test_every_official_format_loads(tmp_path):
    files = {
        "big.ckpt": {"state_dict": big_checkpoint(), "epoch": 3},
        "plain.bin": stored(""),
        "vae.ckpt": {"state_dict": tensors("vae")},
        "flat.ckpt": tensors("vae"),
    }
    for name, content in files.items():
        torch.save(content, tmp_path / name)
    save_file(big_checkpoint(), tmp_path / "big.safetensors")
    for name in ("big.ckpt", "plain.bin", "big.safetensors"):
        assert same(transformer_tensors(tmp_path / name, CONFIG), transformer())
    for name in ("big.ckpt", "vae.ckpt", "flat.ckpt", "big.safetensors"):
        assert same(tokenizer_tensors(tmp_path / name, TOKENIZER_CONFIG), tokenizer())


def test_a_head_for_the_codes_alone():
    config = CONFIG.model_copy(update={"outputs": CODES})
    entries = dict(transformer_tensors(GOLDEN / "transformer.safetensors", config))
    assert entries["head.weight"][0].equal(transformer().head.weight[:CODES])


def broken(change: str) -> dict[str, torch.Tensor]:
    state = stored()
    key = "transformer.model.layers.1.mlp.up_proj.weight"
    if change == "missing":
        del state[key]
    elif change == "unknown":
        state["transformer.model.layers.1.mlp.bias"] = torch.zeros(1)
    elif change == "shape":
        state[key] = state[key][:-1]
    elif change == "dtype":
        state[key] = state[key].int()
    else:
        state = dict(tensors("vae"))
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", r"lacks model\.layers\.1\.mlp\.up_proj\.weight"),
        ("unknown", r"holds model\.layers\.1\.mlp\.bias, which the preset's model has not"),
        ("shape", r"up_proj\.weight is \(159, 64\), the preset needs \(160, 64\)"),
        ("dtype", r"up_proj\.weight is torch\.int32"),
        ("other", "It holds a tokenizer"),
    ],
)
def test_a_transformer_that_does_not_fit_is_named(change, message, tmp_path):
    torch.save({"state_dict": broken(change)}, tmp_path / "model.ckpt")
    with pytest.raises(WeightsError, match=message):
        transformer_tensors(tmp_path / "model.ckpt", CONFIG)


def test_a_tokenizer_that_does_not_fit_is_named(tmp_path):
    narrow = TOKENIZER_CONFIG.model_copy(update={"codebook": 128})
    with pytest.raises(
        WeightsError,
        match=r"model\.quantize\.embedding\.weight is \(256, 8\), the preset needs \(128, 8\)",
    ):
        tokenizer_tensors(GOLDEN / "vae.safetensors", narrow)
    with pytest.raises(WeightsError, match=r"lacks model\.decoder"):
        tokenizer_tensors(GOLDEN / "transformer.safetensors", TOKENIZER_CONFIG)
    save_file(
        {**tensors("vae"), "model.encoder.mid_block.attentions.0.to_q.weight": torch.ones(1)},
        tmp_path / "a.safetensors",
    )
    with pytest.raises(WeightsError, match=r"holds model\.encoder.mid_block\.attentions.*, which"):
        tokenizer_tensors(tmp_path / "a.safetensors", TOKENIZER_CONFIG)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"blocks": 1}, r"blocks is 2 in the file, 1 in the preset\. Correct them under tokenizer"),
        (
            {"channels": (16, 16)},
            r"channels is \(\d+, .*\) in the file, \(16, 16\) in the preset\. "
            r"Correct them",
        ),
        (
            {"blocks": 3, "latent": 16},
            r"blocks is 2 in the file, 3 in the preset; latent is \d+ in the file, 16 in the preset",
        ),
    ],
)
def test_blocks_and_channels_of_another_tokenizer_are_named(settings, message):
    with pytest.raises(WeightsError, match=f"holds another tokenizer than the preset's: {message}"):
        tokenizer_tensors(GOLDEN / "vae.safetensors", TOKENIZER_CONFIG.model_copy(update=settings))


def test_the_official_tokenizer_is_known(tmp_path):
    shapes = {f"model.{name}": t.shape for name, t in _state(VqImageConfig()).items()}
    torch.save(
        {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}, tmp_path / "vae.ckpt"
    )
    with pytest.raises(
        WeightsError,
        match=(
            r"blocks is 2 in the file, 3 .* It is the official one, which the presets mineworld"
        ),
    ):
        tokenizer_tensors(tmp_path / "vae.ckpt", VqImageConfig(blocks=3))
    tokenizer_tensors(tmp_path / "vae.ckpt", VqImageConfig())


def _state(config: VqImageConfig) -> dict[str, torch.Tensor]:
    with Unset("meta"):
        return VqImageTokenizer(config).state_dict()


def test_official_sizes_and_the_preset_that_fits(tmp_path):
    configs = {}
    for name, variant in FULL_SIZE["transformer"].items():
        layers = range(variant["config"]["num_hidden_layers"])
        shapes = {
            key.format(i=i): shape
            for key, shape in variant["tensor_shapes"].items()
            for i in layers
        }
        configs[name] = transformer_config(variant["config"])
        expected = {
            key: list(shape) for key, shape in flat(transformer_layout(configs[name])).items()
        }
        assert {f"transformer.{key}": shape for key, shape in expected.items()} == shapes
        assert len(expected) == variant["num_tensors"]
        # one number, seen everywhere: a file of full size that takes no space
        torch.save(
            {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()},
            tmp_path / f"{name}.ckpt",
        )
        transformer_tensors(tmp_path / f"{name}.ckpt", configs[name])
        assert len(transformer_layout(configs[name])) == 123
    presets = {
        name: f"mineworld-{name.removesuffix('_16f').lower().replace('_', '-')}" for name in configs
    }
    assert sorted(presets.values()) == sorted(OFFICIAL)
    for name in configs:
        other = configs["700M_16f" if name == "300M_16f" else "300M_16f"]
        with pytest.raises(WeightsError, match=rf"It fits the preset .*{presets[name]}\b"):
            transformer_tensors(tmp_path / f"{name}.ckpt", other)


def test_the_official_tokenizer_has_the_default_configuration():
    official = FULL_SIZE["vae"]
    assert tokenizer_config(official["config"]) == VqImageConfig(code_dim=0)
    with Unset("meta"):
        state = VqImageTokenizer(VqImageConfig()).state_dict()
    assert {f"model.{name}": list(tensor.shape) for name, tensor in state.items()} == official[
        "tensor_shapes"
    ]
    assert sum(tensor.numel() for tensor in state.values()) == official["parameters"]
    assert (VqImageConfig().spatial, VqImageConfig().codebook) == (16, 8192)


class Hostile:
    """Its pickle would make a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_nothing_in_a_file_runs(tmp_path):
    torch.save(
        {"state_dict": stored(), "hook": Hostile(tmp_path / "made")}, tmp_path / "hostile.ckpt"
    )
    (tmp_path / "hostile.bin").write_bytes(pickle.dumps(Hostile(tmp_path / "made"), protocol=2))
    for name in ("hostile.ckpt", "hostile.bin"):
        with pytest.raises(
            WeightsError,
            match=r"is refused: it refers to posix\.mkdir|is neither a PyTorch archive nor",
        ):
            transformer_tensors(tmp_path / name, CONFIG)
    assert not (tmp_path / "made").exists()


def test_files_that_are_no_weights(tmp_path):
    torch.save(stored(), tmp_path / "whole.ckpt")
    data = (tmp_path / "whole.ckpt").read_bytes()
    contents = {
        "cut.ckpt": (data[: len(data) // 2], "is cut off or no PyTorch checkpoint"),
        "cut.safetensors": (
            (GOLDEN / "transformer.safetensors").read_bytes()[:-1],
            "is not a readable safetensors file",
        ),
        "text.bin": (b"hello", "is neither a PyTorch archive nor safetensors"),
        "empty.bin": (b"", "is empty"),
        "pointer.ckpt": (b"version https://git-lfs.github.com/spec/v1", "is a Git LFS pointer"),
    }
    for name, (content, message) in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=message):
            transformer_tensors(tmp_path / name, CONFIG)
    contents = (
        ({}, "holds no tensors by name"),
        ({"a": 1}, "holds no tensors by name"),
        ([1], "no weights but a list"),
    )
    for content, message in contents:
        torch.save(content, tmp_path / "odd.bin")
        with pytest.raises(WeightsError, match=message):
            tokenizer_tensors(tmp_path / "odd.bin", TOKENIZER_CONFIG)
    with pytest.raises(WeightsError, match="cannot be read: no such file"):
        transformer_tensors(tmp_path / "none.ckpt", CONFIG)


def test_settings_that_no_file_can_fill():
    with pytest.raises(WeightsError, match=r"No MineWorld file fits transformer\.tied: True"):
        transformer_tensors(
            GOLDEN / "transformer.safetensors", CONFIG.model_copy(update={"tied": True})
        )
