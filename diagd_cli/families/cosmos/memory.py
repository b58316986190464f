"""How many parameters the tokenizer has, and what it works with besides; see `weights.memory` for
how that was measured.
"""

from __future__ import annotations

from diagd_cli.families.cosmos.config import CosmosDvConfig
from diagd_cli.model.count import COLOURS, chain, linear, resnet


def parameters(config: CosmosDvConfig) -> int:
    """Parameters of the tokenizer."""
    widths = [config.channels * m for m in config.multipliers]
    last, z, values = widths[-1], config.z_channels, COLOURS * config.patch**3
    middle = 2 * resnet(last, last, 9, 3) + _attention(last) + 2 * last
    encoder = (
        chain(values, config.channels, 9, 3)
        + middle
        + chain(last, z, 9, 3)
        + linear(z, len(config.levels))
    )
    decoder = (
        linear(len(config.levels), z) + chain(z, last, 9, 3) + middle - 2 * last + 2 * widths[0]
    )
    decoder += chain(widths[0], values, 9, 3)
    for n, width in enumerate(widths):
        attention = _attention(width) if config.attends(n) else 0
        before, after = ([config.channels, *widths][n], [*widths, last][n + 1])
        for inputs, blocks, change in (
            (before, config.blocks, config.downsamples(n)),
            (after, config.blocks + 1, config.upsamples(n)),
        ):
            level = (
                resnet(inputs, width, 9, 3)
                + (blocks - 1) * resnet(width, width, 9, 3)
                + blocks * attention
            )
            space, time = change
            changed = (
                space * linear(width, width, 9)
                + time * linear(width, width, 3)
                + linear(width, width)
            )
            encoder += level + (changed if space or time else 0)
    return encoder + decoder


def work(config: CosmosDvConfig, frames: int, context: int, area: int, item: int) -> float:
    """Bytes besides the weights, see `families.TokenizerKind`."""
    # The whole clip at once: Haar patches of the pixels, or the blocks at their resolution.
    pixels = COLOURS * frames * area
    times = 1 + (frames - 1) / config.patch
    wide = config.channels * config.multipliers[0] * area / config.patch**2
    # a convolution in time has two frames more in front: in a copy, and in its kernel's layout
    return max(5.5 * pixels, (6.6 * times + 4) * wide) * item


def _attention(width: int) -> int:
    """Attention in space and in time: of each four products and a norm."""
    return 2 * (4 * linear(width, width) + 2 * width)
