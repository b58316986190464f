"""What trainings share: the record of one that may begin, its data, and what is told of it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, TypeVar, cast

import torch
from torch import nn

from diagd_cli.errors import DiagdWarning, WeightsError
from diagd_cli.model.transformer import Transformer
from diagd_cli.pipeline import Loaded
from diagd_cli.preset import Preset
from diagd_cli.progress import Bar, Progress, Silent
from diagd_cli.sources import Weights
from diagd_cli.tokens.protocols import Tokenizer
from diagd_cli.train import board
from diagd_cli.train.clips import find_clips, is_flat
from diagd_cli.train.loop import Run
from diagd_cli.train.optimiser import Optimiser
from diagd_cli.train.parallel import rank
from diagd_cli.train.recipe import learnt_by
from diagd_cli.train.requests import Precision, RunOptions
from diagd_cli.weights.load import copy_weights
from diagd_cli.weights.locate import Role

Data = TypeVar("Data")
Clips = Callable[[int, int], None]  # (clips that are read, clips in all)


class FitOptions(TypedDict):
    """Keyword arguments of `train.loop.fit`."""

    every: int
    precision: Precision
    on_step: Callable[[int, int, float], None]


@dataclass(frozen=True)
class TrainingSetup:
    """One training whose options have been checked, in a process that may begin with it.

    options: what was asked for.
    part: the folder in options.out with its checkpoint, log and samples.
    preset: the preset that is trained, with the weights that options.out has so far.
    optimiser: steps, batch and rates.
    device: where this process computes.
    progress: whom to tell; every process but the first is silent.
    init: the preset whose weights a new run begins with, None for none.
    """

    options: RunOptions
    part: str
    preset: Preset
    optimiser: Optimiser
    device: torch.device
    progress: Progress
    init: Preset | None = None

    @property
    def folder(self) -> Path:
        """Where checkpoint, log and samples are."""
        return self.options.out / self.part

    @property
    def needed_init(self) -> Preset | None:
        """`init` where its weights are to be loaded: a run with a checkpoint has its own."""
        return None if has_checkpoint(self.options.out, self.part) else self.init

    def load_splits(self, name: str, load: Callable[[str, Clips], Data]) -> tuple[Data, Data]:
        """The training and the validation data, read with a bar each.

        name: what the bar is called, with {} for the split.
        load: gets the split, train or val, and what to call after each clip.
        """
        splits = []
        for split in ("train", "val"):
            with self.progress.bar(name.format(split), 1, "clips") as bar:

                def show(done: int, total: int, bar: Bar = bar) -> None:
                    bar.total = total
                    bar.update(done)

                splits.append(load(split, show))
        return splits[0], splits[1]

    @contextmanager
    def fit_options(self, name: str) -> Iterator[FitOptions]:
        """What `train.loop.fit` is told, for as long as a bar of this name shows its steps."""
        with self.progress.bar(name, self.optimiser.steps) as bar:

            def show_loss(step: int, _steps: int, loss: float) -> None:
                bar.update(step, lambda _seconds: f"loss {loss:.3f}")

            options = self.options
            yield FitOptions(every=options.every, precision=options.precision, on_step=show_loss)

    def note_extra_steps(self, run: Run) -> None:
        """Say so where a run had gone further than was asked for."""
        asked = self.optimiser.steps
        if run.step > asked:
            already = f"The run in {run.folder} has {run.step} steps already, more than {asked}"
            self.progress.note(already)

    def copy_other_weights(self, source: Preset, role: Role) -> dict[str, Weights | None]:
        """Have weights that were not trained in the folder of the run, for its preset to name.

        source: the preset that has them.
        role: tokenizer or transformer; with them go its inverse dynamics, if there are any.

        Returns their entries by the preset's keys.
        """
        out, folder = self.options.out, self.options.weights_dir
        copied: dict[str, Weights | None] = {}
        copied[f"{role}_weights"] = copy_weights(source, role, out, folder)
        if source.inverse_weights:
            with suppress(WeightsError):
                copied["inverse_weights"] = copy_weights(source, "inverse", out, folder)
        return copied


def has_checkpoint(out: Path, part: str) -> bool:
    """Whether the folder `out` has a run of `part` already, which has weights of its own."""
    return (out / part / "checkpoint.pt").exists()


def as_loaded(
    preset: Preset, tokenizer: Tokenizer | nn.Module, model: Transformer, device: torch.device
) -> Loaded:
    """A preset's models, in float32, as the pipeline takes them."""
    codec = cast(Tokenizer, tokenizer)  # the methods of which every tokenizer of a preset has
    return Loaded(preset, codec, model, device, torch.float32, 0.0)


def run_identity(preset: Preset, *parts: str, **more: str) -> dict[str, str]:
    """What a run is of, by name, for its checkpoint: a run of anything else is not gone on with.

    parts: keys of the preset whose settings count beside its name.
    more: what else counts.
    """
    learnt = learnt_by(preset).items()
    own = {key: json.dumps(value) for key, value in learnt if key.split(".")[0] in parts}
    return {"preset": preset.name, **own, **more}


def note_data_and_board(options: RunOptions, preset: Preset, progress: Progress) -> None:
    """Note how the clips are split where nobody said it, and that TensorBoard is missing.

    The latter only with options.verbose. Raises ClipError where there is nothing to train on.
    """
    data = options.data
    count = {split: len(clips) for split, clips in find_clips(data, preset).items()}
    if is_flat(data):
        rule = "every tenth clip, by a hash of its name, validates"
        share = f"{count['val']} of {sum(count.values())}"
        progress.note(f"{data} has no train and val: {rule} ({share})")
    if options.verbose and not board.installed():
        remedy = "pip install 'diagd[train]'"
        progress.note(f"tensorboard is not installed ({remedy}): figures go to log.jsonl only")


@contextmanager
def first_process_tells(progress: Progress) -> Iterator[Progress]:
    """`progress` in the first of several processes; the others tell nothing, nor do they warn."""
    if rank() == 0:
        yield progress
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DiagdWarning)
        yield Silent()
