"""Samples by the workers of a Ray cluster: each makes and measures groups of clips, with models of
its own. Records travel; frames do not.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from diagd_cli.errors import DiagdError
from diagd_cli.explain import explain
from diagd_cli.jobs.cluster import MOST_DEATHS, Cluster, Watch, connected, devices, ledger, spread
from diagd_cli.jobs.evaluation.measurement import Measurement
from diagd_cli.jobs.evaluation.samples import Samples
from diagd_cli.jobs.evaluation.store import Record, Store
from diagd_cli.jobs.workers import enter
from diagd_cli.progress import Progress, Silent


@dataclass
class Told:
    """What a worker tells of a group.

    number: the group's.
    error: why there is nothing, in a line.
    settings: all that decides a figure and is the same for every sample, see `decisive`.
    machine: what made it, as reports tell it.
    clips: what tells each clip, in their order, as `Case.about`.
    records: those that were missing.
    """

    number: int
    error: str = ""
    settings: dict = field(default_factory=dict)
    machine: dict = field(default_factory=dict)
    clips: list[dict] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)


def measured(measurement: Measurement, cluster: Cluster, progress: Progress) -> Samples:
    """All samples, of which those that are missing in `measurement.out` are made by workers, and
    written there by this process. Raises DiagdError, also where workers are unlike.
    """
    samples: Samples | None = None
    settings: dict = {}
    clips: dict[int, list[dict]] = {}
    total = len(measurement.clips)
    with connected(cluster.address, progress) as ray, progress.bar("all", total, "clips") as bar:
        for told in _told(ray, measurement, cluster):
            if told.error:
                raise DiagdError(told.error)
            if samples is None:
                settings, store = told.settings, Store(measurement.out, told.settings)
                samples = measurement.samples(store, told.machine, progress)
            elif told.settings != settings:
                unlike = next(key for key in settings if told.settings[key] != settings[key])
                raise DiagdError(
                    f"Workers differ in {unlike}: {settings[unlike]} and {told.settings[unlike]}",
                    "Let all be of one kind: --device, --dtype, and the same versions",
                )
            samples.store.add(*told.records)
            clips[told.number] = told.clips
            bar.update(sum(map(len, clips.values())))
    assert samples, "there are clips"
    for number in sorted(clips):
        for about in clips[number]:
            samples.take(about)
    return samples


def _told(ray: Any, measurement: Measurement, cluster: Cluster) -> Iterator[Told]:
    """What becomes of each group."""
    wanted = measurement.machine.device
    device, needs, present = devices(ray.cluster_resources(), wanted, cluster)
    measurement = replace(measurement, machine=replace(measurement.machine, device=device))
    rows = [{"group": number} for number in range(len(measurement.groups))]
    given = measurement, os.getcwd(), cluster.threads, ledger(ray)
    for row in spread(ray, rows, Task, given, cluster, needs, present):
        yield pickle.loads(row["told"])  # by our own workers


class Task:
    """What Ray Data runs in each worker: an actor, whose constructor loads the models."""

    def __init__(self, measurement: Measurement, folder: str, threads: int, ledger: Any):
        import torch

        torch.set_num_threads(threads)
        self.measurement, self.watch, self.fatal = measurement, Watch(ledger), ""
        try:
            enter(folder)
            self.samples = measurement.maker(Silent(), written=False)
        except Exception as error:  # Ray would try again
            self.fatal = explain(error)

    def __call__(self, rows: dict[str, Any]) -> dict[str, list[bytes]]:
        """What is told of groups, a number a row."""
        return {"told": [pickle.dumps(self.make(int(number))) for number in rows["group"]]}

    def make(self, number: int) -> Told:
        """Make and measure what is missing of a group."""
        group = self.measurement.groups[number]
        deaths = self.watch.deaths([number]).get(number, [])
        if not self.fatal and len(deaths) >= MOST_DEATHS:
            names = ", ".join(map(str, group))
            self.fatal = f"The workers that measured {names} died ({', '.join(deaths)})"
        if self.fatal:
            return Told(number, self.fatal)
        try:
            with self.watch.making([number]):
                cases = self.measurement.cases(group)
                self.samples.make(cases)
        except Exception as error:
            return Told(number, explain(error))
        samples = self.samples
        known = samples.store.whole, samples.machine, [case.about for case in cases]
        return Told(number, "", *known, samples.store.taken())
