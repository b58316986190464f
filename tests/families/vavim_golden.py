"""Tiny models of the official VaViM and LlamaGen classes, in `golden/vavim`, as ours; and what the
official code made with them.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from families.golden_preset import preset_of
from safetensors.torch import load_file

from diagd_cli.checkpoints.archive import fill_rows
from diagd_cli.families.vavim.checkpoint import transformer_tensors
from diagd_cli.families.vavim.codec_files import tokenizer_tensors
from diagd_cli.families.vavim.config import LlamaGenVqConfig
from diagd_cli.families.vavim.tokenizer import LlamaGenVqTokenizer
from diagd_cli.model.config import Positions, TransformerConfig
from diagd_cli.model.transformer import Transformer
from diagd_cli.tokens.grid import Grid
from diagd_cli.weights.build import build_transformer

GOLDEN = Path(__file__).parent.parent / "golden" / "vavim"
each_model = pytest.mark.parametrize("name", ["tiny", "tiny_scaled"])
LIMIT = 5e-5  # of the golden data's own README


def facts(name: str) -> dict:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def weights_of(name: str) -> Path:
    return GOLDEN / f"{name}_weights.safetensors"


def vavim_config(network: dict, width_mult: float) -> TransformerConfig:
    """Ours of official settings, by their names."""
    dim, head = network["embedding_dim"], network["dim_heads"]
    return TransformerConfig(
        vocab=network["vocabulary_size"],
        dim=dim,
        layers=network["nb_layers"],
        heads=dim // head,
        kv_heads=dim // head,
        head_dim=head,
        mlp_dim=network["mlp_dim_mult"] * dim,
        activation="gelu",
        norm="layer",
        block_norm_affine=False,
        final_norm_affine=False,
        tied=True,
        attention_scale=network["attn_scale"] / head,
        logit_scale=network["output_scale"] / width_mult,
        positions=Positions(kind="learned", places=network["nb_tokens_per_timestep"]),
    )


@dataclass
class Golden:
    """A tiny model, its configuration, and the tensors that the official code made of it."""

    grid: Grid
    window: int
    codes: int
    model: Transformer
    tensors: dict[str, torch.Tensor]
    sampled: dict


@cache
def golden(name: str) -> Golden:
    """The model has a scratch position past the window, as those of presets have."""
    told = facts(name)
    network, h, w = told["network"], told["height"], told["width"]
    config, window = vavim_config(network, told["width_mult"]), network["nb_timesteps"]
    codes = network["vocabulary_size"] - 1
    tokenizer = LlamaGenVqConfig(codebook=codes, channels=32, multipliers=(1, 1))
    preset = preset_of(tokenizer, config, 2 * h, 2 * w, window)
    assert preset.grid == Grid(h, w)
    model = build_transformer(preset)
    fill_rows(model, transformer_tensors(weights_of(name), config, preset.positions))
    model.eval().requires_grad_(False)
    tensors = load_file(GOLDEN / f"{name}_io.safetensors")
    return Golden(preset.grid, window, codes, model, tensors, told["sampled"])


def vq_config(name: str = "vq16_tiny") -> LlamaGenVqConfig:
    args = facts(name)["model_args"]
    return LlamaGenVqConfig(
        codebook=args["codebook_size"],
        channels=args["ch"],
        multipliers=args["ch_mult"],
        blocks=args["num_res_blocks"],
        latent=args["z_channels"],
        code_dim=args["codebook_embed_dim"],
    )


@cache
def vq() -> tuple[LlamaGenVqTokenizer, dict[str, torch.Tensor]]:
    """LlamaGen's VQ-16, and what the official code made with it."""
    model = LlamaGenVqTokenizer(vq_config())
    fill_rows(model, tokenizer_tensors([weights_of("vq16_tiny")], vq_config()))
    return model.eval().requires_grad_(False), load_file(GOLDEN / "vq16_tiny_io.safetensors")
