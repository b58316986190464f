"""One evaluation: every clip by every decoding and seed, as far as that is not there yet; then its report."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from diagd_cli.clip.image import stamped
from diagd_cli.jobs.evaluate import vbench
from diagd_cli.jobs.evaluate.i3d import I3d
from diagd_cli.jobs.evaluate.measure import Case, Models, measure_continuations, measure_truth
from diagd_cli.jobs.evaluate.rows import distance, notes_of, rows_of
from diagd_cli.jobs.evaluate.store import Record, Store
from diagd_cli.pipeline import Loaded, continue_clip, to_frames
from diagd_cli.schedule.decoding import Decoding

Follow = Callable[[str, int, int], AbstractContextManager[Any]]  # Reporter.follow
TRUTH = ""  # among labels of videos


@dataclass
class Evaluation:
    """What is asked of every clip, and what has been found.

    walks: by label. others: the models of those that run on another Transformer than `models.loaded`. export: root of the
    folders for VBench. made: by label, of every clip, a record a seed. videos: I3D's features by label, `TRUTH` for the
    clips themselves.
    """

    models: Models
    walks: dict[str, Decoding]
    seeds: list[int]
    store: Store
    follow: Follow
    i3d: I3d | None = None
    export: Path | None = None
    truths: list[Record] = field(default_factory=list)
    made: dict[str, list[list[Record]]] = field(default_factory=dict)
    videos: dict[str, list[np.ndarray]] = field(default_factory=dict)
    others: dict[str, Loaded] = field(default_factory=dict)
    warm: bool = False

    def add(self, cases: list[Case]) -> None:
        """Measure clips, in one batch where none of them has been measured before."""
        for case in cases:
            about = self._about(case, None, None)
            if self.store.find(about) is None:
                self.store.add(Record(about, *measure_truth(self.models, case)))
            self.truths.append(self.store.find(about))
        for seed in self.seeds:
            for label in self.walks:
                missing = [case for case in cases if self.store.find(self._about(case, label, seed)) is None]
                if missing:
                    self._continue(label, seed, missing)
        for case in cases:
            for label in self.walks:
                records = [self.store.find(self._about(case, label, seed)) for seed in self.seeds]
                self.made.setdefault(label, []).append(records)
            self._show(case)

    def _continue(self, label: str, seed: int, cases: list[Case]) -> None:
        walk, models = self.walks[label], replace(self.models, loaded=self.others.get(label, self.models.loaded))
        asked = [replace(case, request=replace(case.request, decoding=walk, seed=seed)) for case in cases]
        frames, preset = cases[0].request.frames, models.loaded.preset
        if not self.warm:  # or the first decoding would seem slower than it is
            continue_clip(models.loaded, asked[0].clip, replace(asked[0].request, frames=1))
            self.warm = True
        name = f"{label}, seed {seed}, {', '.join(case.clip.path.name for case in cases)}"
        tokens = len(cases) * preset.new_latents(frames) * preset.grid.area
        with self.follow(name, tokens, len(cases) * frames) as follow:
            found = measure_continuations(models, asked, stage=follow.stage, on_steps=follow.on_steps)
        pairs = zip(cases, found, strict=True)
        self.store.add(*(Record(self._about(case, label, seed), *figures) for case, figures in pairs))

    def recall(self, label: str, walk: Decoding, facts: dict) -> bool:
        """Take in a decoding that was not asked for where every sample of it is there already, and say whether it was.

        facts: as the store tells them. Every clip must have been added.
        """
        names = [[{**truth.about, "decoding": facts, "seed": seed} for seed in self.seeds] for truth in self.truths]
        found = [[self.store.find(name) for name in own] for own in names]
        if any(record is None for own in found for record in own):
            return False
        self.walks[label], self.made[label] = walk, found
        return True

    def _about(self, case: Case, label: str | None, seed: int | None) -> dict:
        preset, facts = self.models.loaded.preset, None
        if label:
            facts = self.walks[label].facts(preset.grid, preset.latents(len(case.clip.frames)))
        if label in self.others:
            facts |= self.others[label].preset.transformer_facts
        return {**case.about, "decoding": facts, "seed": seed}

    def _show(self, case: Case) -> None:
        """Videos of the last clip's new frames, for I3D and for VBench: of its codes, whenever they were made."""
        if self.i3d:
            self.videos.setdefault(TRUTH, []).append(self.i3d.features(self.models.truth(case)))
        for label in self.walks if self.i3d or self.export else ():
            for record in self.made[label][-1]:
                frames = to_frames(self.models.loaded, record.arrays["codes"].astype(np.int64))
                context = len(case.clip.frames)
                frames = frames[context : context + case.request.frames]
                if self.i3d:
                    self.videos.setdefault(label, []).append(self.i3d.features(frames))
                if self.export:
                    name = vbench.video_name(len(self.truths) - 1, case.clip.path, record.about["seed"])
                    path = self.export / vbench.folder_of(record.about["decoding"]) / name
                    preset = self.models.loaded.preset
                    vbench.export(path, stamped(frames, preset.stamp), case.clip.fps or preset.clip.fps)

    def report(self, judged: dict[str, dict[str, float]]) -> dict:
        """Rows and notes, as JSON can hold them. judged: VBench's means by folder and dimension."""
        preset = self.models.loaded.preset
        context = preset.latents(self.truths[0].figures["context_frames"])
        rows = rows_of(self.truths, list(self.made.values()), list(self.walks), context)
        for row in rows:
            if row["label"] in self.walks:
                row["vbench"] = judged.get(vbench.folder_of(row["decoding"]), {})
            if row["label"] in self.videos:
                row["fvd"] = distance(np.stack(self.videos[row["label"]]), np.stack(self.videos[TRUTH]))
        return {"rows": rows, "notes": notes_of(rows, len(self.truths))}
