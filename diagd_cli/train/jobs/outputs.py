"""Refuse a training that could not keep its results, or would write over what it reads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from diagd_cli.errors import OutputError
from diagd_cli.files.outputs import Named, check_outputs
from diagd_cli.files.url import Place
from diagd_cli.inputs import clip_inputs
from diagd_cli.preset import Preset
from diagd_cli.train.clips import find_clips
from diagd_cli.train.jobs.setup import has_checkpoint
from diagd_cli.train.requests import RunOptions


def check_run_outputs(
    options: RunOptions,
    part: str,
    preset: Preset,
    reads: Sequence[Named],
    *,
    weights: str | None = None,
    init_reads: Sequence[Named] = (),
) -> None:
    """Refuse, before any work is done, a training whose files could not be written or are read.

    options: out is the folder of the run, whose own files are both read and written: it goes on.
    part: the folder in it that holds the checkpoint.
    preset: which clips and actions there are to find.
    reads: what else is read, each file with what it is.
    weights: the model whose weights result, `part` where it is None.
    init_reads: files of the preset that a new run begins with; they are no part of the run.

    Raises DiagdError.
    """
    out = options.out
    clips = [clip for own in find_clips(options.data, preset).values() for clip in own]
    writes = [(out / "preset.yaml", "the run's preset")]
    writes += [(out / f"{weights or part}.safetensors", "the weights")]
    writes += [(out / part / name, f"the run's {name}") for name in ("checkpoint.pt", "log.jsonl")]
    own = {_place(path) for path, _ in writes}
    others = [*reads, *clip_inputs(preset, clips)]
    others = [named for named in others if _place(named[0]) not in own]
    if not has_checkpoint(out, part):
        others += init_reads
    check_outputs(writes, others, instead="Choose another folder with --out")
    _check_cache(options.cache or options.data / "cache")


def _check_cache(folder: Path) -> None:
    if folder.is_dir():  # what is in one that is there may be all that is needed
        return
    try:
        check_outputs([(folder / "frames.npy", "the cache")])
    except OutputError as error:
        raise OutputError(error.message, f"{error.hint}, with --cache FOLDER") from None


def _place(path: Place) -> str:
    """The folder and the name that a path leads to, whatever a link of that name leads to."""
    return os.path.join(os.path.realpath(str(path.parent)), path.name)
