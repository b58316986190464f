"""Begin a Transformer with another preset's: its blocks as they are, each code as the codes that it
stands in for.

A better tokenizer means other codes, and what a Transformer knows of motion, of actions and of
where to look lies in its blocks, which need not be learnt again. Both tokenizers read the same
frames: how often a new code and an old one stand for the same patch says what the new one means.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor

from diagd_cli.clip.read import read_frames
from diagd_cli.errors import PresetError
from diagd_cli.model.transformer import Transformer
from diagd_cli.pipeline import Loaded, encode_frames
from diagd_cli.preset import Preset
from diagd_cli.tokens.protocols import Actions

# read of each clip to match the codes; 300 clips of 15 x 20 patches are 1.4 million patches
FRAMES_A_CLIP = 16


def check_alike(preset: Preset, source: Preset) -> None:
    """Raise PresetError where two Transformers differ in more than their codes.

    Also where the codes differ in what they stand for: the grid, or the frames of a latent frame.
    """
    same = {"vocab": 0, "outputs": 0}
    mine, other = (p.transformer.model_copy(update=same).model_dump() for p in (preset, source))
    unlike = [
        f"{name} {mine[name]}, not {other[name]}" for name in mine if mine[name] != other[name]
    ]
    for name in ("h", "w"):
        if getattr(preset.grid, name) != getattr(source.grid, name):
            unlike.append(f"{name} {getattr(preset.grid, name)}, not {getattr(source.grid, name)}")
    if preset.tokenizer.temporal != source.tokenizer.temporal:
        unlike.append(
            f"{preset.tokenizer.temporal} frames a latent frame, not {source.tokenizer.temporal}"
        )
    if unlike:
        message = f"{preset.name} cannot start from {source.name}: it has {'; '.join(unlike)}"
        raise PresetError(message, "Start from a preset of the same Transformer and grid")


@torch.inference_mode()
def count_pairs(
    clips: list[Path],
    own: Loaded,
    other: Loaded,
    on_clip: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """How many patches a code of `own` and one of `other` both stand for.

    clips: of each the first 16 frames are read.
    on_clip: on_clip(clips done, clips in all) is called after each.

    Returns float32 [own codebook, other codebook].
    """
    sizes = own.preset.tokenizer.codebook, other.preset.tokenizer.codebook
    counts = torch.zeros(sizes[0] * sizes[1])
    for n, clip in enumerate(clips):
        frames = np.stack(list(islice(read_frames(clip), FRAMES_A_CLIP)))
        frames = frames[: own.preset.whole(len(frames))]
        mine, theirs = (encode_frames(loaded, frames).flatten() for loaded in (own, other))
        counts += torch.bincount((mine * sizes[1] + theirs).cpu(), minlength=len(counts))
        on_clip(n + 1, len(clips))
    return counts.view(sizes)


def transfer(
    model: Transformer,
    preset: Preset,
    weights: dict[str, Tensor],
    source: Preset,
    counts: Tensor | None = None,
) -> None:
    """Fill an initialised Transformer with the weights of another preset's.

    A code's row becomes the mean of the rows of the codes that share its patches, by how many they
    share, and what it was initialised to is added: it tells codes apart that share the same ones.
    A code that was never seen becomes the mean code. Rows of actions are kept where both presets
    have the same.

    model: of `preset`, changed in place.
    weights: the state dict of the other Transformer.
    source: its preset.
    counts: float32 [codebook, source codebook], of `count_pairs`; None: the codes are the same.
    """
    codes, others = preset.tokenizer.codebook, source.tokenizer.codebook
    share = None
    if counts is not None:
        share = counts + counts.sum(0) / counts.sum()
        share = share / share.sum(1, keepdim=True)
    own, other = preset.actions, source.actions
    alike = own and other and _names(own) == _names(other)
    state = model.state_dict()
    for name, value in weights.items():
        mine, value = state[name], value.to(state[name])
        if name not in ("embed.weight", "head.weight"):
            mine.copy_(value)
            continue
        mine[:codes] = (
            value[:others] if share is None else mine[:codes] + share.to(value) @ value[:others]
        )
        if own and other and alike and len(mine) > codes:
            rows = own.vocabulary
            first, begin = own.offset, other.offset
            mine[first : first + rows] = value[begin : begin + rows]


def _names(actions: Actions) -> dict:
    assert isinstance(actions, BaseModel)  # as every section of a preset
    return actions.model_dump(exclude={"offset"})
