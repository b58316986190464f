"""A comparison that is made up: three decodings of a small clip, whose times are as good as real
ones.
"""

import numpy as np
from tiny import moving

from diagd_cli.report.comparison import Comparison, ComparisonRow

LABELS = ("NTP", "spatial DiagD k=1", "DiagD k=1 d=2")
SECONDS = (12.0, 6.0, 1.5)


def made_row(
    label: str, total: float, new: int = 3, latents: int = 3, speedup: float = 1.0, **more
) -> ComparisonRow:
    """The figures of a decoding that took `total` seconds for `new` frames."""
    return ComparisonRow(
        label=label,
        decoding={"k": 1, "d": 2},
        steps=int(100 * total),
        tokens=6 * latents,
        seconds={"decode": total},
        completed=[total * (n + 1) / latents for n in range(latents)],
        tokens_per_second=6 * latents / total,
        frames_per_second=new / total,
        ms_per_step=10.0,
        speedup=speedup,
        token_agreement=1.0,
        **more,
    )


def comparison(truth: bool = True, new: int = 4, seconds=SECONDS, temporal: int = 1) -> Comparison:
    """Continuations that are 20, 40 and 60 levels lighter than the truth, of 2 + `new` frames of
    16x24 pixels.
    """
    clip = moving(2 + new) // 2 + 20
    latents = -(-new // temporal)
    rows = [
        made_row(label, total, new, latents, seconds[0] / total)
        for label, total in zip(LABELS, seconds, strict=False)
    ]
    videos = [clip + np.uint8(20 * n) for n in range(1, len(rows) + 1)]
    return Comparison(rows, videos, clip if truth else None, 2, temporal, 10.0)
