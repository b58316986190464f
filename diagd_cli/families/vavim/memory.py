"""How many parameters the tokenizer has, and what it works with besides; see `weights.memory` for
how that was measured.
"""

from __future__ import annotations

from diagd_cli.families.vavim.config import LlamaGenVqConfig
from diagd_cli.model.count import COLOURS, linear, resnet


def parameters(config: LlamaGenVqConfig) -> int:
    """Parameters of the tokenizer."""
    widths, last = config.widths, config.widths[-1]

    def levels(inputs: int, widths: tuple[int, ...], blocks: int) -> int:
        count = sum(resnet(w, w, 9) for w in widths for _ in range(blocks - 1))
        pairs = zip((inputs, *widths[:-1]), widths, strict=True)
        return count + sum(resnet(i, o, 9) for i, o in pairs) + blocks * attention

    attention = 2 * last + 4 * linear(last, last)
    ends = linear(COLOURS, config.channels, 9) + linear(widths[0], COLOURS, 9)
    ends += linear(last, config.latent, 9) + linear(config.latent, last, 9)
    ends += 2 * (last + widths[0])  # the norms before the last convolutions
    middle = 2 * resnet(last, last, 9) + attention
    changes = sum(linear(w, w, 9) for w in widths[:-1]) + sum(linear(w, w, 9) for w in widths[1:])
    codes = linear(config.latent, config.code_dim) + linear(config.code_dim, config.latent)
    encoder = levels(config.channels, widths, config.blocks)
    decoder = levels(last, widths[::-1], config.blocks + 1)
    total = encoder + decoder + ends + 2 * middle + changes + codes
    return total + config.codebook * config.code_dim


def work(config: LlamaGenVqConfig, frames: int, context: int, area: int, item: int) -> float:
    """Bytes besides the weights, see `families.TokenizerKind`."""
    # A frame at a time; the decoder's levels begin with the width before them.
    widths = config.widths
    ends = (widths, 5.1), ((*widths[1:], widths[-1]), 3.1)
    widest = max(
        factor * width * area / 4**n for sizes, factor in ends for n, width in enumerate(sizes)
    )
    return max(widest * item, 4 * (area // config.spatial**2) * config.codebook)
