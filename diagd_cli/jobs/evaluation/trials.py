"""Over which clips and seeds decodings are measured. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diagd_cli.clip.read import check_clip
from diagd_cli.files.outputs import Named
from diagd_cli.files.paths import path_text
from diagd_cli.jobs.evaluation.store import files
from diagd_cli.jobs.settings import Settings
from diagd_cli.preset import Preset
from diagd_cli.report.evaluation import Scope


@dataclass(frozen=True)
class Trials:
    """How often each clip is continued, and how.

    seeds: one for each continuation.
    batch: clips that are decoded together.
    start: first context frame.
    """

    seeds: Sequence[int] = (0,)
    batch: int = 1
    start: int = 0

    def groups(self, clips: Sequence[Path]) -> list[Sequence[Path]]:
        """The clips as they are decoded together."""
        return [clips[n : n + self.batch] for n in range(0, len(clips), self.batch)]

    def scope(
        self, preset: Preset, base: Preset, settings: Settings, clips: Sequence[Path]
    ) -> Scope:
        """What reports say of it; base: the preset that scores the tokens."""
        return Scope(
            preset=preset.name,
            base_preset=base.name,
            frames=settings.frames,
            sampling=settings.sampling.facts,
            clips=[path_text(clip) for clip in clips],
            seeds=list(self.seeds),
            batch=self.batch,
        )


def check_clips(clips: Sequence[Path]) -> None:
    """Raise ClipError unless every clip can be opened and seems to be whole."""
    for clip in clips:
        check_clip(clip, whole=True)


def results_of(folder: Path, names: Sequence[str]) -> list[Named]:
    """What a measurement writes into its folder: its store, and reports of these names."""
    return [*files(folder), *((folder / name, "the report") for name in names)]
