"""Of which clips `diagd generate` is asked for videos, and where they go."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from diagd_cli.cli.options import ManyOptions
from diagd_cli.errors import UsageError
from diagd_cli.files.atomic import STDOUT
from diagd_cli.jobs.cluster import LOCAL, Cluster
from diagd_cli.jobs.manifest import read_manifest
from diagd_cli.jobs.targets import TOKENS, VIDEO, Row, Shard, Target, is_folder
from diagd_cli.preset import Preset


def suffix_of(preset: Preset) -> str:
    """What a preset's outputs end in."""
    return VIDEO if preset.pixels else TOKENS


def rows_of(
    clips: Sequence[Path], manifest: Path | None, output: str | None, preset: Preset
) -> list[Row]:
    """The clips, of the command line or of a manifest. Raises UsageError where there are none, or
    both.
    """
    if clips and manifest:
        raise UsageError(f"Both {clips[0]} and --manifest {manifest} are given", "Name one")
    if manifest and output == str(STDOUT):
        raise UsageError(f"-o - is one stream for the rows of {manifest}", "Name a folder")
    if manifest:
        return read_manifest(manifest, output, suffix_of(preset))
    if not clips:
        raise UsageError("No clip is given", "Name clips, or a file of them by --manifest")
    return [Row(clip) for clip in clips]


def failures_file(many: ManyOptions, output: str | None, shard: Shard | None) -> Path | None:
    """Where it is told what has failed of a manifest or on a cluster; None where that is told on
    stderr alone. A shard's file has a name of its own, since the folder is that of all.
    """
    if not (many.manifest or many.ray):
        return None
    name = f"failures-{shard.number}-of-{shard.count}" if shard else "failures"
    if output is None:
        folder = many.manifest.parent if many.manifest else Path()
    else:
        folder = Path(output) if is_folder(output) else Path(output).parent
    return folder / f"{name}.jsonl"


def cluster_of(many: ManyOptions, threads: int) -> Cluster:
    """The cluster of --ray, with --workers MIN:MAX or N. Raises UsageError."""
    match = re.fullmatch(r"(\d{1,6})(?::(\d{1,6}))?", many.workers or "1:1")
    least, most = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= least <= most:
        raise UsageError(f"--workers {many.workers} is not MIN:MAX", "Give 2:8, or 8 for 8:8")
    return Cluster(many.ray or LOCAL, least, most if many.workers else None, max(1, threads))


def check_stream(given: Mapping[str, object], output: str | None) -> None:
    """Refuse options that no --stream can have, or none to stdout. Raises UsageError."""
    if given["--stream"] and given["--offload"]:
        raise UsageError(
            "--stream needs the tokenizer while --offload takes it away", "Leave one of them out"
        )
    if given["--stream"] and given["--resume"]:
        raise UsageError(
            "A --stream that ended early cannot be gone on with by --resume",
            "Leave --stream out, or make it anew with --force",
        )
    if output != "-":
        return
    if not given["--stream"]:
        raise UsageError(
            "-o - writes a video to stdout, which only --stream can", "Add --stream, or name a file"
        )
    for name in ("--json", "--resume", "--save-tokens"):
        if given[name]:
            raise UsageError(
                f"-o - fills stdout with the video and leaves no file for {name}",
                f"Leave {name} out",
            )
    if sys.stdout.isatty():
        raise UsageError(
            "-o - would write a video to the terminal", "Pipe it into a player: | ffplay -"
        )


def stream_target(rows: Sequence[Row], seed: int, samples: int) -> list[Target]:
    """The stream to stdout. Raises UsageError for several."""
    if len(rows) * samples > 1:
        raise UsageError(f"-o - is one stream for {len(rows) * samples} videos", "Name a folder")
    return [Target(rows[0].clip, STDOUT, seed)]
