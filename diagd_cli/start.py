"""From encoded clips and what is asked of them to a session that can be extended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from diagd_cli.engine.sample import Sampling
from diagd_cli.engine.session import Session
from diagd_cli.preset import Preset

if TYPE_CHECKING:
    from diagd_cli.pipeline import Loaded, Request


@torch.inference_mode()
def start_session(
    loaded: Loaded, codes: np.ndarray, requests: list[Request], kv_dtype: torch.dtype | None = None
) -> Session:
    """A session of clips that stand after their context, codes int64 [B, T, h, w], with room for what is requested."""
    preset, request = loaded.preset, requests[0]
    length = codes.shape[1] + preset.new_latents(request.frames)
    window = min(preset.window, length)
    return Session(
        loaded.transformer,
        preset.grid,
        codes,
        np.stack([_conditioning(preset, r.actions, length) for r in requests]),
        [r.seed for r in requests],
        sampling_of(preset, **request.sampling),
        window=window,
        overlap=min(preset.overlap, window - 1),
        prefix=np.array(preset.prefix, dtype=np.int64),
        cross=_cross(loaded, [r.text for r in requests]),
        kv_dtype=kv_dtype,
    )


def sampling_of(preset: Preset, **given) -> Sampling:
    """How tokens of a preset are drawn; given: temperature, top_k, top_p, top_p_rule, where they are not the preset's."""
    return Sampling(preset.tokenizer.codebook, **preset.decoding.sampling_with(**given), first=preset.decoding.first)


def _conditioning(preset: Preset, actions: np.ndarray | None, length: int) -> np.ndarray:
    """Tokens int64 [length, A] after each latent frame: the actions, or where none are given the preset's rest."""
    if not preset.actions:
        return np.zeros((length, preset.grid.conditioning), dtype=np.int64)
    return (np.tile(preset.actions.rest, (length, 1)) if actions is None else actions)[:length]


def _cross(loaded: Loaded, texts: list[Tensor | None]) -> list[tuple[Tensor, Tensor]] | None:
    """Keys and values of each clip's text, or of none; None for a preset that takes no text."""
    preset = loaded.preset
    if not preset.text:
        return None
    silence = torch.zeros(preset.text.length, preset.transformer.cross_dim)
    rows = torch.stack([silence if text is None else text for text in texts])
    return loaded.transformer.cross_context(rows.to(loaded.device, loaded.dtype))
