"""The figures of a comparison: speed-up and agreement with the first decoding, fidelity to ground
truth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from diagd_cli.clip.read import Clip
from diagd_cli.metrics import psnr, ssim
from diagd_cli.pipeline import Loaded, Result, encode_frames, to_frames
from diagd_cli.report.comparison import ComparisonRow, Fidelity
from diagd_cli.tokens.fit import fit_frames


def row_of(
    result: Result,
    first: Result,
    label: str,
    decoding: Mapping,
    known: int,
    truth: np.ndarray | None,
) -> ComparisonRow:
    """The figures of a continuation, rounded as reports have them.

    first: what it is compared with.
    decoding: the facts of what was asked for.
    known: latent frames of the context, whose tokens are not compared.
    truth: see `truth_of`.
    """
    context = result.context
    return ComparisonRow(
        label=label,
        decoding=decoding,
        steps=result.steps,
        tokens=result.tokens,
        seconds={name: round(value, 4) for name, value in result.seconds.items()},
        completed=[round(value, 4) for value in result.completed],
        **{name: round(value, 3) for name, value in result.rates.items()},
        speedup=round(first.seconds["decode"] / result.seconds["decode"], 2),
        token_agreement=round(float(np.mean(result.codes[known:] == first.codes[known:])), 4),
        fidelity=None if truth is None else fidelity(result.pixels[context:], truth[context:]),
    )


def rows_of(
    results: Sequence[Result],
    decodings: Sequence[tuple[str, Mapping]],
    known: int,
    truth: np.ndarray | None,
) -> list[ComparisonRow]:
    """A row for each continuation; decodings: label and facts of each. See `row_of`."""
    pairs = zip(results, decodings, strict=True)
    return [
        row_of(result, results[0], label, facts, known, truth) for result, (label, facts) in pairs
    ]


def truth_of(loaded: Loaded, source: Clip) -> np.ndarray | None:
    """The clip's own frames, context first, uint8 [F, H, W, 3] of the preset's size.

    None where it ends with the context.
    """
    if not len(source.future):
        return None
    size = loaded.preset.clip.height, loaded.preset.clip.width
    return fit_frames(np.concatenate([source.frames, source.future]), *size).numpy()


def limit_of(
    loaded: Loaded, source: Clip, truth: np.ndarray | None, context: int
) -> Fidelity | None:
    """What the tokenizer alone scores on ground truth: nothing that it decodes can be nearer, by
    and large.
    """
    if truth is None:
        return None
    whole = np.concatenate([source.frames, source.future])
    whole = whole[: loaded.preset.whole(len(whole))]
    copy = to_frames(loaded, encode_frames(loaded, whole).cpu().numpy())[context:]
    return fidelity(copy, truth[context:]) if len(copy) else None


def fidelity(frames: np.ndarray, truth: np.ndarray) -> Fidelity:
    """Fidelity of frames uint8 [F, H, W, 3] to the truth, as far as both go."""
    count = min(len(frames), len(truth))
    scores = psnr(frames[:count], truth[:count])
    similarity = float(ssim(frames[:count], truth[:count]).mean())
    by_frame = [round(float(score), 2) for score in scores]
    return Fidelity(round(float(scores.mean()), 2), round(similarity, 4), by_frame)
