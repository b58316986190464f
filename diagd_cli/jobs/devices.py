"""A generation on several devices of one machine: a process for each."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from typing import Any

from diagd_cli.errors import DiagdError, UsageError
from diagd_cli.explain import explain
from diagd_cli.jobs.generation import Generation, Made, Video
from diagd_cli.jobs.targets import Target
from diagd_cli.jobs.workers import Outcome, Worker, batches, collect, folder_of, without_targets
from diagd_cli.progress import Progress, Silent

ALL = "cuda:all"


def all_devices() -> list[str]:
    """The names of all GPUs. Raises DiagdError where there is none."""
    import torch

    if not torch.cuda.is_available():
        raise DiagdError(
            "No CUDA device is available", "Use --device cpu, or install a CUDA build of torch"
        )
    return [f"cuda:{n}" for n in range(torch.cuda.device_count())]


def generate_on_devices(
    generation: Generation,
    devices: Sequence[str],
    progress: Progress | None = None,
    on_video: Callable[[Video], object] = lambda video: None,
) -> Made:
    """Make every video that `jobs.generate` would make, by one process for each device; `check` has
    been called before.

    Raises UsageError for a stream, DiagdError where no video can be made or a process dies.
    """
    if generation.stream:
        raise UsageError(f"{ALL} makes whole files, and --stream none", "Leave one of them out")
    told = outcomes(generation, devices)
    return collect(generation, told, progress or Silent(), on_video)


def outcomes(generation: Generation, devices: Sequence[str]) -> Iterator[Outcome]:
    """What becomes of each video, as it is told."""
    context = multiprocessing.get_context("spawn")  # CUDA does not outlive a fork
    free = context.SimpleQueue()
    for device in devices:
        free.put(device)
    given = (free, without_targets(generation), folder_of(generation))
    pool = ProcessPoolExecutor(len(devices), context, initializer=_begin, initargs=given)
    try:
        futures = [pool.submit(_make, batch) for batch in batches(generation)]
        for future in as_completed(futures):
            yield from future.result()
    except BrokenProcessPool:
        raise DiagdError(
            "The process of a device died, of too little memory or by a signal",
            "Run the command again with --resume",
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


_own: dict[str, Any] = {}  # of a process: its worker, and what that is made of


def _begin(free: Any, generation: Generation, folder: str) -> None:
    machine = replace(generation.machine, device=free.get())
    _own.update(generation=replace(generation, machine=machine), folder=folder)


def _make(batch: dict[int, Target]) -> list[Outcome]:
    try:
        if "worker" not in _own:
            _own["worker"] = Worker(_own["generation"], _own["folder"])
        return _own["worker"].make(batch)
    except Exception as error:
        return [Outcome(error=explain(error), fatal=True)]
