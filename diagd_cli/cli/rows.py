"""Of which clips `diagd generate` is asked for videos, and where they go."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from diagd_cli.cli.groups import ClusterOptions, ManyOptions
from diagd_cli.cli.kinds import numbers
from diagd_cli.errors import UsageError
from diagd_cli.files.atomic import STDOUT
from diagd_cli.files.url import Place, place
from diagd_cli.jobs.cluster import Cluster
from diagd_cli.jobs.manifest import read_manifest
from diagd_cli.jobs.targets import (
    Row,
    Shard,
    Target,
    continuations,
    is_folder,
    of_nothing,
    suffix_of,
)
from diagd_cli.preset import Preset

STREAM = str(STDOUT)  # as -o names it


def rows_of(
    clips: Sequence[Place],
    manifest: Place | None,
    output: str | None,
    preset: Preset,
    label: str | None,
) -> list[Row]:
    """The clips, of the command line or of a manifest; none for a preset that makes images of
    nothing, or for a label. Raises UsageError where there are none else, or both.
    """
    if label is not None and preset.labels is None:
        raise UsageError(f"The preset {preset.name} takes no labels", "Leave --label out")
    if (clips or manifest) and (preset.still or label is not None):
        told = "makes images of nothing" if preset.still else "takes a clip or a label"
        raise UsageError(f"The preset {preset.name} {told}", f"Leave {(*clips, manifest)[0]} out")
    if clips and manifest:
        raise UsageError(f"Both {clips[0]} and --manifest {manifest} are given", "Name one")
    if manifest:
        if output == STREAM:
            raise UsageError(f"-o - is one stream for the rows of {manifest}", "Name a folder")
        return read_manifest(manifest, output, suffix_of(preset))
    if not clips and preset.clip.context:
        raise UsageError("No clip is given", "Name clips, or a file of them by --manifest")
    return [Row(clip) for clip in clips]


def failures_file(
    many: ManyOptions, cluster: ClusterOptions, output: str | None, shard: Shard | None
) -> Place | None:
    """Where it is told what has failed of a manifest or on a cluster; None where that is told on
    stderr alone. A shard's file has a name of its own, since the folder is that of all.
    """
    if not (many.manifest or cluster.ray):
        return None
    name = f"failures-{shard.number}-of-{shard.count}" if shard else "failures"
    if output is None:
        folder = place(many.manifest).parent if many.manifest else Path()
    else:
        folder = place(output) if is_folder(output) else place(output).parent
    return folder / f"{name}.jsonl"


def cluster_of(options: ClusterOptions, threads: int) -> Cluster | None:
    """The cluster of --ray, with --workers MIN:MAX or N; None without. Raises UsageError."""
    if not options.ray:
        if options.workers:
            raise UsageError("--workers are Ray's, and no --ray is given", "Add --ray local")
        return None
    match = re.fullmatch(r"(\d{1,6})(?::(\d{1,6}))?", options.workers or "1:1")
    least, most = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= least <= most:
        raise UsageError(f"--workers {options.workers} is not MIN:MAX", "Give 2:8, or 8 for 8:8")
    return Cluster(options.ray, least, most if options.workers else None, max(1, threads))


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
    if output != STREAM:
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


def targets_of(
    rows: Sequence[Row],
    preset: Preset,
    label: str | None,
    output: str | None,
    seed: int,
    samples: int,
    *,
    drawn: bool,
    shard: Shard | None,
) -> list[Target]:
    """What is made of the clips, or of nothing. Raises UsageError and typer.BadParameter."""
    if output == STREAM:
        return stream_target(rows, seed, samples)
    if rows:
        suffix = suffix_of(preset)
        return continuations(rows, output, seed, samples, suffix, drawn=drawn, shard=shard)
    if shard:
        raise UsageError("--shard parts clips, and none are given", "Leave it out")
    labels = [] if label is None else numbers(label, 0, "--label")
    return of_nothing(preset, labels, output, seed, samples, drawn=drawn)


def stream_target(rows: Sequence[Row], seed: int, samples: int) -> list[Target]:
    """The stream to stdout. Raises UsageError for several, and for none."""
    if not rows:
        raise UsageError(
            "-o - streams the continuation of a clip, and none is given", "Name a file"
        )
    if len(rows) * samples > 1:
        raise UsageError(f"-o - is one stream for {len(rows) * samples} videos", "Name a folder")
    return [Target(rows[0].clip, STDOUT, seed)]
