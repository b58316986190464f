"""What was played, as files: an MP4, its actions, and a sidecar that says how to make it again."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diagd_cli.clip.image import stamped
from diagd_cli.clip.write import VideoWriter
from diagd_cli.errors import DiagdError
from diagd_cli.jobs.models import machine_facts
from diagd_cli.loading import Loaded
from diagd_cli.pipeline import to_frames
from diagd_cli.play import ENDINGS
from diagd_cli.play.playable import playable
from diagd_cli.play.take import Take
from diagd_cli.preset import Preset
from diagd_cli.preset_files import option_word
from diagd_cli.schedule.decoding import Decoding

KINDS = {"mp4": "video/mp4", "actions": "application/jsonl", "sidecar": "application/json"}
AT_ONCE = 64  # frames whose pixels are made at a time


@dataclass(frozen=True)
class Saved:
    """Files of a take in memory.

    key: nobody can guess it.
    files: the bytes of each of `KINDS`.
    """

    key: str
    name: str
    files: dict[str, bytes]

    @property
    def kinds(self) -> dict[str, str]:
        """The kind of each file by its name."""
        return {self.name + ENDINGS[kind]: kind for kind in self.files}

    @property
    def addresses(self) -> dict[str, str]:
        """Where each can be had, below the address of the page."""
        return {kind: f"/saved/{self.key}/{name}" for name, kind in self.kinds.items()}


def save(loaded: Loaded, take: Take, words: Sequence[object] | None) -> Saved:
    """The files of a take as it is now; see `write`."""
    name = time.strftime("walk-%Y%m%d-%H%M%S")
    with tempfile.TemporaryDirectory(prefix="diagd-") as folder:
        paths = write(loaded, take, Path(folder) / f"{name}.mp4", words)
        files = {kind: path.read_bytes() for kind, path in paths.items()}
    return Saved(secrets.token_urlsafe(16), name, files)


def write(
    loaded: Loaded, take: Take, output: Path, words: Sequence[object] | None
) -> dict[str, Path]:
    """Write a take: `output`, and beside it the actions and the sidecar; returns their paths.

    The video has the new frames alone.

    words: what a command line must say besides to have the same models; None where none has them.

    Raises DiagdError where nothing has been played, and OutputError.
    """
    begun = list(take.begun)
    codes, rows = list(take.codes.copy()), list(take.rows.copy())  # it goes on meanwhile
    codes = codes[: len(rows)]
    rows = rows[: len(codes)]
    if not codes:
        raise DiagdError("nothing has been played yet", "Walk first")
    preset, played = loaded.preset, playable(loaded.preset)
    paths = {kind: output.with_suffix(ending) for kind, ending in ENDINGS.items()}
    height, width = preset.clip.height, preset.clip.width
    with VideoWriter(output, height, width, take.clip.fps or preset.clip.fps) as video:
        for start in range(0, len(codes), AT_ONCE):
            part = np.stack(codes[start : start + AT_ONCE]).astype(np.int64)
            frames = to_frames(loaded, part)
            video.write(stamped(frames, preset.stamp))
    lines = "".join(json.dumps(line) + "\n" for line in played.lines(np.stack(rows)))
    paths["actions"].write_text(lines, encoding="utf-8")
    again = Again(preset, take, begun, len(codes), words)
    sidecar = json.dumps(facts(loaded, take, again, output), indent=2)
    paths["sidecar"].write_text(sidecar + "\n", encoding="utf-8")
    return paths


def facts(loaded: Loaded, take: Take, again: Again, output: Path) -> dict:
    """The sidecar: with what the world began, how it went on, and how to have its tokens again."""
    preset, command = loaded.preset, again.command(output)
    return {
        "output": output.name,
        "preset": preset.name,
        "seed": take.seed,
        "input": {
            "clip": take.clip.path.name,
            "sha256": take.clip.sha256,
            "first": take.clip.first,
            "context": len(take.clip.frames),
        },
        "new_frames": again.frames,
        "forgotten_frames": take.forgotten,
        "decodings": [
            {"from_frame": start, **decoding.facts(preset.grid, preset.context)}
            for start, decoding in again.begun
        ],
        **({"again": command, "again_frames": again.same} if command else {}),
        **machine_facts(loaded, named=True),
    }


@dataclass(frozen=True)
class Again:
    """How the tokens of a take can be made again.

    begun: as the take has it, when the files were made.
    frames: new ones in the files.
    words: see `write`.
    """

    preset: Preset
    take: Take
    begun: list[tuple[int, Decoding]]
    frames: int
    words: Sequence[object] | None

    @property
    def same(self) -> int:
        """The first new frames that the command makes again, token for token: those of the first
        sequence, before another decoding or another group of players began a new one.
        """
        if self.take.forgotten or self.words is None or self.preset.path is None:
            return 0
        return min([self.frames, *(start for start, _ in self.begun[1:])])

    def command(self, output: Path) -> str:
        """The command, to be run beside the files; "" where there is none."""
        if not self.same:
            return ""
        decoding, clip = self.begun[0][1], self.take.clip
        words: list[object] = ["diagd", "generate", os.path.abspath(clip.path)]
        words += ["-p", option_word(self.preset, absolute=True)]
        words += ["--start", clip.first, "--context", len(clip.frames), "--frames", self.same]
        words += ["--decoding", decoding.method]
        words += [] if decoding.raster else ["--k", decoding.k]
        words += ["--d", decoding.d] if decoding.method == "diagd" else []
        default = self.preset.decoding
        other = not decoding.raster and decoding.stand_in != default.stand_in
        words += ["--stand-in", decoding.stand_in] if other else []
        words += [] if decoding.repair else ["--no-repair"]
        words += ["--window", decoding.window_word]
        words += ["--sinks", decoding.sinks] if decoding.sinks != default.sinks else []
        words += [*(self.words or ()), "--seed", self.take.seed]
        words += ["--actions", output.with_suffix(".jsonl").name, "--save-tokens"]
        return shlex.join(map(str, words))
