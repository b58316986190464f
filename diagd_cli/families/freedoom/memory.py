"""How many parameters the tokenizer has, and what it works with besides; see `weights.memory` for
how that was measured.
"""

from __future__ import annotations

from diagd_cli.families.freedoom.config import FsqImageConfig
from diagd_cli.model.count import COLOURS, linear

TOGETHER = 8  # frames whose pixels are decoded together, where not fewer are asked for


def parameters(config: FsqImageConfig) -> int:
    """Parameters of the tokenizer."""
    (fine, coarse), levels = config.channels, len(config.levels)

    def blocks(width: int, count: int) -> int:
        return count * (
            (config.kernel**2 + 1 + 2) * width + linear(width, 2 * width) + linear(2 * width, width)
        )

    encoder = linear(48, fine, 9) + blocks(fine, config.encoder[0]) + linear(fine, coarse, 4)
    encoder += blocks(coarse, config.encoder[1]) + 2 * coarse + linear(coarse, levels)
    decoder = (
        linear(levels, coarse, 9) + blocks(coarse, config.decoder[1]) + linear(coarse, 4 * fine)
    )
    decoder += blocks(fine, config.decoder[0]) + 2 * fine + linear(fine, 48, 9)
    return encoder + decoder


def work(config: FsqImageConfig, frames: int, context: int, area: int, item: int) -> float:
    """Bytes besides the weights, see `families.TokenizerKind`."""
    widest = max(config.channels[0] / 16, config.channels[1] / 64)
    return item * area * max(context, min(TOGETHER, frames)) * (5 * widest + COLOURS)
