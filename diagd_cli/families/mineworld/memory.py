"""How many parameters the tokenizer has, and what it works with besides; see `weights.memory` for
how that was measured.
"""

from __future__ import annotations

from diagd_cli.families.mineworld.config import VqImageConfig
from diagd_cli.model.count import linear, resnet


def parameters(config: VqImageConfig) -> int:
    """Parameters of the tokenizer."""
    widths, code = config.channels, config.code_dim or config.latent

    def levels(widths: tuple[int, ...], blocks: int) -> int:
        count = sum(resnet(w, w, 9) for w in widths for _ in range(blocks - 1))
        count += sum(
            resnet(i, o, 9) for i, o in zip((widths[0], *widths[:-1]), widths, strict=True)
        )
        return count + sum(linear(w, w, 9) for w in widths[:-1])

    last, middle = widths[-1], 2 * resnet(widths[-1], widths[-1], 9)
    encoder = linear(3, widths[0], 9) + levels(widths, config.blocks) + middle + 2 * last
    encoder += linear(last, config.latent, 9) + linear(config.latent, code)
    decoder = linear(code, config.latent) + linear(config.latent, last, 9) + middle
    decoder += levels(widths[::-1], config.blocks + 1) + 2 * widths[0] + linear(widths[0], 3, 9)
    return encoder + decoder + config.codebook * code


def work(config: VqImageConfig, frames: int, context: int, area: int, item: int) -> float:
    """Bytes besides the weights, see `families.TokenizerKind`."""
    # A frame at a time; the decoder's levels begin with the width before them.
    ends = (config.channels, 5.1), ((*config.channels[1:], config.channels[-1]), 3.1)
    widest = max(
        factor * width * area / 4**n for widths, factor in ends for n, width in enumerate(widths)
    )
    return max(widest * item, 4 * (area // config.spatial**2) * config.codebook)
