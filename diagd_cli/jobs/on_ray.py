"""A generation on a Ray cluster: batches of paths go to its workers.

What is done is told by the files alone: a batch whose worker died is made by another, which keeps
what is whole of it. Frames and tokens never travel.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any

from diagd_cli.errors import UsageError
from diagd_cli.explain import explain
from diagd_cli.files.url import address, place
from diagd_cli.jobs.cluster import MOST_DEATHS, Cluster, Watch, connected, devices, ledger, spread
from diagd_cli.jobs.generation import Generation, Made, Video
from diagd_cli.jobs.targets import Target
from diagd_cli.jobs.workers import Outcome, Worker, batches, collect, folder_of, without_targets
from diagd_cli.progress import Progress, Silent


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


def outcomes(ray: Any, generation: Generation, cluster: Cluster) -> Iterator[Outcome]:
    """What becomes of each video, as it is told."""
    if not generation.targets:
        return
    device, needs, present = devices(ray.cluster_resources(), generation.machine.device, cluster)
    generation = replace(generation, machine=replace(generation.machine, device=device))
    rows = [{"targets": packed(batch)} for batch in batches(generation)]
    given = without_targets(generation), folder_of(generation), cluster.threads, ledger(ray)
    for row in spread(ray, rows, Task, given, cluster, needs, present):
        yield Outcome(**json.loads(row["outcome"]))


class Task:
    """What Ray Data runs in each worker: an actor, whose constructor loads the models."""

    def __init__(self, generation: Generation, folder: str, threads: int, ledger: Any):
        import torch

        torch.set_num_threads(threads)
        self.watch, self.fatal = Watch(ledger), ""
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
        deaths = self.watch.deaths(list(batch))
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
            try:
                with self.watch.making(list(part)):
                    told += self.worker.make(part, again=first in deaths)
                    if any("CUDA error" in outcome.error for outcome in told):
                        os._exit(1)  # a process whose GPU is lost makes nothing any more
            except Exception as error:
                return [Outcome(error=explain(error), fatal=True)]
        return told


def packed(batch: dict[int, Target]) -> str:
    """Targets as JSON, whose text holds also what is not UTF-8."""
    return json.dumps(
        {
            number: {
                **asdict(target),
                "clip": address(target.clip),
                "output": address(target.output),
            }
            for number, target in batch.items()
        }
    )


def unpacked(text: str) -> dict[int, Target]:
    """The targets again."""
    return {
        int(number): Target(
            **{**told, "clip": place(told["clip"]), "output": place(told["output"])}
        )
        for number, told in json.loads(text).items()
    }
