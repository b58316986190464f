"""What a run's weights make of a validation clip, to look at while it trains:
RUN/samples/step-NNNNNN.mp4 or .png.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from diagd_cli.clip.image import contact_sheet, write_png
from diagd_cli.clip.panels import side_by_side
from diagd_cli.clip.read import read_clip
from diagd_cli.clip.write import VideoWriter
from diagd_cli.families.freedoom.tokenizer import FsqImageTokenizer
from diagd_cli.model.transformer import Transformer
from diagd_cli.pipeline import Loaded, continue_clip
from diagd_cli.tokens.fit import fit_frames
from diagd_cli.train import parallel
from diagd_cli.train.clips import action_rows
from diagd_cli.train.data import Episodes, Tokens
from diagd_cli.train.loop import Run

LATENTS = 4  # new latent frames of a sample, at most
FRAMES = 6  # of a sheet of reconstructions


def sample_path(run: Run, suffix: str) -> Path:
    """Where the sample of a run's present step belongs."""
    return run.folder / "samples" / f"step-{run.step:06d}{suffix}"


def write_continuation(run: Run[Transformer], loaded: Loaded, val: Tokens) -> None:
    """Continue the first validation clip that is long enough by the preset's decoding; ground truth
    beside it.

    `loaded` has the tokenizer. Where no clip is longer than the context, nothing is written.
    """
    preset, lengths = loaded.preset, np.diff(val.starts)
    long = np.flatnonzero(lengths > preset.context)
    if parallel.rank() or not len(long):
        return
    path, length = val.clips[long[0]], int(lengths[long[0]])
    room = min(LATENTS, length - preset.context, preset.new_latents(preset.clip.frames))
    context, new = preset.clip.context, room * preset.tokenizer.temporal
    clip = read_clip(path, context, start=0, future=new)
    actions = action_rows(path, preset, length)[: context + new] if preset.actions else None
    request = loaded.request(new, seed=0, actions=actions)
    made = continue_clip(replace(loaded, transformer=run.shipped()), clip, request).frames
    truth = fit_frames(
        np.concatenate([clip.frames, clip.future]), preset.clip.height, preset.clip.width
    ).numpy()
    label = request.decoding.label(preset.grid)
    captions = [
        [f"context {n + 1}" if n < context else name for n in range(len(made))]
        for name in ("truth", label)
    ]
    video = side_by_side([truth, made], captions)
    with VideoWriter(
        sample_path(run, ".mp4"), video.shape[1], video.shape[2], preset.clip.fps
    ) as writer:
        writer.write(video)


@torch.inference_mode()
def write_reconstructions(run: Run, tokenizer: FsqImageTokenizer, val: Episodes) -> None:
    """Frames spread over the validation split, above what the tokenizer makes of them."""
    if parallel.rank():
        return
    frames = val.frames[np.linspace(0, len(val) - 1, FRAMES).astype(int)]
    made = tokenizer.decode(tokenizer.encode(torch.from_numpy(frames))).cpu().numpy()
    write_png(sample_path(run, ".png"), contact_sheet([frames, made]))
