"""A generation on the machines of a Ray cluster: Ray Data hands batches of paths to workers, one
for each GPU or CPU, starts others where some are lost, and brings what they tell.

What is done is told by the files alone: a batch whose worker died is made by another, which keeps
what is whole of it. Frames and tokens never travel.
"""

from __future__ import annotations

import io
import json
import logging
import os
import platform
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from diagd_cli.errors import DiagdError, MissingExtra, UsageError, one_line
from diagd_cli.explain import explain
from diagd_cli.jobs.generation import Generation, Made, Video
from diagd_cli.jobs.targets import Target
from diagd_cli.jobs.workers import Outcome, Worker, batches, collect, without_targets
from diagd_cli.progress import Progress, Silent

LOCAL = "local"
# Ray tells its makers how it is used, and the terminal of its inner life.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
MOST_BLOCKS = 10_000  # of rows, each of which the driver keeps track of
LEDGER = "ledger"  # the actor's name, in the namespace of the command
MOST_DEATHS = 2  # of workers, by one clip


@dataclass(frozen=True)
class Cluster:
    """Where workers run, and how many of them.

    address: `local` starts a cluster of this machine's devices, `auto` finds the one that runs
        here; or HOST:PORT.
    least, most: workers; None: as many as there are devices when the work begins.
    threads: CPUs of each.
    """

    address: str = LOCAL
    least: int = 1
    most: int | None = None
    threads: int = 1


def generate_on_ray(
    generation: Generation,
    cluster: Cluster,
    progress: Progress | None = None,
    on_video: Callable[[Video], object] = lambda video: None,
) -> Made:
    """Make every video that `jobs.generate` would make, on a cluster whose machines have the same
    folders; `check` has been called before.

    A video whose worker died twice while it was made alone is in `failures`, by its name. Raises
    MissingExtra, UsageError, and DiagdError for a cluster that is not there and where no video can
    be made.
    """
    if generation.stream:
        raise UsageError("--ray makes whole files, and --stream none", "Leave one of them out")
    progress = progress or Silent()
    with connected(cluster.address, progress) as ray:
        return collect(generation, outcomes(ray, generation, cluster), progress, on_video)


