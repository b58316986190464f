"""What was played, as files: an MP4, its actions, and a sidecar that says how to make it again."""

from __future__ import annotations

import json
import secrets
import shlex
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diagd_cli.clip.write import VideoWriter
from diagd_cli.errors import DiagdError
from diagd_cli.jobs.models import machine_facts
from diagd_cli.loading import Loaded
from diagd_cli.pipeline import to_frames
from diagd_cli.play import ENDINGS
from diagd_cli.play.world import Take
from diagd_cli.preset import Preset
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
    def addresses(self) -> dict[str, str]:
        """Where each can be had."""
        return {kind: f"/saved/{self.key}/{self.name}{ENDINGS[kind]}" for kind in self.files}


def save(loaded: Loaded, take: Take) -> Saved:
    """The files of a take as it is now. Raises DiagdError where nothing has been played."""
    name = time.strftime("walk-%Y%m%d-%H%M%S")
    with tempfile.TemporaryDirectory(prefix="diagd-") as folder:
        paths = write(loaded, take, Path(folder) / f"{name}.mp4")
        files = {kind: path.read_bytes() for kind, path in paths.items()}
    return Saved(secrets.token_urlsafe(16), name, files)


def write(loaded: Loaded, take: Take, output: Path) -> dict[str, Path]:
    """Write a take: `output`, and beside it the actions and the sidecar; returns their paths.

    The video has the new frames alone. Raises DiagdError where nothing has been played, and
    OutputError.
    """
    codes, rows = list(take.codes.copy()), list(take.rows.copy())  # it goes on meanwhile
    rows = rows[: len(codes)]
    if not codes:
        raise DiagdError("nothing has been played yet", "Walk first")
    preset = loaded.preset
    assert preset.actions is not None
    paths = {kind: output.with_suffix(ending) for kind, ending in ENDINGS.items()}
    height, width = preset.clip.height, preset.clip.width
    with VideoWriter(output, height, width, take.clip.fps or preset.clip.fps) as video:
        for start in range(0, len(codes), AT_ONCE):
            video.write(to_frames(loaded, np.stack(codes[start : start + AT_ONCE])))
    names = preset.actions.describe(np.stack(rows))
    lines = "".join(json.dumps({"action": name}) + "\n" for name in names)
    paths["actions"].write_text(lines, encoding="utf-8")
    sidecar = json.dumps(facts(loaded, take, len(codes), output), indent=2)
    paths["sidecar"].write_text(sidecar + "\n", encoding="utf-8")
    return paths


def facts(loaded: Loaded, take: Take, frames: int, output: Path) -> dict:
    """The sidecar: with what the world began, how it went on, and how to have its tokens again."""
    preset = loaded.preset
    again = replay(preset, take, frames, output)
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
        "new_frames": frames,
        "forgotten_frames": take.forgotten,
        "decodings": [
            {"from_frame": start, **decoding.facts(preset.grid, preset.context)}
            for start, decoding in take.decodings
        ],
        **({"again": again} if again else {}),
        **machine_facts(loaded, named=True),
    }


def replay(preset: Preset, take: Take, frames: int, output: Path) -> str:
    """The command that makes a take's tokens again; "" where several decodings made it, or its
    beginning is forgotten.
    """
    kinds = {decoding for _, decoding in take.decodings}
    if len(kinds) != 1 or take.forgotten:
        return ""
    decoding: Decoding = kinds.pop()
    words: list[object] = ["diagd", "generate", take.clip.path, "-p", preset.name]
    words += ["--start", take.clip.first, "--context", len(take.clip.frames), "--frames", frames]
    words += ["--decoding", decoding.method]
    words += [] if decoding.raster else ["--k", decoding.k]
    words += ["--d", decoding.d] if decoding.method == "diagd" else []
    words += ["--window", decoding.window, "--seed", take.seed]
    words += ["--actions", output.with_suffix(".jsonl").name, "--save-tokens"]
    return shlex.join(map(str, words))
