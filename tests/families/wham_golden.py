"""Tiny models of the official WHAM classes, in `golden/wham`, as ours; and what the official code
made with them.

Version 1 has norms with weights and biases; version 2 has none in its blocks, and frames that the
patch does not divide.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from families.agreement import TOLERANCE
from families.golden_preset import preset_of
from safetensors.torch import load_file

from diagd_cli.families.wham.actions import GamepadActions
from diagd_cli.families.wham.config import VitVqConfig
from diagd_cli.families.wham.tokenizer import MEAN, STD, VitVqTokenizer
from diagd_cli.model.config import Positions, TransformerConfig
from diagd_cli.model.transformer import Transformer
from diagd_cli.tokens.grid import Grid
from diagd_cli.weights.load import load_tokenizer, load_transformer

GOLDEN = Path(__file__).parent.parent / "golden" / "wham"

each_model = pytest.mark.parametrize("name", ["tiny_v1", "tiny_v2_padded"])


@dataclass
class Golden:
    """A tiny model, its configuration, and the tensors that the official code made of it."""

    grid: Grid
    window: int
    codes: int
    model: Transformer
    tokenizer: VitVqTokenizer
    tensors: dict[str, torch.Tensor]
    # int64 [block, 2], smallest and largest id that the official code allows at each place
    ranges: torch.Tensor

    def frames(self, name: str) -> torch.Tensor:
        """uint8 [..., H, W, 3] of a tensor [..., 3, H, W]."""
        return self.tensors[name].movedim(-3, -1)


@cache
def golden(name: str) -> Golden:
    facts = json.loads((GOLDEN / f"{name}.json").read_text())
    config, derived, image = facts["config"], facts["derived"], facts["config"]["image"]
    weights = GOLDEN / f"{name}_weights.safetensors"
    grid = Grid(derived["grid_rows"], derived["grid_cols"], derived["action_tokens_per_step"])
    transformer = wham_config(
        derived["vocab_total"],
        config["n_embd"],
        config["n_layer"],
        config["n_head"],
        config["nanogpt_version"],
    )
    tokenizer = VitVqConfig(
        height=image["image_size_per_y_axis"],
        width=image["image_size_per_x_axis"],
        patch=image["patch_size"],
        dim=image["transf_dim"],
        layers=image["num_layers"],
        head_size=image["head_size"],
        code_dim=image["embedding_dim"],
        codebook=image["vocab_size"],
    )
    actions = GamepadActions(offset=tokenizer.codebook)
    preset = preset_of(
        tokenizer,
        transformer,
        tokenizer.height,
        tokenizer.width,
        window=config["seq_len"],
        actions=actions,
    )
    assert preset.grid == grid and grid.length(config["seq_len"]) == derived["block_size"]
    others = [derived["image_token_range_other"]] * (grid.area - 1)
    return Golden(
        grid,
        config["seq_len"],
        tokenizer.codebook,
        load_transformer(preset, files=[weights]),
        load_tokenizer(preset, files=[weights]),
        load_file(GOLDEN / f"{name}_io.safetensors"),
        torch.tensor(
            [derived["image_token_range_first"], *others, *derived["action_token_ranges"]]
        ),
    )


def wham_config(vocab: int, dim: int, layers: int, heads: int, version: int) -> TransformerConfig:
    return TransformerConfig(
        vocab=vocab,
        dim=dim,
        layers=layers,
        heads=heads,
        kv_heads=heads,
        head_dim=dim // heads,
        mlp_dim=4 * dim,
        activation="gelu-tanh",
        norm="layer",
        block_norm_affine=version == 1,
        bias=True,
        tied=True,
        positions=Positions(kind="learned"),
    )


def assert_same_frames(g: Golden, codes: torch.Tensor, theirs: torch.Tensor) -> None:
    """Decoded frames are theirs, to the bit.

    Pixels are truncated to integers. Where one lies within float error of an integer (nearer than
    1e-4 of 255), the last bit depends on the CPU that computed it, and it may be one off.
    """
    codes = codes.view(-1, g.grid.h, g.grid.w)
    ours, theirs = g.tokenizer.decode(codes), theirs.reshape(-1, *theirs.shape[-3:])
    assert ours.dtype == torch.uint8 and ours.shape == theirs.shape
    exact = 255 * (
        g.tokenizer.decode_pixels(codes).movedim(1, -1) * torch.tensor(STD) + torch.tensor(MEAN)
    )
    differ = ours != theirs
    print(f"{differ.sum()} of {differ.numel()} values differ by rounding")
    assert differ.sum() <= 2
    assert ((exact - torch.maximum(ours, theirs)).abs()[differ] < TOLERANCE).all()
