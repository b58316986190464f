"""How many parameters a configuration has, by arithmetic: nothing is built. Torch-free."""

from __future__ import annotations

from diagd_cli import families
from diagd_cli.model.config import TransformerConfig
from diagd_cli.model.count import linear as biased
from diagd_cli.tokens.protocols import TokenizerConfig

SCALED = 4  # bytes of a scale


def transformer_parameters(config: TransformerConfig, positions: int) -> int:
    """Parameters of a `Transformer` for that many positions, which count where they are learned."""
    dim = config.dim
    gates = 2 if config.activation == "swiglu" else 1
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    block_norm = _norm(config, dim) if config.block_norm_affine else 0
    head_norms = 2 * _norm(config, config.head_dim) if config.qk_norm else 0
    qkv, out, mlp = config.qkv_bias, config.out_bias, config.mlp_bias
    block = 2 * block_norm + head_norms
    block += _linear(dim, queries + 2 * keys, qkv) + _linear(queries, dim, out)
    block += _linear(dim, gates * config.mlp_dim, mlp) + _linear(config.mlp_dim, dim, mlp)
    if config.cross_dim:
        block += block_norm + head_norms + _linear(dim, queries, qkv)
        block += _linear(config.cross_dim, 2 * keys, qkv) + _linear(queries, dim, out)
    ends = (config.vocab + (0 if config.tied else config.logits)) * dim
    ends += _norm(config, dim) if config.final_norm_affine else 0
    ends += (
        (config.prefix_dim + dim) * dim + config.prefix_tokens * config.prefix_dim
        if config.prefix_dim
        else 0
    )
    return config.layers * block + ends + _learned(config, positions) * dim


def sizes_in_8_bits(config: TransformerConfig) -> tuple[int, int]:
    """Rows, and numbers, of the matrices in the blocks of a `Transformer`: those that weights of 8
    bits hold, with a scale a row.
    """
    gates = 2 if config.activation == "swiglu" else 1
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    sizes = [(queries + 2 * keys, config.dim), (config.dim, queries)]
    sizes += [(gates * config.mlp_dim, config.dim), (config.dim, config.mlp_dim)]
    if config.cross_dim:
        sizes += [(queries, config.dim), (2 * keys, config.cross_dim), (config.dim, queries)]
    rows = sum(outputs for outputs, _ in sizes)
    numbers = sum(outputs * inputs for outputs, inputs in sizes)
    return config.layers * rows, config.layers * numbers


def table_bytes(config: TransformerConfig, positions: int) -> int:
    """Bytes of the table that depends on the position: an absolute one in bfloat16.

    Rotary angles are computed, of any position, from those of one frame.
    """
    return positions * 2 * config.dim if config.positions.absolute else 0


def _learned(config: TransformerConfig, positions: int) -> int:
    """Rows of the tables of so many positions."""
    how = config.positions
    if how.kind != "learned" or not positions:
        return 0
    return how.frames(positions) + how.places if how.places else positions


def _linear(inputs: int, outputs: int, bias: bool) -> int:
    return biased(inputs, outputs) if bias else inputs * outputs


def _norm(config: TransformerConfig, width: int) -> int:
    return width * (2 if config.norm_bias else 1)


def tokenizer_parameters(config: TokenizerConfig) -> int:
    """Parameters of the tokenizer of any kind."""
    return families.tokenizer_kind(config.kind).parameters(config)
