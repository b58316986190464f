"""The machines of a Ray cluster: Ray Data hands work to workers, one for each GPU or CPU, starts
others where some are lost, and brings what they tell.
"""

from __future__ import annotations

import io
import logging
import os
import platform
import re
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

from diagd_cli.errors import DiagdError, MissingExtra, UsageError, one_line
from diagd_cli.progress import Progress

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
        except Exception as error:  # of a machine too busy to start in time it is of no other class
            reason = one_line(error).rstrip(".")
            if address == LOCAL:
                hint = "Try again when the machine is less busy, or start one with ray start"
                raise DiagdError(f"No Ray cluster could be started: {reason}", hint) from None
            hint = "Start one with ray start, or use --ray local"
            raise DiagdError(f"There is no Ray cluster at {address}: {reason}", hint) from None
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    notes = Notes(progress)
    with redirect_stdout(notes):
        try:
            yield ray
        except BaseException:
            notes.deaf = True  # what is lost by an end that is wanted, or told already, is no news
            raise
        finally:
            ray.shutdown()  # whose last words are Ray's, too


class Notes(io.TextIOBase):
    """What Ray prints, which tells of workers that died, as notes: stdout is for results."""

    def __init__(self, progress: Progress):
        self.progress, self.fileno = progress, sys.stdout.fileno  # type: ignore[method-assign]
        self.deaf = False

    def write(self, text: str) -> int:
        """Note what is not blank, without its colours, on a line."""
        if self.deaf:
            return len(text)
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


def spread(
    ray: Any,
    rows: Sequence[dict[str, Any]],
    task: type,
    given: tuple[Any, ...],
    cluster: Cluster,
    needs: Mapping[str, int],
    present: int,
) -> Iterator[dict[str, Any]]:
    """What the workers make of rows, in the order of completion.

    task: made in each worker, of what is `given`; called with a row, it gives others.
    needs, present: as `devices` tells them.
    """
    most = max(cluster.least, min(cluster.most or present, len(rows)))
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    told = ray.data.from_items(rows, override_num_blocks=min(len(rows), MOST_BLOCKS)).map_batches(
        task,
        fn_constructor_args=given,
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
        for values in zip(*block.values(), strict=True):
            yield dict(zip(block, values, strict=True))


def ledger(ray: Any) -> Any:
    """A `Ledger` on this machine, under its name."""
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=True
    )
    kept = ray.remote(Ledger).options(name=LEDGER, num_cpus=0, scheduling_strategy=here)
    return kept.remote()


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


class Watch:
    """What a worker tells the ledger of its work."""

    def __init__(self, ledger: Any):
        self.ledger, self.name = ledger, f"process {os.getpid()} on {platform.node()}"

    def deaths(self, numbers: Sequence[int]) -> dict[int, list[str]]:
        """As `Ledger.before`."""
        import ray

        return ray.get(self.ledger.before.remote(list(numbers)))

    @contextmanager
    def making(self, numbers: Sequence[int]) -> Iterator[None]:
        """These are made together in the block."""
        import ray

        ray.get(self.ledger.begin.remote(list(numbers), self.name))
        yield
        ray.get(self.ledger.end.remote(list(numbers)))
