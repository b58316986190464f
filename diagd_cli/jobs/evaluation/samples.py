"""The samples of an evaluation: every clip by every decoding and seed, as far as that is not there
yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from diagd_cli.clip.image import stamped
from diagd_cli.jobs.evaluation import vbench
from diagd_cli.jobs.evaluation.i3d import I3d
from diagd_cli.jobs.evaluation.measure import Case, Models, measure_continuations, measure_truth
from diagd_cli.jobs.evaluation.rows import rows_of
from diagd_cli.jobs.evaluation.statistics import distance
from diagd_cli.jobs.evaluation.store import Record, Store
from diagd_cli.loading import Loaded
from diagd_cli.pipeline import continue_clip, to_frames
from diagd_cli.preset import Preset
from diagd_cli.progress import Progress
from diagd_cli.report.evaluation import EvaluationRow
from diagd_cli.schedule.decoding import Decoding

TRUTH = ""  # among labels of videos


@dataclass
class Samples:
    """What is asked of every clip, and what has been made and measured.

    context: frames before the new ones.
    decodings: by label.
    presets: by label, of decodings that run on another preset's Transformer.
    seeds: of each clip's continuations.
    store: what is there already, and where the rest goes.
    machine: what made and measured them, as reports tell it.
    models: None where there are none, and nothing can be made.
    others: by label, the models of decodings that run on another Transformer than `models.loaded`.
    i3d: what makes features of videos; None where nothing is to.
    export: root of the folders for VBench; None where no videos are written.
    truths: a record a clip.
    made: by label, of every clip, a record a seed.
    videos: I3D's features by label, `TRUTH` for the clips themselves; float32 [D] each.
    warm: whether something has been decoded.
    """

    preset: Preset
    context: int
    decodings: dict[str, Decoding]
    presets: Mapping[str, Preset]
    seeds: Sequence[int]
    store: Store
    machine: dict
    progress: Progress
    models: Models | None = None
    others: dict[str, Loaded] = field(default_factory=dict)
    i3d: I3d | None = None
    export: Path | None = None
    truths: list[Record] = field(default_factory=list)
    made: dict[str, list[list[Record]]] = field(default_factory=dict)
    videos: dict[str, list[np.ndarray]] = field(default_factory=dict)
    warm: bool = False

    def add(self, cases: list[Case]) -> None:
        """Measure clips, in one batch where none of them has been measured before."""
        self.make(cases)
        for case in cases:
            self.take(case.about)
            self._show(case)

    def make(self, cases: list[Case]) -> None:
        """Make, measure and keep what is missing of clips."""
        for case in cases:
            about = self._truth(case.about)
            if self.store.find(about) is None:
                self.store.add(Record(about, *measure_truth(self._models, case)))
        for seed in self.seeds:
            for label in self.decodings:
                missing = [
                    case
                    for case in cases
                    if self.store.find(self._about(case.about, label, seed)) is None
                ]
                if missing:
                    self._continue(label, seed, missing)

    def take(self, about: dict) -> None:
        """Take in a clip of which all is there; about: as its `Case` has it."""
        self.truths.append(self.store.known(self._truth(about)))
        for label in self.decodings:
            records = [self.store.known(self._about(about, label, seed)) for seed in self.seeds]
            self.made.setdefault(label, []).append(records)

    @property
    def _models(self) -> Models:
        assert self.models, "nothing can be made without models"
        return self.models

    def _continue(self, label: str, seed: int, cases: list[Case]) -> None:
        """Make and keep what is missing of a decoding and seed, in one batch."""
        decoding, loaded = self.decodings[label], self.others.get(label, self._models.loaded)
        models = replace(self._models, loaded=loaded)
        asked = [
            replace(case, request=replace(case.request, decoding=decoding, seed=seed))
            for case in cases
        ]
        frames, preset = cases[0].request.frames, loaded.preset
        if not self.warm:  # or the first decoding would seem slower than it is
            continue_clip(loaded, asked[0].clip, replace(asked[0].request, frames=1))
            self.warm = True
        name = f"{label}, seed {seed}, {', '.join(case.clip.path.name for case in cases)}"
        tokens = len(cases) * preset.new_latents(frames) * preset.grid.area
        with self.progress.follow(name, tokens, len(cases) * frames) as follow:
            found = measure_continuations(
                models, asked, stage=follow.stage, on_steps=follow.on_steps
            )
        pairs = zip(cases, found, strict=True)
        self.store.add(
            *(Record(self._about(case.about, label, seed), *figures) for case, figures in pairs)
        )

    def recall(self, label: str, decoding: Decoding, facts: dict) -> bool:
        """Take in a decoding that was not asked for where every sample of it is there already.

        Every clip must have been added.

        facts: of the decoding, as the store has them.

        Returns whether it was taken in.
        """
        names = [
            [{**truth.about, "decoding": facts, "seed": seed} for seed in self.seeds]
            for truth in self.truths
        ]
        if any(self.store.find(name) is None for own in names for name in own):
            return False
        self.decodings[label] = decoding
        self.made[label] = [[self.store.known(name) for name in own] for own in names]
        return True

    def _truth(self, about: dict) -> dict:
        """What tells the clip itself from other samples."""
        return {**about, "decoding": None, "seed": None}

    def _about(self, about: dict, label: str, seed: int) -> dict:
        """What tells a sample from others."""
        facts = self.decodings[label].facts(self.preset.grid, self.preset.latents(self.context))
        if label in self.presets:
            facts |= self.presets[label].transformer_facts
        return {**about, "decoding": facts, "seed": seed}

    def _show(self, case: Case) -> None:
        """Videos of the last clip's new frames, for I3D and for VBench: of its codes, whenever they
        were made.
        """
        if not (self.i3d or self.export):
            return
        models, preset, context = self._models, self.preset, len(case.clip.frames)
        if self.i3d:
            self.videos.setdefault(TRUTH, []).append(self.i3d.features(models.truth(case)))
        for label in self.decodings:
            for record in self.made[label][-1]:
                frames = to_frames(models.loaded, record.arrays["codes"].astype(np.int64))
                frames = frames[context : context + case.request.frames]
                if self.i3d:
                    self.videos.setdefault(label, []).append(self.i3d.features(frames))
                if self.export:
                    name = vbench.video_name(
                        len(self.made[label]) - 1, case.clip.path, record.about["seed"]
                    )
                    path = self.export / vbench.folder_of(record.about["decoding"]) / name
                    vbench.export(
                        path, stamped(frames, preset.stamp), case.clip.fps or preset.clip.fps
                    )

    def rows(self, scores: Mapping[str, Mapping[str, float]]) -> list[EvaluationRow]:
        """The rows of the report.

        scores: VBench's means, by folder of the decoding and dimension.
        """
        context = self.preset.latents(self.context)
        found = []
        for row in rows_of(self.truths, list(self.made.values()), list(self.decodings), context):
            if row.decoding is not None:
                row = replace(row, vbench=scores.get(vbench.folder_of(row.decoding), {}))
            if row.label in self.videos:
                row = replace(
                    row,
                    fvd=distance(np.stack(self.videos[row.label]), np.stack(self.videos[TRUTH])),
                )
            found.append(row)
        return found
