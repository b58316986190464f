"""Measures of one clip's continuations, and of what they are held against: the truth, and the
tokenizer's copy of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from diagd_cli.clip.read import Clip
from diagd_cli.jobs.evaluation.likelihood import token_nll
from diagd_cli.metrics import psnr, ssim
from diagd_cli.model.inverse import InverseDynamics, read_motion
from diagd_cli.pipeline import (
    Loaded,
    Request,
    continue_clips,
    encode_frames,
    start_session,
    to_frames,
)
from diagd_cli.tokens.fit import fit_frames

Found = tuple[dict, dict[str, np.ndarray]]  # figures as JSON can hold them, and arrays by name


@dataclass(frozen=True, eq=False)
class Case:
    """A clip with its true future, and what is asked of it; `about` tells it in records."""

    clip: Clip
    request: Request
    about: dict


@dataclass(frozen=True, eq=False)
class Models:
    """What makes tokens, what scores them, and what reads actions (None where the preset has
    none).
    """

    loaded: Loaded
    base: Loaded
    inverse: InverseDynamics | None

    def truth(self, case: Case) -> np.ndarray:
        """Frames uint8 [frames, H, W, 3] that follow the context in the file, at the
        preset's size.
        """
        size = self.loaded.preset.clip
        return fit_frames(case.clip.future, size.height, size.width).numpy()


def measure_truth(models: Models, case: Case) -> Found:
    """The clip as it really goes on: NLL of its tokens, its actions as they are read; and the same
    after the tokenizer.
    """
    loaded, context = models.loaded, len(case.clip.frames)
    whole = np.concatenate([case.clip.frames, case.clip.future])
    codes = encode_frames(loaded, whole[: loaded.preset.whole(len(whole))]).cpu().numpy()
    shown = to_frames(loaded, codes)
    size = loaded.preset.clip
    real = fit_frames(whole, size.height, size.width).numpy()
    figures = {
        **fidelity(shown[context:], real[context:]),
        "nll": _nll(models, [case], codes[None])[0],
    }
    arrays = {"codes": codes.astype(np.int32)}
    if models.inverse:
        figures["hits"], arrays["features"] = _motion(models, case, real)
        figures["copied_hits"], arrays["copied_features"] = _motion(models, case, shown)
    return {"clip": case.clip.path.name, "context_frames": context, **figures}, arrays


def measure_continuations(models: Models, cases: list[Case], **options: Any) -> list[Found]:
    """Continue clips in one batch, each as its request says (`options` go to `continue_clips`), and
    measure each.
    """
    results = continue_clips(
        models.loaded, [c.clip for c in cases], [c.request for c in cases], **options
    )
    scores = _nll(models, cases, np.stack([result.codes for result in results]))
    found = []
    for case, result, nll in zip(cases, results, scores, strict=True):
        rates = {name: result.rates[name] for name in ("tokens_per_second", "frames_per_second")}
        figures = {**fidelity(result.pixels[result.context :], models.truth(case)), "nll": nll}
        figures |= {
            "steps": result.steps,
            "decode_seconds": result.seconds["decode"],
            "batch": result.batch,
            **rates,
        }
        arrays = {"codes": result.codes.astype(np.int32)}
        if models.inverse:
            figures["hits"], arrays["features"] = _motion(models, case, result.pixels)
        found.append(({"clip": case.clip.path.name, **figures}, arrays))
    return found


def fidelity(frames: np.ndarray, truth: np.ndarray) -> dict:
    """PSNR (dB) and SSIM of each frame, uint8 [F, H, W, 3], as far as both go."""
    count = min(len(frames), len(truth))
    pairs = frames[:count], truth[:count]
    return {"psnr": psnr(*pairs).round(4).tolist(), "ssim": ssim(*pairs).round(6).tolist()}


def _nll(models: Models, cases: list[Case], codes: np.ndarray) -> list[list[float]]:
    """Mean NLL (nats a token) of each new latent frame, for codes int64 [B, T, h, w] of the
    cases: all by one judge, whose window is as the preset has it, whatever made the tokens.
    """
    known = models.loaded.preset.latents(len(cases[0].clip.frames))
    session = start_session(models.base, codes[:, :known], [case.request for case in cases])
    slides = models.base.preset.decoding.window == "slide"
    return token_nll(session, codes, slides).mean((2, 3)).round(6).tolist()


def _motion(models: Models, case: Case, frames: np.ndarray) -> tuple[list[bool | None], np.ndarray]:
    """Whether each new frame's action is read as intended (None: nothing was), and the features
    float32 [F, D].

    frames: uint8 [context + F, H, W, 3]. Action t is taken after frame t and shows in frame t+1:
        the first pair is the last frame of the context and the first new one.
    """
    actions, context = models.loaded.preset.actions, len(case.clip.frames)
    steering = case.request.actions
    assert models.inverse and actions and steering is not None  # it reads what actions have made
    read, features = read_motion(models.inverse, frames[context - 1 :])
    rows = steering[context - 1 :][: len(read), 0]
    none = int(actions.rest[0])
    wanted = [None if row == none else row - actions.offset for row in rows.tolist()]
    return [
        None if w is None else bool(w == r) for w, r in zip(wanted, read.tolist(), strict=True)
    ], features
