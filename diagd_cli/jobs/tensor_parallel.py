"""A generation by processes that hold the Transformer together, as torchrun starts them.

The first one does all that one process does. The others have their share of the Transformer and
nothing else: they are told what batch comes next, and take its steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from diagd_cli.device import choose_device
from diagd_cli.distributed import (
    gathered,
    heard,
    launched,
    launched_rank,
    process_group,
    rank,
    tell,
)
from diagd_cli.errors import DiagdError, UsageError
from diagd_cli.explain import explain
from diagd_cli.jobs.batches import generate
from diagd_cli.jobs.generation import Checked, Generation, Made, Video
from diagd_cli.jobs.models import load_for
from diagd_cli.jobs.workers import without_targets
from diagd_cli.loading import Loaded
from diagd_cli.pipeline import in_step
from diagd_cli.progress import Progress, Silent

WORK = "this generation"


def check_together(generation: Generation) -> None:
    """Refuse what several processes cannot make together, before they meet. Raises UsageError."""
    machine, count = generation.machine, generation.machine.tp
    if launched() != count:
        raise UsageError(
            f"--tp {count} is for {count} processes, and there are {launched()}",
            f"Start them by torchrun --nproc-per-node {count} -m diagd_cli generate ...",
        )
    refused = {
        "--stream": generation.stream,
        "--compile": machine.compile,
        f"--weights {machine.weights}": machine.weights not in ("auto", "float"),
        f"--device {machine.device}": machine.device not in ("auto", "cpu", "cuda"),
    }
    for option, given in refused.items():
        if given:
            raise UsageError(f"--tp cannot be with {option}", "Leave one of them out")
    try:
        generation.preset.transformer.split(count)
    except ValueError as error:
        raise UsageError(
            f"The Transformer of {generation.preset.name} cannot be split: {error}",
            "Choose another --tp",
        ) from None


def generate_together(
    generation: Generation,
    progress: Progress | None = None,
    on_video: Callable[[Video], object] = lambda video: None,
    started: float | None = None,
    checked: Checked | None = None,
) -> Made:
    """Make every video that `jobs.generate` would make, by `machine.tp` processes, all of which
    call this: the first one returns what was made, the others nothing.

    Raises UsageError, and PeersLost where a process cannot go on, beside what `generate` does.
    """
    check_together(generation)
    with process_group(choose_device(generation.machine.device), WORK, objects=True) as device:
        if rank():
            follow(device)
            return Made()
        generation = _on(generation, device)
        made = generate(generation, progress, on_video, started, checked, load_together)
        tell(None)
        return made


def follow_first(generation: Generation) -> bool:
    """Whether this is not the first process; then it has done all that it was told to."""
    if not launched_rank():
        return False
    generate_together(generation)
    return True


def load_together(generation: Generation, batch: int, progress: Progress) -> Loaded:
    """The models of the first process, while the others load their shares."""
    tell((without_targets(generation), batch))
    with progress.stage(f"loading {generation.preset.name}"):
        return _load(generation, batch)


def follow(device: torch.device) -> None:
    """Do what the first process tells: load, then the steps of each batch, until there is none."""
    loaded, asked = None, heard()
    while asked:
        if loaded is None:
            generation, batch = asked
            loaded = _load(_on(generation, device), batch, pixels=False)
        else:
            with in_step(loaded, asked) as (_, running):
                for _ in running:
                    pass
        asked = heard()


def _load(generation: Generation, batch: int, pixels: bool = True) -> Loaded:
    """The models of this process. Raises what loading raises here; DiagdError where it is another
    process that cannot load.
    """
    loaded, failure = None, None
    try:
        loaded = load_for(generation, batch, Silent(), pixels=pixels)
    except Exception as error:
        failure = error
    texts = gathered(explain(failure) if failure else "")
    if failure:
        raise failure
    for number, text in enumerate(texts):
        if text:
            raise DiagdError(f"Process {number} cannot load its share: {text}")
    assert loaded
    return loaded


def _on(generation: Generation, device: torch.device) -> Generation:
    return replace(generation, machine=replace(generation.machine, device=str(device)))
