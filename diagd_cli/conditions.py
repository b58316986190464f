"""What a session is told of its clips' texts: what the model makes of them, and how much of the
prefix they fill.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from diagd_cli.loading import Loaded, Request
from diagd_cli.model.contract import Cross, TextModel
from diagd_cli.model.transformer import Transformer
from diagd_cli.tokens.sampling import Guidance


@dataclass(frozen=True, eq=False)
class Texts:
    """Of B clips.

    cross: what `Session` takes; None for a preset without text.
    padding: int64 [B], positions of the prefix that hold nothing.
    guidance: the preset's, which knows how much its own text leaves of the prefix.
    """

    cross: Cross
    padding: np.ndarray
    guidance: Guidance | None


def texts_of(loaded: Loaded, requests: list[Request]) -> Texts:
    """The texts of clips that are made in one batch. Without one a clip is asked for nothing, as
    the guidance asks where no negative prompt is given.
    """
    preset = loaded.preset
    guidance = preset.guided(requests[0].guidance)
    if not preset.text:
        return Texts(None, np.zeros(len(requests), dtype=np.int64), guidance)
    model = cast(TextModel, loaded.transformer)
    nothing, negative = _nothing(loaded), requests[0].negative
    own = [nothing if request.text is None else request.text for request in requests]
    padding = np.zeros(len(own), dtype=np.int64)
    if preset.transformer.prefix_dim:
        padding = np.array([padding_of(text, preset.text.length) for text in own])
        own = [_at_the_end(text, preset.text.length) for text in own]
        if guidance and negative is not None:
            guidance = replace(guidance, padding=padding_of(negative, preset.text.length))
            negative = _at_the_end(negative, preset.text.length)
    rows = own
    if guidance:
        rows = own + [nothing if negative is None else negative] * len(own)
    context = torch.stack([row.to(loaded.device, loaded.dtype) for row in rows])
    return Texts(model.cross_context(context), padding, guidance)


def padding_of(text: Tensor, length: int) -> int:
    """Places of so many that a text float [n, dim] leaves, whose last rows may be zeros: n or
    fewer are its tokens', which never are.
    """
    rows = text.ne(0).any(1).nonzero()
    return length - (int(rows[-1]) + 1 if len(rows) else 1)


def _at_the_end(text: Tensor, length: int) -> Tensor:
    """A text float [n, dim] as the last of `length` rows, after zeros."""
    padding = padding_of(text, length)
    return torch.nn.functional.pad(text[: length - padding], (0, 0, padding, 0))


def _nothing(loaded: Loaded) -> Tensor:
    """What asks for nothing, float [length, text_dim]: learned where the text is the prefix, else
    zeros.
    """
    text, config = loaded.preset.text, loaded.preset.transformer
    assert text is not None  # whoever asks has one
    if config.prefix_dim:
        return cast(Transformer, loaded.transformer).caption.nothing
    return torch.zeros(text.length, config.cross_dim)
