"""Videos side by side, each with a caption."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CAPTION = 30  # pixels above each panel
INK, PAPER = (235, 235, 235), (24, 24, 27)


def side_by_side(videos: list[np.ndarray], captions: list[list[str]], least_width: int = 320) -> np.ndarray:
    """Videos uint8 [F, H, W, 3] of one size, enlarged by a whole factor, in a row under captions -> uint8 [F, H', W', 3].

    captions[n] holds the caption of video n at each frame (or one for all). Videos may differ in length: a shorter one
    stands still on its last frame.
    """
    height, width = videos[0].shape[1:3]
    scale = max(1, -(-least_width // width))
    font = ImageFont.load_default(size=14)
    length = max(map(len, videos))
    rows = []
    for t in range(length):
        panels = []
        for video, texts in zip(videos, captions, strict=True):
            image = Image.fromarray(video[min(t, len(video) - 1)])
            enlarged = image.resize((width * scale, height * scale), Image.Resampling.BICUBIC)
            panel = Image.new("RGB", (enlarged.width, enlarged.height + CAPTION), PAPER)
            panel.paste(enlarged, (0, CAPTION))
            ImageDraw.Draw(panel).text((8, 6), texts[min(t, len(texts) - 1)], font=font, fill=INK)
            panels.append(np.asarray(panel))
        gap = np.full((panels[0].shape[0], 4, 3), PAPER, dtype=np.uint8)
        rows.append(np.concatenate([p for panel in panels for p in (panel, gap)][:-1], axis=1))
    return np.stack(rows)
