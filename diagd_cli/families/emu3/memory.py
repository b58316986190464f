"""How many parameters the tokenizer has, and what it works with besides; see `weights.memory`."""

from __future__ import annotations

from collections.abc import Callable

from diagd_cli.families.emu3.config import TIMES, Emu3VqConfig
from diagd_cli.model.count import COLOURS, linear

Norm = Callable[[int], int]


def parameters(config: Emu3VqConfig) -> int:
    """Parameters of the tokenizer."""
    widths, last, latent = config.widths, config.widths[-1], config.latent

    def plain(width: int) -> int:
        return 2 * width

    def guided(width: int) -> int:  # scale and shift are made of the codes
        return 2 * width + 2 * linear(config.code_dim, width)

    def half(first: int, widths: tuple[int, ...], blocks: int, norm: Norm) -> int:
        """The levels of encoder or decoder, and its middle."""
        pairs = [*zip((first, *widths[:-1]), widths, strict=True), (last, last), (last, last)]
        pairs += [(width, width) for width in widths for _ in range(blocks - 1)]
        count = sum(_block(i, o, norm) for i, o in pairs)
        return count + (blocks + 1) * (4 * linear(last, last) + norm(last))

    encoder = half(config.channels, widths, config.blocks, plain) + plain(last)
    encoder += linear(COLOURS, config.channels, 9) + linear(last, latent, 9)
    encoder += sum(linear(width, width, 9) for width in widths[:-1])
    decoder = half(last, widths[::-1], config.blocks + 1, guided) + guided(widths[0])
    decoder += linear(latent, last, 9) + linear(widths[0], COLOURS, 9)
    decoder += sum(linear(width, width, 9) for width in widths[1:])
    in_time = 2 * config.blocks * (2 * plain(latent) + 2 * linear(latent, latent, 27))
    in_time += (TIMES // 2) * (linear(latent, latent, 36) + linear(latent, latent, 27))
    codes = linear(latent, config.code_dim, 3) + linear(config.code_dim, latent, 3)
    return encoder + decoder + in_time + codes + config.codebook * config.code_dim


def _block(inputs: int, outputs: int, norm: Norm) -> int:
    count = norm(inputs) + norm(outputs) + linear(inputs, outputs, 9) + linear(outputs, outputs, 9)
    return count + (linear(inputs, outputs) if inputs != outputs else 0)


def work(config: Emu3VqConfig, frames: int, context: int, area: int, item: int) -> float:
    """Bytes besides the weights, see `families.TokenizerKind`."""
    # an image at a time, as TIMES frames; the factor is of the decoder at full resolution, measured
    widths = config.widths
    before = (*widths[1:], widths[-1])  # the decoder's levels begin with the width before them
    widest = max(
        5.3 * max(pair) * area / 4**n for n, pair in enumerate(zip(widths, before, strict=True))
    )
    cells = area // config.spatial**2
    return max(TIMES * widest * item, 4 * cells * cells, 4 * cells * config.codebook)
