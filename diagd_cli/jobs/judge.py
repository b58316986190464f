"""The figures of a comparison: speed-up and agreement with the first decoding, fidelity to ground truth."""

from __future__ import annotations

import numpy as np

from diagd_cli.clip.read import Clip
from diagd_cli.metrics import psnr, ssim
from diagd_cli.pipeline import Loaded, Result, encode_frames, to_frames
from diagd_cli.tokens.fit import fit_frames


def row_of(result: Result, label: str, decoding: dict) -> dict:
    """What a continuation took, as JSON can hold it; `decoding`: the facts of what was asked for."""
    return {
        "label": label,
        "decoding": decoding,
        "steps": result.steps,
        "tokens": result.tokens,
        "seconds": {name: round(value, 4) for name, value in result.seconds.items()},
        "completed": [round(value, 4) for value in result.completed],
        **{name: round(value, 3) for name, value in result.rates.items()},
    }


def truth_of(loaded: Loaded, source: Clip) -> np.ndarray | None:
    """The clip's own frames, context first, uint8 [F, H, W, 3] of the preset's size; None where it ends with the context."""
    if not len(source.future):
        return None
    size = loaded.preset.clip.height, loaded.preset.clip.width
    return fit_frames(np.concatenate([source.frames, source.future]), *size).numpy()


def judge(
    loaded: Loaded, source: Clip, truth: np.ndarray | None, rows: list[dict], results: list[Result]
) -> dict | None:
    """Add speed-up, agreement and fidelity to the rows; returns what the tokenizer alone would score on the truth."""
    first, context = results[0], results[0].context
    known = loaded.preset.latents(context)
    for row, result in zip(rows, results, strict=True):
        row["speedup"] = round(first.seconds["decode"] / result.seconds["decode"], 2)
        row["token_agreement"] = round(float(np.mean(result.codes[known:] == first.codes[known:])), 4)
        if truth is not None:
            row |= fidelity(result.pixels[context:], truth[context:])
    if truth is None:
        return None
    whole = np.concatenate([source.frames, source.future])
    whole = whole[: loaded.preset.whole(len(whole))]
    ceiling = to_frames(loaded, encode_frames(loaded, whole).cpu().numpy())[context:]
    return fidelity(ceiling, truth[context:]) if len(ceiling) else None


def fidelity(frames: np.ndarray, truth: np.ndarray) -> dict:
    """PSNR (dB) and SSIM to ground truth: means, and PSNR by frame."""
    count = min(len(frames), len(truth))
    scores = psnr(frames[:count], truth[:count])
    similarity = float(ssim(frames[:count], truth[:count]).mean())
    by_frame = [round(float(x), 2) for x in scores]
    return {"psnr": round(float(scores.mean()), 2), "ssim": round(similarity, 4), "psnr_by_frame": by_frame}
