"""The videos of a generation that are to be made and may be, with their clips read."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from diagd_cli.clip.read import Clip, read_clip
from diagd_cli.errors import DiagdError
from diagd_cli.files.outputs import check_free
from diagd_cli.files.remote import local, named
from diagd_cli.files.url import Place
from diagd_cli.jobs import sidecar
from diagd_cli.jobs.generation import Checked, Generation, Video, actions_of
from diagd_cli.jobs.settings import Settings
from diagd_cli.jobs.targets import Target
from diagd_cli.progress import Progress
from diagd_cli.tokens.actions import clip_actions
from diagd_cli.weights.locate import digest

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

    def ready(self) -> Generator[Work, None, None]:
        """The videos that are to be made and may be; each clip is read once for all of its samples
        that follow each other.
        """
        for path, samples in groupby(self.generation.targets, key=lambda target: target.clip):
            allowed: dict[Target, Settings] = {}
            for target in samples:
                with self.attempt(target):
                    self.check_free(target)
                    allowed[target] = self.generation.settings_of(target)
            with ExitStack() as held:
                here = None
                with self.attempt(*allowed):
                    here = held.enter_context(local(path, self.suffixes)) if allowed else None
                if here is not None:
                    yield from self.of_clip(path, here, allowed)

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Of files beside a clip that are read with it."""
        actions = self.generation.preset.actions
        return actions.suffixes if actions else ()

    def of_clip(self, path: Place, here: Path, allowed: dict[Target, Settings]) -> Iterator[Work]:
        """Those of one clip, which is `here` on this machine."""
        for target in self.whole(here, allowed):
            del allowed[target]
            self.tell_kept(target)
        clip = None
        with self.attempt(*allowed), named(path, here):
            context = next(iter(allowed.values())).context if allowed else 0
            clip = self.read(path, here, context) if allowed else None
        if clip is None:
            return
        for target, settings in allowed.items():
            missing = False
            with self.attempt(target), named(path, here):
                actions = self.actions(target, settings, clip, len(clip.frames))
                work = Work(target, settings, clip, actions)
                missing = not self.keep(work)
            if missing:
                yield work

    def whole(self, here: Path, targets: dict[Target, Settings]) -> list[Target]:
        """Those whose videos are known to be there without the frames of the clip, whose reading
        takes most of a resumed run's time. What is wrong is told when the clip is read.
        """
        generation, found, sha256 = self.generation, [], ""
        if generation.of_nothing or not (generation.resume or generation.again):
            return []
        for target, settings in targets.items():
            with suppress(DiagdError, OSError):
                if made := sidecar.made_before(target.output):
                    sha256 = sha256 or digest(here)
                    if clip := sidecar.unread(generation, made, here, sha256):
                        actions = self.actions(target, settings, clip, made["context_frames"])
                        if self.is_whole(Work(target, settings, clip, actions), made):
                            found.append(target)
        return found

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

    def read(self, path: Place, here: Path, context: int) -> Clip:
        """A clip's context; nothing, where nothing is continued."""
        if self.generation.of_nothing:
            return Clip.nothing(here)
        clip = read_clip(here, context, self.generation.start, tell=self.progress.note)
        self.generation.preset.check_kind(here, clip.frames)
        if clip.damage:
            last = clip.first + len(clip.frames) - 1
            self.progress.note(
                f"{path} is {clip.damage}; it is continued after frame {last} (frames count from 0)"
            )
        return clip

    def actions(
        self, target: Target, settings: Settings, clip: Clip, context: int
    ) -> np.ndarray | None:
        """What steers a clip's continuation after so many frames."""
        preset, asked = self.generation.preset, self.checked.actions
        if target.actions is not None:
            asked = actions_of(preset, target.actions)
        frames = min(settings.frames, MOST_ACTIONS)  # the last one goes on
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
        if self.is_whole(work, made):
            self.tell_kept(work.target)
            return True
        same = sidecar.matches(generation, self.checked.prompts, made, work)
        if not (same or generation.resume or generation.force):
            check_free(output.with_suffix(".json"), force=False)
        return False

    def is_whole(self, work: Work, made: dict) -> bool:
        """Whether a video is there, whole, of these settings, as its sidecar tells."""
        generation = self.generation
        same = sidecar.matches(generation, self.checked.prompts, made, work)
        return same and sidecar.is_whole(generation, made, work.target.output)

    def tell_kept(self, target: Target) -> None:
        """Of a video that is there already."""
        self.progress.note(f"{target.output} is there already, with these settings")
        self.on_kept(Video(target.output, kept=True))