@contextmanager
def connected(address: str, progress: Progress) -> Iterator[Any]:
    """Ray, connected to a cluster for the time of the block. Raises MissingExtra, DiagdError."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError:
        raise MissingExtra("ray", "ray", "--ray") from None
    own: dict[str, Any] = {"include_dashboard": False} if address == LOCAL else {}
    progress.note(f"connecting to Ray ({address})")
    with _our_signals(), _unheard():
        try:
            ray.init(address, log_to_driver=False, logging_level="ERROR", **own)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise DiagdError(
                f"There is no Ray cluster at {address}: {one_line(error)}",
                "Start one with ray start, or use --ray local",
            ) from None
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    with redirect_stdout(Notes(progress)):
        try:
            yield ray
        finally:
            ray.shutdown()  # whose last words are Ray's, too


class Notes(io.TextIOBase):
    """What Ray prints, which tells of workers that died, as notes: stdout is for results."""

    def __init__(self, progress: Progress):
        self.progress, self.fileno = progress, sys.stdout.fileno  # type: ignore[method-assign]

    def write(self, text: str) -> int:
        """Note what is not blank, without its colours, on a line."""
        if line := one_line(Exception(re.sub(r"\x1b\[[\d;]*m", "", text))) if text.strip() else "":
            self.progress.note(line)
        return len(text)


@contextmanager
def _unheard() -> Iterator[None]:
    """What the block writes to stderr from C++ is dropped: a line about the level of its log."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def _our_signals() -> Iterator[None]:
    """What the block makes of SIGTERM is undone: ours ends a command in an orderly way."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def outcomes(ray: Any, generation: Generation, cluster: Cluster) -> Iterator[Outcome]:
    """What becomes of each video, as it is told."""
    if not generation.targets:
        return
    device, needs, present = devices(ray.cluster_resources(), generation.machine.device, cluster)
    generation = replace(generation, machine=replace(generation.machine, device=device))
    rows = [{"targets": packed(batch)} for batch in batches(generation)]
    most = max(cluster.least, min(cluster.most or present, len(rows)))
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=True
    )
    ledger = ray.remote(Ledger).options(name=LEDGER, num_cpus=0, scheduling_strategy=here).remote()
    told = ray.data.from_items(rows, override_num_blocks=min(len(rows), MOST_BLOCKS)).map_batches(
        Task,
        fn_constructor_args=(without_targets(generation), os.getcwd(), cluster.threads, ledger),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(
            min_size=cluster.least,
            max_size=most,
            initial_size=max(cluster.least, min(most, present)),
            max_tasks_in_flight_per_actor=2,
        ),
        **needs,
    )
    for block in told.iter_batches(batch_size=None, prefetch_batches=0):
        for text in block["outcome"]:
            yield Outcome(**json.loads(text))


def devices(
    resources: Mapping[str, float], wanted: str, cluster: Cluster
) -> tuple[str, dict[str, int], int]:
    """The device of each worker, what it needs of Ray, and how many there may be now.

    Raises UsageError for a device by number, and DiagdError where there is none.
    """
    if wanted not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--ray chooses among devices, and {wanted} is one", "Use auto, cpu, cuda")
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0)) // cluster.threads
    if wanted == "cuda" or (wanted == "auto" and gpus):
        kind, needs, present = "cuda", {"num_gpus": 1, "num_cpus": cluster.threads}, gpus
    else:
        kind, needs, present = "cpu", {"num_cpus": cluster.threads}, cpus
    if not (present or cluster.most):
        raise DiagdError(
            f"The cluster has no {kind.upper()} for a worker"
            + (f" of {cluster.threads} threads" if kind == "cpu" else ""),
            "Give --workers MIN:MAX where it will have some",
        )
    return kind, needs, present


class Ledger:
    """Which batches are being made, and so which were when their worker died. An actor of Ray's.

    Of a batch of several clips nobody knows which one was to blame: they are made one by one then,
    and a death counts against a clip that was alone.
    """

    def __init__(self) -> None:
        self.running: dict[int, tuple[int, ...]] = {}  # the whole batch, by each of its numbers
        self.workers: dict[int, str] = {}
        self.deaths: dict[int, list[str]] = {}  # of those that were begun in vain: whom each cost

    def before(self, numbers: Sequence[int]) -> dict[int, list[str]]:
        """The workers that each has cost, alone, of those that have been begun before."""
        for number in numbers:
            lost = self.running.get(number, ())
            for other in lost:
                self.deaths.setdefault(other, []).extend([self.workers[other]] * (len(lost) == 1))
            self.end(lost)
        return {number: self.deaths[number] for number in numbers if number in self.deaths}

    def begin(self, numbers: Sequence[int], worker: str) -> None:
        """A worker is going to make these together."""
        self.running.update(dict.fromkeys(numbers, tuple(numbers)))
        self.workers.update(dict.fromkeys(numbers, worker))

    def end(self, numbers: Sequence[int]) -> None:
        """It has."""
        for number in numbers:
            del self.running[number], self.workers[number]

    def at_work(self) -> dict[int, str]:
        """The worker that is making it, of each that is being made."""
        return self.workers


class Task:
    """What Ray Data runs in each worker: an actor, whose constructor loads the models."""

    def __init__(self, generation: Generation, folder: str, threads: int, ledger: Any):
        import torch

        torch.set_num_threads(threads)
        self.ledger, self.fatal = ledger, ""
        self.name = f"process {os.getpid()} on {platform.node()}"
        try:
            self.worker = Worker(generation, folder)
        except Exception as error:  # Ray would try again
            self.fatal = explain(error)

    def __call__(self, rows: dict[str, Any]) -> dict[str, list[str]]:
        """Outcomes, as JSON, of targets, as JSON: a batch a row."""
        told = [one for text in rows["targets"] for one in self.make(unpacked(text))]
        return {"outcome": [json.dumps(asdict(outcome)) for outcome in told]}

    def make(self, batch: dict[int, Target]) -> list[Outcome]:
        """One batch; what a dead worker has begun of it clip by clip."""
        if self.fatal:
            return [Outcome(error=self.fatal, fatal=True)]
        import ray

        deaths = ray.get(self.ledger.before.remote(list(batch)))
        parts = [{number: batch[number]} for number in deaths]
        fresh = {number: target for number, target in batch.items() if number not in deaths}
        told: list[Outcome] = []
        for part in [*parts, *([fresh] if fresh else [])]:
            [first, *_] = part
            if len(deaths.get(first, ())) >= MOST_DEATHS:
                whom = ", ".join(deaths[first])
                reason = f"{part[first].clip} is put aside: its workers died ({whom})"
                told.append(Outcome(first, error=reason))
                continue
            ray.get(self.ledger.begin.remote(list(part), self.name))
            try:
                told += self.worker.make(part, again=first in deaths)
            except Exception as error:
                return [Outcome(error=explain(error), fatal=True)]
            if any("CUDA error" in outcome.error for outcome in told):
                os._exit(1)  # a process whose GPU is lost makes nothing any more
            ray.get(self.ledger.end.remote(list(part)))
        return told


def packed(batch: dict[int, Target]) -> str:
    """Targets as JSON, whose text holds also what is not UTF-8."""
    return json.dumps(
        {
            number: {**asdict(target), "clip": str(target.clip), "output": str(target.output)}
            for number, target in batch.items()
        }
    )


def unpacked(text: str) -> dict[int, Target]:
    """The targets again."""
    return {
        int(number): Target(**{**told, "clip": Path(told["clip"]), "output": Path(told["output"])})
        for number, told in json.loads(text).items()
    }
