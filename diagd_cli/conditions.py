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
from diagd_cli.preset import Preset
from diagd_cli.sections import Prompt
from diagd_cli.tokens.sampling import Guidance
from diagd_cli.tokens.template import prompt_ids


@dataclass(frozen=True, eq=False)
class Texts:
    """Of B clips.

    cross: what `Session` takes; None for a preset without text.
    padding: int64 [B], positions of the prefix that hold nothing.
    guidance: the preset's, which knows how much its own text leaves of the prefix.
    prefix: int64 [B, P], the ids before the first frame.
    """

    cross: Cross
    padding: np.ndarray
    guidance: Guidance | None
    prefix: np.ndarray


def texts_of(loaded: Loaded, requests: list[Request]) -> Texts:
    """The texts of clips that are made in one batch. Without one a clip is asked for nothing, as
    the guidance asks where no negative prompt is given.
    """
    preset = loaded.preset
    guidance = preset.guided(requests[0].guidance)
    if preset.prompt:
        return _worded(preset, preset.prompt, requests, guidance)
    prefix = np.array([preset.prefix_of(r.label) for r in requests], dtype=np.int64)
    if not preset.text:
        return Texts(None, np.zeros(len(requests), dtype=np.int64), guidance, prefix)
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
    return Texts(model.cross_context(context), padding, guidance, prefix)


def _worded(
    preset: Preset, prompt: Prompt, requests: list[Request], guidance: Guidance | None
) -> Texts:
    """Prompts that are ids; a clip without one has what stands around it."""
    bare = prompt_ids(prompt, None, preset.transformer.vocab, None)
    own = [bare if r.text is None else r.text.cpu().numpy() for r in requests]
    if longer := [len(ids) for ids in own if not 0 < len(ids) <= prompt.length]:
        raise ValueError(f"a prompt of {longer[0]} ids: the preset takes 1 to {prompt.length}")
    rows = [np.pad(ids, (prompt.length - len(ids), 0)) for ids in own]
    padding = np.array([prompt.length - len(ids) for ids in own], dtype=np.int64)
    if guidance:
        negative = requests[0].negative
        ids = bare if negative is None else negative.cpu().numpy()
        away = np.pad(ids, (prompt.length - len(ids), 0))
        free = prompt.length - len(ids)
        guidance = replace(guidance, prefix=tuple(away.tolist()), padding=free)
    return Texts(None, padding, guidance, np.stack(rows).astype(np.int64))


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
