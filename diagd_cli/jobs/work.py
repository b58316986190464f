"""The videos of a generation that are to be made and may be, with their clips read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from diagd_cli.clip.read import Clip, read_clip
from diagd_cli.files.outputs import check_free
from diagd_cli.jobs import sidecar
from diagd_cli.jobs.generation import Checked, Generation, Video
from diagd_cli.jobs.settings import Settings
from diagd_cli.jobs.targets import Target
from diagd_cli.progress import Progress
from diagd_cli.tokens.actions import clip_actions

MOST_ACTIONS = 1_000_000  # rows that are written out


@dataclass(frozen=True, eq=False)
class Work:
    """A video to make, whose clip has been read; actions: rows int64 [context + frames, A] that
    steer it.
    """

    target: Target
    settings: Settings
    clip: Clip
    actions: np.ndarray | None

    @property
    def shape(self) -> tuple[int, int]:
        """Context frames and new ones, of which those of a batch have equally many."""
        return len(self.clip.frames), self.settings.frames


@dataclass(frozen=True)
class Reader:
    """Reads what a generation needs; `attempt` surrounds what may fail of some targets, and tells
    of it.
    """

    generation: Generation
    checked: Checked
    progress: Progress
    attempt: Callable[..., AbstractContextManager[None]]
    on_kept: Callable[[Video], None]

    def ready(self) -> Iterator[Work]:
        """The videos that are to be made and may be; each clip is read once for all of its samples
        that follow each other.
        """
        for path, samples in groupby(self.generation.targets, key=lambda target: target.clip):
            allowed: dict[Target, Settings] = {}
            for target in samples:
                with self.attempt(target):
                    self.check_free(target)
                    allowed[target] = self.generation.settings_of(target)
            clip = None
            with self.attempt(*allowed):
                clip = self.read(path, next(iter(allowed.values())).context) if allowed else None
            if clip is None:
                continue
            for target, settings in allowed.items():
                missing = False
                with self.attempt(target):
                    actions = self.actions(target, settings, clip)
                    work = Work(target, settings, clip, actions)
                    missing = not self.keep(work)
                if missing:
                    yield work

    def check_free(self, target: Target) -> None:
        """Raise OutputError where a video's files exist already, unless they may be replaced, or
        are looked at later.
        """
        generation = self.generation
        free = generation.force or (
            (generation.resume or generation.again)
            and sidecar.made_before(target.output) is not None
        )
        for path, _ in generation.files(target):
            check_free(path, free)

    def read(self, path: Path, context: int) -> Clip:
        """A clip's context; nothing, where nothing is continued."""
        if self.generation.of_nothing:
            return Clip.nothing(path)
        clip = read_clip(path, context, self.generation.start, tell=self.progress.note)
        self.generation.preset.check_kind(path, clip.frames)
        if clip.damage:
            last = clip.first + len(clip.frames) - 1
            self.progress.note(
                f"{path} is {clip.damage}; it is continued after frame {last} (frames count from 0)"
            )
        return clip

    def actions(self, target: Target, settings: Settings, clip: Clip) -> np.ndarray | None:
        """What steers a clip's continuation."""
        preset, asked = self.generation.preset, self.checked.actions
        if target.actions is not None:
            asked = preset.parse_actions(target.actions)
        frames = min(settings.frames, MOST_ACTIONS)  # the last one goes on
        context = len(clip.frames)
        return clip_actions(clip.path, preset.actions, asked, clip.first, context, frames)

    def keep(self, work: Work) -> bool:
        """Whether a video is there already, made with these settings. Raises OutputError for
        another that may not be replaced.
        """
        generation, output = self.generation, work.target.output
        looks = generation.resume or generation.again
        made = sidecar.made_before(output) if looks else None
        if not made:
            return False
        same = sidecar.matches(generation, self.checked.prompts, made, work)
        if not (same or generation.resume or generation.force):
            check_free(output.with_suffix(".json"), force=False)
        if not same or not sidecar.is_whole(generation, made, output):
            return False
        self.progress.note(f"{output} is there already, with these settings")
        self.on_kept(Video(output, kept=True))
        return True
