"""Training data of any preset: frames for its tokenizer, tokens for its Transformer, made once and
kept on disk.

Clips are streamed: neither a long clip nor a large folder is ever in memory as frames. A file of
the cache belongs to one clip as it is (name, size, time of change), to a frame size and, for
tokens, to the very weights that make a tokenizer's codes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import nn

from diagd_cli.clip.read import opened, read_frames
from diagd_cli.errors import ClipError, OutputError
from diagd_cli.files.atomic import atomic
from diagd_cli.pipeline import Loaded, encode_frames
from diagd_cli.preset import Preset
from diagd_cli.tokens.fit import fit_frames
from diagd_cli.tokens.protocols import Tokenizer
from diagd_cli.train import parallel
from diagd_cli.train.clips import action_rows, chunks, describe_clips, find_clips

OnClip = Callable[[int, int], None]  # (clips that are done, clips in all)
FRAMES_AT_ONCE = 16  # read, resized and encoded together


@dataclass(frozen=True)
class Episodes:
    """Frames of all clips of a split, end to end, at the preset's size.

    frames: uint8 [N, H, W, 3] (memory-mapped).
    starts: int64 [E+1], clip e is frames[starts[e] : starts[e+1]].
    actions: int64 [N, A], token ids of the action after each frame.
    clips: their E paths.
    split: train or val.
    """

    frames: np.ndarray
    starts: np.ndarray
    actions: np.ndarray
    clips: tuple[Path, ...]
    split: str = "train"

    def __len__(self) -> int:
        return len(self.frames)


@dataclass(frozen=True)
class Tokens:
    """Codes of all episodes of a split, end to end.

    codes: int32 [M, h, w], one latent frame each.
    starts: int64 [E+1], episode e is codes[starts[e] : starts[e+1]].
    actions: int64 [M, A], token ids after each latent frame.
    clips: the E paths that the episodes come from.
    whole: an episode is a window that is read from its start only, since its first latent frame
        stands for one frame and the others for several; else an episode is a clip, and any latent
        frame of it may begin a window.
    split: train or val.
    """

    codes: np.ndarray
    starts: np.ndarray
    actions: np.ndarray
    clips: tuple[Path, ...]
    whole: bool = False
    split: str = "train"

    def __len__(self) -> int:
        return len(self.codes)


def load_episodes(
    folder: Path,
    split: str,
    preset: Preset,
    on_clip: OnClip = lambda done, total: None,
    cache: Path | None = None,
) -> Episodes:
    """Every clip of a split as frames of the preset's size, decoded once.

    folder: of clips, see `find_clips`.
    split: train or val.
    on_clip: called after each clip.
    cache: folder that keeps the frames; None is folder/cache.

    Raises ClipError where there is no clip or one cannot be read, UsageError for a bad file of
    actions.
    """
    clips = find_clips(folder, preset)[split]
    height, width = preset.clip.height, preset.clip.width
    key = _key("\n".join(_identity(clip) for clip in clips), f"{height}x{width}")
    pixels = (cache or folder / "cache") / f"frames-{split}-{key}.u8"
    index = pixels.with_suffix(".npy")
    if parallel.rank() == 0 and not _complete(pixels, _cached(index), height * width * 3):
        starts = _decode_all(clips, height, width, pixels, on_clip)
        with _kept(index) as file:
            np.save(file, starts)
    parallel.barrier()
    starts = np.load(index)
    frames = np.memmap(pixels, np.uint8, "r", shape=(int(starts[-1]), height, width, 3))
    rows = [
        action_rows(clip, preset, int(n)) for clip, n in zip(clips, np.diff(starts), strict=True)
    ]
    return Episodes(frames, starts, np.concatenate(rows), tuple(clips), split)


def _complete(pixels: Path, starts: np.ndarray | None, size: int) -> bool:
    """Whether a file of the cache holds all frames, of `size` bytes each, that its index
    tells of.
    """
    return (
        starts is not None and pixels.is_file() and pixels.stat().st_size == int(starts[-1]) * size
    )


def _decode_all(
    clips: list[Path], height: int, width: int, target: Path, on_clip: OnClip
) -> np.ndarray:
    """Write the frames of all clips, end to end; returns where each begins, int64 [E+1]."""
    counts = [0]
    with _kept(target) as file:
        for n, clip in enumerate(clips):
            counts.append(0)
            for some in chunks(read_frames(clip), FRAMES_AT_ONCE):
                file.write(fit_frames(some, height, width).numpy().data)
                counts[-1] += len(some)
            on_clip(n + 1, len(clips))
    return np.cumsum(counts)


def load_tokens(
    folder: Path,
    split: str,
    loaded: Loaded,
    on_clip: OnClip = lambda done, total: None,
    cache: Path | None = None,
) -> Tokens:
    """Every clip of a split as tokens, encoded once. Several processes encode different clips.

    folder: of clips, see `find_clips`.
    split: train or val.
    loaded: a preset and its tokenizer; the Transformer is not used.
    on_clip: called after each clip.
    cache: folder that keeps the tokens; None is folder/cache.

    Raises ClipError and UsageError as `load_episodes` does.
    """
    preset = loaded.preset
    clips = find_clips(folder, preset)[split]
    size = f"{preset.clip.height}x{preset.clip.width}"
    codec = codes_digest(loaded.tokenizer)
    place = (cache or folder / "cache") / f"tokens-{_key(codec, size, str(preset.window))}"
    files = [place / f"{_key(_identity(clip))}.npy" for clip in clips]
    for n, (clip, file) in enumerate(zip(clips, files, strict=True)):
        if n % parallel.world_size() == parallel.rank() and _cached(file) is None:
            codes = _encode(clip, loaded)
            with _kept(file) as out:
                np.save(out, codes)
        on_clip(n + 1, len(clips))
    parallel.barrier()
    made = [np.load(file) for file in files]
    rows = [action_rows(clip, preset, len(own)) for clip, own in zip(clips, made, strict=True)]
    whole = preset.tokenizer.temporal > 1
    lengths = [_windows(len(own), preset.window) if whole else [len(own)] for own in made]
    owners = tuple(clip for clip, parts in zip(clips, lengths, strict=True) for _ in parts)
    starts = np.cumsum([0, *(length for parts in lengths for length in parts)])
    if not starts[-1]:
        least = 1 + preset.tokenizer.temporal
        raise ClipError(
            f"None of {describe_clips(split, clips)} has {least} frames", "Give longer clips"
        )
    return Tokens(
        np.concatenate(made).astype(np.int32), starts, np.concatenate(rows), owners, whole, split
    )


def _windows(length: int, window: int) -> list[int]:
    """Lengths of the windows that `length` latent frames were cut into: full ones, and what was
    left.
    """
    return [min(window, length - start) for start in range(0, length, window)]


def _encode(clip: Path, loaded: Loaded) -> np.ndarray:
    """Codes int32 [M, h, w] of a whole clip; with several frames a latent frame, of one window
    after the other.
    """
    preset, made = loaded.preset, []
    step = preset.tokenizer.temporal
    for frames in chunks(read_frames(clip), preset.clip.window if step > 1 else FRAMES_AT_ONCE):
        if step > 1:
            frames = frames[: preset.whole(len(frames))]
            if len(frames) == 1:  # nothing follows it
                continue
        with torch.inference_mode():
            made.append(encode_frames(loaded, frames).cpu().numpy().astype(np.int32))
    return np.concatenate(made) if made else np.zeros((0, preset.grid.h, preset.grid.w), np.int32)


def codes_digest(tokenizer: Tokenizer | nn.Module | None) -> str:
    """SHA-256, in hexadecimal, of what decides a tokenizer's codes, whatever file it came from.

    That is its codebook and its weights but for the decoder's.
    """
    assert isinstance(tokenizer, nn.Module)  # as every one that is built for a preset
    hashed = hashlib.sha256(str(tokenizer.codebook).encode())
    for name, value in sorted(tokenizer.state_dict().items()):
        if not name.startswith("decoder."):
            hashed.update(name.encode())
            hashed.update(value.detach().cpu().float().contiguous().numpy().data)
    return hashed.hexdigest()


def _identity(clip: Path) -> str:
    with opened(clip) as file:
        status = os.fstat(file.fileno())
    return f"{clip.parent.name}/{clip.name} {status.st_size} {status.st_mtime_ns}"


def _key(*parts: str) -> str:
    return hashlib.sha256(os.fsencode("\n".join(parts))).hexdigest()[:16]


def _cached(file: Path) -> np.ndarray | None:
    """An array of the cache, left on disk; None where it has to be made, also again because it
    cannot be read.
    """
    try:
        return np.load(file, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None


@contextmanager
def _kept(file: Path) -> Iterator[IO[bytes]]:
    """A new file of the cache, open for writing, there when it is complete. Raises OutputError."""
    try:
        with atomic(file) as part, part.open("wb") as out:
            yield out
    except OutputError as error:
        raise OutputError(error.message, f"{error.hint}, with --cache FOLDER") from None
