"""The tiny models of `golden/mineworld`, loaded as a user's would be, and the ways to run them that
its tests share.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
import torch
from families.golden_preset import preset_of
from safetensors.torch import load_file

from diagd_cli.engine.decode import decode, prefill
from diagd_cli.engine.sample import Sampler, Sampling
from diagd_cli.families.mineworld.config import VqImageConfig
from diagd_cli.families.mineworld.tokenizer import VqImageTokenizer
from diagd_cli.model.cache import KVCache
from diagd_cli.model.config import TransformerConfig
from diagd_cli.model.transformer import Transformer
from diagd_cli.schedule.plan import Plan
from diagd_cli.tokens.grid import Grid
from diagd_cli.weights.load import load_tokenizer, load_transformer

GOLDEN = Path(__file__).parent.parent / "golden" / "mineworld"


@cache
def facts(name: str):
    return json.loads((GOLDEN / f"{name}.json").read_text())


@cache
def tensors(name: str) -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / f"{name}.safetensors")


def grid_of(geometry: dict) -> Grid:
    return Grid(geometry["rows"], geometry["cols"], geometry["action_tokens"])


def transformer_config(official: dict) -> TransformerConfig:
    """From the names of the official configuration."""
    heads = official["num_attention_heads"]
    return TransformerConfig(
        vocab=official["vocab_size"],
        dim=official["hidden_size"],
        layers=official["num_hidden_layers"],
        heads=heads,
        kv_heads=official["num_key_value_heads"],
        head_dim=official.get("head_dim", official["hidden_size"] // heads),
        mlp_dim=official["intermediate_size"],
        norm_eps=official["rms_norm_eps"],
        positions={"base": official["rope_theta"]},
    )


def tokenizer_config(official: dict) -> VqImageConfig:
    """From the names of the official configuration."""
    return VqImageConfig(
        codebook=official["num_vq_embeddings"],
        channels=official["block_out_channels"],
        blocks=official["layers_per_block"],
        latent=official["latent_channels"],
        code_dim=official["vq_embed_dim"] or 0,
        groups=official["norm_num_groups"],
    )


TINY = facts("transformer_config")
CONFIG, GRID, CODES = (
    transformer_config(TINY["config"]),
    grid_of(TINY["geometry"]),
    TINY["geometry"]["sampled_vocab"],
)
TOKENIZER_CONFIG = tokenizer_config(facts("vae_config"))
# its actions take fewer tokens than Minecraft's, so there are none here; a longer window has room
# for them
PRESET = preset_of(TOKENIZER_CONFIG, CONFIG, 16 * GRID.h, 16 * GRID.w, window=6)


@cache
def transformer() -> Transformer:
    return load_transformer(PRESET, files=[GOLDEN / "transformer.safetensors"])


@cache
def tokenizer() -> VqImageTokenizer:
    return load_tokenizer(PRESET, files=[GOLDEN / "vae.safetensors"])


# ---- decoding ------------------------------------------------------------------------------------


def known(prompt: list[list[int]], actions: list[list[int]], frames: int) -> torch.Tensor:
    """Token store int64 [1, ...] of prompt frames, the actions after each frame, room for `frames`
    new ones, a scratch.
    """
    codes = np.zeros((len(prompt) + frames, GRID.h, GRID.w), np.int64)
    codes[: len(prompt)] = np.reshape(prompt, (-1, GRID.h, GRID.w))
    steering = np.zeros((len(codes), GRID.conditioning), np.int64)
    steering[: len(actions)] = actions
    return torch.from_numpy(GRID.flatten(codes, steering))[None]


def new_codes(tokens: torch.Tensor, plan: Plan) -> list[int]:
    """The new tokens of a store, in raster order."""
    return (
        GRID.codes(tokens[0].numpy(), plan.context + plan.latents)[plan.context :].ravel().tolist()
    )


def empty_cache() -> KVCache:
    return KVCache(CONFIG, 1, TINY["config"]["max_position_embeddings"])


def run_greedy(
    plan: Plan, tokens: torch.Tensor, cache: KVCache | None = None
) -> dict[int, torch.Tensor]:
    """Fill in the store by prefill and the one loop; the logits [vocab] by the position of what
    came from them.
    """
    sampler, logits = Sampler(Sampling(CODES, 0.0), [0]), {}

    def choose(rows, targets):
        logits.update(zip(targets.tolist(), rows[0], strict=True))
        return sampler(rows, targets)

    cache = cache or empty_cache()
    prefill(transformer(), cache, tokens, np.arange(plan.prefill))
    assert list(decode(transformer(), plan, cache, tokens, choose)) == list(
        range(1, plan.steps + 1)
    )
    return logits
