"""The least that a step of a plan must read and compute, by arithmetic, and so the least time that
it can take.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diagd_cli.model.config import TransformerConfig
from diagd_cli.schedule.plan import Plan
from diagd_cli.weights.parameters import SCALED, sizes_in_8_bits, transformer_parameters


@dataclass(frozen=True)
class Work:
    """Of each step: bytes read and floating-point operations, float64 [steps]."""

    bytes: np.ndarray
    flops: np.ndarray

    def floors(self, bandwidth: float, flops: float) -> np.ndarray:
        """Seconds, float64 [steps], on a machine that reads so many bytes/s and computes so many
        FLOP/s.
        """
        return np.maximum(self.bytes / bandwidth, self.flops / flops)


def work_of(
    config: TransformerConfig,
    plan: Plan,
    batch: int,
    item: int,
    text: int = 0,
    places: int | None = None,
    weights: str = "",
) -> Work:
    """What the steps of `plan` take for `batch` clips at once with numbers of `item` bytes.

    Bytes: every weight once but those rows of the embedding that are not looked up, and the cache
    up to the step's extent. FLOPs: the products of the tokens fed, the head only for those with a
    target, and the attention.

    text: tokens of the text that the clips attend to, whose keys and values are read too.
    weights: "int8" or "fp8" where the blocks' matrices are of 8 bits.
    places: slots of a cache that is reused; None: it has as many as the plan has positions.
    """
    seen = np.minimum(plan.extents, places or plan.length) + text
    return work_of_passes(config, plan.widths, plan.outputs, seen, batch, item, weights)


def work_of_passes(
    config: TransformerConfig,
    fed: np.ndarray,
    outputs: np.ndarray,
    seen: np.ndarray,
    batch: int,
    item: int,
    weights: str = "",
) -> Work:
    """The same for passes that feed `fed`, want `outputs` and read `seen` slots, each [passes]."""
    # numbers that a position has in the cache
    keys = 2 * config.kv_heads * config.head_dim * config.layers
    tables = (config.positions.kind == "learned") + (config.positions.places > 0)
    gathered = fed * config.dim * (batch * (not config.tied) + tables)
    numbers = read_parameters(config) + gathered + batch * keys * seen
    per_token, per_target = product_parameters(config)
    attention = 4 * config.heads * config.head_dim * config.layers * seen
    flops = 2 * (per_token * fed + per_target * outputs) + attention * fed
    saved = (item - 1) * per_token - SCALED * sizes_in_8_bits(config)[0] if weights else 0
    return Work(numbers * float(item) - saved, batch * flops.astype(float))


def read_parameters(config: TransformerConfig) -> int:
    """Parameters that every step reads whole: neither tables that are looked up nor what the text
    goes through once.
    """
    keys = 2 * config.kv_heads * config.head_dim
    text = config.layers * keys * (config.cross_dim + config.qkv_bias) if config.cross_dim else 0
    if config.prefix_dim:
        text += (config.prefix_dim + config.dim) * config.dim
        text += config.prefix_tokens * config.prefix_dim
    return (
        transformer_parameters(config, 0) - text - (0 if config.tied else config.vocab * config.dim)
    )


def product_parameters(config: TransformerConfig) -> tuple[int, int]:
    """Parameters of the matrices that a fed token is multiplied by: in the blocks, and in
    the head.
    """
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    gates = 2 if config.activation == "swiglu" else 1
    block = config.dim * (2 * queries + 2 * keys + (gates + 1) * config.mlp_dim)
    cross = 2 * config.dim * queries if config.cross_dim else 0
    return config.layers * (block + cross), config.dim * (
        config.vocab if config.tied else config.logits
    )
