"""How many parameters a configuration has, by arithmetic: nothing is built. Torch-free."""

from __future__ import annotations

from diagd_cli.model.config import TransformerConfig
from diagd_cli.tokens.config import CosmosDvConfig, FsqImageConfig, TokenizerConfig, VitVqConfig, VqImageConfig

COLOURS = 3


def transformer_parameters(config: TransformerConfig, positions: int) -> int:
    """Parameters of a `Transformer` for that many positions, which count where they are learned."""
    dim = config.dim
    gates = 2 if config.activation == "swiglu" else 1
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    block_norm = _norm(config, dim) if config.block_norm_affine else 0
    head_norms = 2 * _norm(config, config.head_dim) if config.qk_norm else 0
    linear = {True: _linear, False: lambda inputs, outputs: inputs * outputs}[config.bias]
    block = 2 * block_norm + head_norms + linear(dim, queries + 2 * keys) + linear(queries, dim)
    block += linear(dim, gates * config.mlp_dim) + linear(config.mlp_dim, dim)
    if config.cross_dim:
        block += block_norm + head_norms + linear(dim, queries) + linear(config.cross_dim, 2 * keys)
        block += linear(queries, dim)
    ends = (config.vocab + (0 if config.tied else config.logits)) * dim + _norm(config, dim)
    return config.layers * block + ends + (positions * dim if config.positions.kind == "learned" else 0)


def tokenizer_parameters(config: TokenizerConfig) -> int:
    """Parameters of the tokenizer of any kind."""
    count = {
        FsqImageConfig: _fsq_image,
        VqImageConfig: _vq_image,
        VitVqConfig: _vit_vq,
        CosmosDvConfig: _cosmos_dv,
    }
    return count[type(config)](config)


def table_bytes(config: TransformerConfig, positions: int) -> int:
    """Bytes of the tables that depend on the position: rotary ones in float32, absolute ones in bfloat16."""
    rotary = 0 if config.positions.kind == "learned" else 8 * config.head_dim
    return positions * (rotary + (2 * config.dim if config.positions.absolute else 0))


def _norm(config: TransformerConfig, width: int) -> int:
    return width * (2 if config.norm == "layer" and config.bias else 1)


def _linear(inputs: int, outputs: int, taps: int = 1) -> int:
    """A linear layer, or a convolution of so many taps, with its bias."""
    return (inputs * taps + 1) * outputs


def _fsq_image(config: FsqImageConfig) -> int:
    (fine, coarse), levels = config.channels, len(config.levels)

    def blocks(width: int, count: int) -> int:
        return count * ((config.kernel**2 + 1 + 2) * width + _linear(width, 2 * width) + _linear(2 * width, width))

    encoder = _linear(48, fine, 9) + blocks(fine, config.encoder[0]) + _linear(fine, coarse, 4)
    encoder += blocks(coarse, config.encoder[1]) + 2 * coarse + _linear(coarse, levels)
    decoder = _linear(levels, coarse, 9) + blocks(coarse, config.decoder[1]) + _linear(coarse, 4 * fine)
    decoder += blocks(fine, config.decoder[0]) + 2 * fine + _linear(fine, 48, 9)
    return encoder + decoder


def _vit_vq(config: VitVqConfig) -> int:
    dim, values = config.dim, COLOURS * config.patch**2
    one = config.rows * config.columns * dim + config.layers * (12 * dim**2 + 2 * dim) + 2 * dim
    both = 2 * one + _linear(values, dim) + _linear(dim, values)
    return both + _linear(dim, config.code_dim) + _linear(config.code_dim, dim) + config.codebook * config.code_dim


def _vq_image(config: VqImageConfig) -> int:
    widths, code = config.channels, config.code_dim or config.latent

    def levels(widths: tuple[int, ...], blocks: int) -> int:
        count = sum(_resnet(w, w, 9) for w in widths for _ in range(blocks - 1))
        count += sum(_resnet(i, o, 9) for i, o in zip((widths[0], *widths[:-1]), widths, strict=True))
        return count + sum(_linear(w, w, 9) for w in widths[:-1])

    last, middle = widths[-1], 2 * _resnet(widths[-1], widths[-1], 9)
    encoder = _linear(3, widths[0], 9) + levels(widths, config.blocks) + middle + 2 * last
    encoder += _linear(last, config.latent, 9) + _linear(config.latent, code)
    decoder = _linear(code, config.latent) + _linear(config.latent, last, 9) + middle
    decoder += levels(widths[::-1], config.blocks + 1) + 2 * widths[0] + _linear(widths[0], 3, 9)
    return encoder + decoder + config.codebook * code


def _resnet(inputs: int, outputs: int, *taps: int) -> int:
    """A residual block: two norms, two chains of convolutions, and a shortcut where the width changes."""
    convolutions = _chain(inputs, outputs, *taps) + _chain(outputs, outputs, *taps)
    return 2 * inputs + 2 * outputs + convolutions + (_linear(inputs, outputs) if inputs != outputs else 0)


def _chain(inputs: int, outputs: int, *taps: int) -> int:
    """Convolutions one after the other."""
    return sum(_linear(inputs if n == 0 else outputs, outputs, size) for n, size in enumerate(taps))


def _cosmos_dv(config: CosmosDvConfig) -> int:
    widths = [config.channels * m for m in config.multipliers]
    last, z, values = widths[-1], config.z_channels, COLOURS * config.patch**3
    middle = 2 * _resnet(last, last, 9, 3) + _attention(last) + 2 * last
    encoder = _chain(values, config.channels, 9, 3) + middle + _chain(last, z, 9, 3) + _linear(z, len(config.levels))
    decoder = _linear(len(config.levels), z) + _chain(z, last, 9, 3) + middle - 2 * last + 2 * widths[0]
    decoder += _chain(widths[0], values, 9, 3)
    for n, width in enumerate(widths):
        attention = _attention(width) if config.attends(n) else 0
        before, after = ([config.channels, *widths][n], [*widths, last][n + 1])
        for inputs, blocks, change in (
            (before, config.blocks, config.downsamples(n)),
            (after, config.blocks + 1, config.upsamples(n)),
        ):
            level = _resnet(inputs, width, 9, 3) + (blocks - 1) * _resnet(width, width, 9, 3) + blocks * attention
            space, time = change
            changed = space * _linear(width, width, 9) + time * _linear(width, width, 3) + _linear(width, width)
            encoder += level + (changed if space or time else 0)
    return encoder + decoder


def _attention(width: int) -> int:
    """Attention in space and in time: of each four products and a norm."""
    return 2 * (4 * _linear(width, width) + 2 * width)
