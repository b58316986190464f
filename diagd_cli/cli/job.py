"""What the training commands share: a job as it was asked for, its data, and the weights that go with its result."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diagd_cli.cli.console import Reporter
from diagd_cli.errors import OutputError, WeightsError

if TYPE_CHECKING:
    from diagd_cli.files.outputs import Named


@dataclass(frozen=True)
class Job:
    """One training as it was asked for, checked. `settings`: diagd_cli.train.optimiser.Optimiser; `fit`: options of its fit.

    start: the preset whose weights it begins with.
    """

    data: Path
    out: Path
    recipe: object
    preset: object
    settings: object
    device: object
    samples: bool
    cache: Path | None
    weights_dir: Path | None
    fit: dict
    reporter: Reporter
    start: object = None

    def goes_on(self, part: str) -> bool:
        """Whether there is a run already, which has weights of its own."""
        return (self.out / part / "checkpoint.pt").exists()

    def begins(self, part: str) -> bool:
        """Whether the weights of `start` are needed."""
        return self.start is not None and not self.goes_on(part)


def origin(preset, *parts: str, **more: str) -> dict[str, str]:
    """What a run is of, for its checkpoint: the preset's name, what it says of `parts`, and `more`, by name."""
    from diagd_cli.train.recipe import learnt_by

    own = {key: json.dumps(value) for key, value in learnt_by(preset).items() if key.split(".")[0] in parts}
    return {"preset": preset.name, **own, **more}


def tell_notes(data: Path, preset, reporter: Reporter) -> None:
    """What is done without having been asked for. Raises ClipError where there is nothing to train on."""
    from diagd_cli.train.board import installed
    from diagd_cli.train.clips import find_clips, is_flat

    count = {split: len(clips) for split, clips in find_clips(data, preset).items()}
    if is_flat(data):
        share = f"{count['val']} of {sum(count.values())}"
        reporter.note(f"{data} has no train and val: every tenth clip, by a hash of its name, validates ({share})")
    if reporter.verbose and not installed():
        reporter.note("tensorboard is not installed (pip install 'diagd[train]'): figures go to log.jsonl only")


def check_run(
    out: Path,
    part: str,
    data: Path,
    preset,
    reads: list[Named],
    cache: Path | None,
    *,
    weights: str | None = None,
    start: list[Named] | None = None,
) -> None:
    """Refuse, before any work is done, a training that could not keep its results, or would write over what it reads.

    out: the run's folder, whose files are both read and written: it goes on with them. part: where its checkpoint lies;
    weights: the model whose weights it makes, `part` by default. start: files of the preset that it begins with, which are
    no part of the run. Raises DiagdError.
    """
    from diagd_cli.files.outputs import check_outputs
    from diagd_cli.inputs import clip_inputs
    from diagd_cli.train.clips import find_clips

    clips = [clip for own in find_clips(data, preset).values() for clip in own]
    writes = [(out / "preset.yaml", "the run's preset"), (out / f"{weights or part}.safetensors", "the weights")]
    writes += [(out / part / name, f"the run's {name}") for name in ("checkpoint.pt", "log.jsonl")]
    own = {_place(path) for path, _ in writes}
    others = [named for named in reads + clip_inputs(preset, clips) if _place(named[0]) not in own]
    begins = not (out / part / "checkpoint.pt").exists()
    check_outputs(writes, others + (start if start and begins else []), instead="Choose another folder with --out")
    place = cache or data / "cache"
    if not place.is_dir():  # what is in one that is there may be all that is needed
        try:
            check_outputs([(place / "frames.npy", "the cache")])
        except OutputError as error:
            raise OutputError(error.message, f"{error.hint}, with --cache FOLDER") from None


def _place(path: Path) -> str:
    """The folder and the name that a path leads to, whatever a link of that name leads to."""
    return os.path.join(os.path.realpath(path.parent), path.name)


def load_splits(job: Job, name: str, load: Callable) -> list:
    """load(split, progress) of the training and the validation split, with a bar each."""
    splits = []
    for split in ("train", "val"):
        with job.reporter.bar(name.format(split), 1, "clips") as bar:

            def show(done: int, total: int, bar=bar) -> None:
                bar.total = total
                bar.update(done)

            splits.append(load(split, show))
    return splits


def keep_weights(job: Job, origin, role: str) -> dict:
    """Have the preset `origin`'s weights of `role` in the run's folder too, and its inverse dynamics if there; their entries."""
    from diagd_cli.weights.load import copy_weights

    kept = {f"{role}_weights": copy_weights(origin, role, job.out, job.weights_dir)}
    if origin.inverse_weights:
        with suppress(WeightsError):
            kept["inverse_weights"] = copy_weights(origin, "inverse", job.out, job.weights_dir)
    return kept


def tell_steps(job: Job, run) -> None:
    """Say so where a run had gone further than was asked for."""
    if run.step > job.settings.steps:
        job.reporter.note(f"The run in {run.folder} has {run.step} steps already, more than {job.settings.steps}")


def show_loss(bar) -> Callable[[int, int, float], None]:
    return lambda step, total, loss: bar.update(step, lambda seconds: f"loss {loss:.3f}")
