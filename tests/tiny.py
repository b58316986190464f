"""A preset so small that it runs in milliseconds, and clips of its size."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from diagd_cli.clip.write import VideoWriter
from diagd_cli.families.freedoom.tokenizer import FsqImageTokenizer
from diagd_cli.model.transformer import initialise
from diagd_cli.preset_files import load_preset
from diagd_cli.train.recipe import write_preset
from diagd_cli.weights.load import build_transformer, save_weights
from diagd_cli.weights.untold import metadata

TINY = """
name: tiny
about: Random weights on frames of 16x24 pixels, 2x3 tokens.
licence: Apache-2.0
clip: {height: 16, width: 24, fps: 12.5, context: 2, least: 2, frames: 3, window: 5, overlap: 2}
tokenizer: {kind: fsq-image, levels: [5, 5], channels: [4, 8], encoder: [0, 1], decoder: [1, 1], kernel: 3}
transformer:
  {vocab: 29, outputs: 25, dim: 16, layers: 1, heads: 2, kv_heads: 1, head_dim: 8, mlp_dim: 16,
   positions: {kind: rope-3d}}
actions: {kind: names, offset: 25, names: [idle, left, right, none]}
decoding: {k: 1, d: 2}
"""


@dataclass(frozen=True)
class Tiny:
    """A preset that runs in milliseconds, and a clip of its size with the actions taken in it."""

    folder: Path
    preset: Path
    clip: Path


def make_tiny(folder: Path) -> Tiny:
    """A tiny preset with random weights in `folder`, and a clip of 8 frames."""
    source = folder / "tiny.yaml"
    source.write_text(TINY)
    preset = load_preset(source)
    torch.manual_seed(0)
    codec, transformer = FsqImageTokenizer(preset.tokenizer), build_transformer(preset)
    initialise(transformer, seed=0, std=0.5)
    weights = {}
    for role, model, dtype in (
        ("tokenizer", codec, torch.float16),
        ("transformer", transformer, torch.bfloat16),
    ):
        told = metadata(preset, role)  # as weights have it that were trained here
        path = folder / f"{role}.safetensors"
        weights[f"{role}_weights"] = save_weights(path, model.state_dict(), dtype, told=told)
    write_preset(preset, folder, **weights).replace(source)
    return Tiny(folder, source, save_clip(folder / "walk.mp4", moving(8)))


def moving(count: int, height: int = 16, width: int = 24) -> np.ndarray:
    """Colours that drift from frame to frame, uint8 [count, height, width, 3]."""
    t, y, x = np.meshgrid(np.arange(count), np.arange(height), np.arange(width), indexing="ij")
    waves = [np.sin(x / 3 + t), np.cos(y / 3 - t / 2), np.sin((x + y) / 5 + t / 3)]
    return (127.5 + 100 * np.stack(waves, -1)).astype(np.uint8)


def save_clip(path: Path, frames: np.ndarray, fps: float = 10.0) -> Path:
    """Write frames as an MP4, and beside it an action a frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, *frames.shape[1:3], fps, crf=0) as writer:
        writer.write(frames)
    actions = [["left", "right", "idle"][n % 3] for n in range(len(frames))]
    path.with_suffix(".jsonl").write_text(
        "".join(json.dumps({"action": a}) + "\n" for a in actions)
    )
    return path


def save_walks(folder: Path) -> Path:
    """Three clips of different pixels, 0.mp4 to 2.mp4, each with the actions beside it."""
    for n in range(3):
        save_clip(folder / f"{n}.mp4", moving(3 + n, 16 + n))
    return folder
