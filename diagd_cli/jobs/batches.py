"""A generation at work: clips of equally long contexts in batches, each video written with its
sidecar last.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from diagd_cli.clip.read import Clip, read_clip
from diagd_cli.errors import Stopped
from diagd_cli.files.atomic import STDOUT, together, write_json, write_npz
from diagd_cli.files.outputs import check_free
from diagd_cli.jobs import sidecar
from diagd_cli.jobs.generation import Checked, Generation, Made, Video, check
from diagd_cli.jobs.models import cache_dtype, load_models
from diagd_cli.jobs.output import Output
from diagd_cli.jobs.targets import Target
from diagd_cli.loading import Loaded
from diagd_cli.pipeline import Result, continue_clips, warm_up
from diagd_cli.progress import Progress, Silent
from diagd_cli.tokens.actions import clip_actions


def generate(
    generation: Generation,
    progress: Progress | None = None,
    on_video: Callable[[Video], object] = lambda video: None,
    started: float | None = None,
    checked: Checked | None = None,
) -> Made:
    """Make every video; on_video is called with each when all of its files are complete.

    Of several videos one that fails does not stop the rest: `progress.failure` is told, and its
    clip is in `failed`. Of a single one the error is raised.

    started: when it all began, as time.perf_counter() tells it, for the sidecar.
    checked: what `check` has returned, where that was called before.

    Raises UsageError, OutputError and WeightsError before any work is done where it cannot be.
    """
    began = time.perf_counter() if started is None else started
    checked = checked or check(generation)
    run = Run(generation, checked, progress or Silent(), on_video, began)
    run.make_all()
    return run.made


MOST_ACTIONS = 1_000_000  # rows that are written out


@dataclass(frozen=True, eq=False)
class Work:
    """A video to make, whose clip has been read; actions: rows int64 [context + frames, A] that
    steer it.
    """

    target: Target
    clip: Clip
    actions: np.ndarray | None


class Run:
    """One generation, by models that are loaded once."""

    def __init__(
        self,
        generation: Generation,
        checked: Checked,
        progress: Progress,
        on_video: Callable[[Video], object],
        started: float,
    ):
        self.generation, self.progress = generation, progress
        self.prompts, self.asked = checked.prompts, checked.actions
        self.on_video, self.started = on_video, started
        self.size = min(generation.batch, len(generation.targets))
        self.alone = len(generation.targets) == 1
        self.loaded: Loaded | None = None
        self.made = Made()

    def make_all(self) -> None:
        """Make every video that is missing, in batches as they fill up."""
        waiting: dict[int, list[Work]] = {}  # by context frames: those of a batch have equally many
        for work in self.ready():
            group = waiting.setdefault(len(work.clip.frames), [])
            group.append(work)
            if len(group) == self.size:
                self.make(waiting.pop(len(work.clip.frames)))
        for group in waiting.values():
            self.make(group)

    @contextmanager
    def attempt(self, *clips: Path) -> Iterator[None]:
        """What goes wrong with one clip of several, or one batch, is told, and the next one
        follows.
        """
        try:
            yield
        except Exception as error:
            if self.alone or isinstance(error, BrokenPipeError):
                raise
            self.progress.failure(error)
            self.made.failed.extend(clip for clip in clips if clip not in self.made.failed)

    def ready(self) -> Iterator[Work]:
        """The videos that are to be made and may be; each clip is read once for all of its
        samples.
        """
        for path, samples in groupby(self.generation.targets, key=lambda target: target.clip):
            allowed, clip = [], None
            for target in samples:
                with self.attempt(path):
                    self.check_free(target)
                    allowed.append(target)
            with self.attempt(path):
                clip, actions = self.read(path) if allowed else (None, None)
            if clip is None:
                continue
            for target in allowed:
                work, missing = Work(target, clip, actions), False
                with self.attempt(path):
                    missing = not self.keep(work)
                if missing:
                    yield work

    def check_free(self, target: Target) -> None:
        """Raise OutputError where a video's files exist already, unless they may be replaced."""
        free = self.generation.force or (
            self.generation.resume and sidecar.made_before(target.output) is not None
        )
        for path, _ in self.generation.files(target):
            check_free(path, free)

    def read(self, path: Path) -> tuple[Clip, np.ndarray | None]:
        """A clip's context and what steers its continuation."""
        if self.generation.of_nothing:
            own, frames = self.generation.preset.actions, self.generation.settings.frames
            return Clip.nothing(path), clip_actions(path, own, self.asked, 0, 0, frames)
        preset, settings = (
            self.generation.preset,
            self.generation.settings.for_clip(path, self.generation.preset),
        )
        clip = read_clip(path, settings.context, self.generation.start, tell=self.progress.note)
        preset.check_kind(path, clip.frames)
        context = len(clip.frames)
        if clip.damage:
            last = clip.first + context - 1
            self.progress.note(
                f"{path} is {clip.damage}; it is continued after frame {last} (frames count from 0)"
            )
        frames = min(settings.frames, MOST_ACTIONS)  # the last one goes on
        return clip, clip_actions(path, preset.actions, self.asked, clip.first, context, frames)

    def keep(self, work: Work) -> bool:
        """Whether a video is there already, made with these settings."""
        output = work.target.output
        made = sidecar.made_before(output) if self.generation.resume else None
        if not made or not sidecar.matches(self.generation, self.prompts, made, work):
            return False
        self.progress.note(f"{output} is there already, with these settings")
        self.done(Video(output, made, kept=True))
        return True

    def done(self, video: Video) -> None:
        self.made.videos.append(video)
        self.on_video(video)

    def load(self) -> Loaded:
        """The models, loaded once, when the first clip needs them; the text encoder has come and
        gone before.
        """
        if self.loaded is None:
            preset, settings, machine = (
                self.generation.preset,
                self.generation.settings,
                self.generation.machine,
            )
            self.prompts.embed(self.progress)
            with self.progress.stage(f"loading {preset.name}"):
                self.loaded = load_models(
                    preset,
                    settings,
                    machine,
                    batch=self.size,
                    frames=self.generation.frames_held,
                )
            if machine.compile:  # before there is something to time
                with self.progress.stage("compiling"):
                    context = preset.latents(settings.context)
                    self.loaded = warm_up(self.loaded, settings.request(), context, self.size)
            if machine.offload and self.loaded.device.type == "cpu":
                self.progress.note(
                    "--offload changes nothing on the CPU: the tokenizer is in main memory anyway"
                )
        return self.loaded

    def make(self, group: list[Work]) -> None:
        """Continue the clips of one batch, and write each with its sidecar last.

        Raises Stopped where streams were interrupted; they end with what was made.
        """
        loaded = self.load()  # outside the attempts: without a model no clip can be made
        generation, clip = self.generation, self.generation.preset.clip
        outputs: dict[Output, Work] = {}
        try:
            for work in group:
                with self.attempt(work.target.clip):
                    fps = sidecar.fps(generation, work.clip)
                    output = Output(work.target.output, fps, generation.stream, self.alone)
                    if generation.stream:
                        output.begin(clip.height, clip.width, sidecar.unfinished(generation, work))
                    outputs[output] = work
            results: list[Result] = []
            with self.attempt(*(work.target.clip for work in outputs.values())):
                results = (
                    self.decode(loaded, list(outputs.values()), list(outputs)) if outputs else []
                )
            # none, where all have failed
            for (output, work), result in zip(outputs.items(), results, strict=False):
                with self.attempt(work.target.clip):
                    self.finish(loaded, output, work, result)
            if any(result.stopped for result in results):
                kept = ", ".join(str(output.target) for output in outputs)
                made = f"{results[0].new} of {generation.settings.frames} new frames"
                raise Stopped(f"{made} were made, and {kept} holds them")
        finally:
            for output in outputs:
                output.drop()

    def decode(self, loaded: Loaded, group: list[Work], outputs: list[Output]) -> list[Result]:
        """What the pipeline makes of the clips."""
        settings, preset, clips = (
            self.generation.settings,
            self.generation.preset,
            [work.clip for work in group],
        )
        requests = [
            settings.request(
                actions=work.actions,
                text=self.prompts.of(work.clip.path),
                seed=work.target.seed,
                label=work.target.label,
            )
            for work in group
        ]
        stream, spooled = self.generation.stream, self.generation.save_tokens
        name = clips[0].path.name if len(group) == 1 else f"{len(group)} clips"
        tokens = len(group) * preset.new_latents(settings.frames) * preset.grid.area
        with self.progress.follow(name, tokens, len(group) * settings.frames) as follow:
            return continue_clips(
                loaded,
                clips,
                requests,
                follow.stage,
                follow.on_steps,
                on_frames=(lambda n, frames: outputs[n].write(frames)) if stream else None,
                on_codes=(lambda n, codes: outputs[n].add_codes(codes)) if spooled else None,
                hold=not stream,
                stoppable=stream,
                kv_dtype=cache_dtype(self.generation.machine, loaded.device),
                offload=self.generation.machine.offload,
            )

    def finish(self, loaded: Loaded, output: Output, work: Work, result: Result) -> None:
        """Write what is left of one video, and its sidecar last: all of its files or none; tell
        what was made.
        """
        path, began, told = work.target.output, time.perf_counter(), None
        with together() as held:
            with self.progress.stage("writing"):
                if self.generation.preset.pixels:
                    output.close(result.frames)
            if self.generation.save_tokens or not self.generation.preset.pixels:
                codes = output.codes() if self.generation.stream else result.codes
                context = np.array(result.context)
                write_npz(path.with_suffix(".npz"), codes=codes, context=context)
            result.seconds["write"] = time.perf_counter() - began
            first = sidecar.first_frame(result, self.started)
            if path != STDOUT:
                about = self.prompts.about(work.clip.path)
                told = sidecar.describe(
                    self.generation, loaded, work, result, held.at(path), first, about
                )
                write_json(path.with_suffix(".json"), told)
        output.keep()
        rates = result.rates
        of = f" in a batch of {result.batch}" if result.batch > 1 else ""
        self.progress.note(
            f"{path}: {result.new} new frames, {result.steps} steps in "
            f"{result.seconds['decode']:.2f} s{of} "
            f"({rates['tokens_per_second']:.0f} tokens/s, {rates['frames_per_second']:.1f} "
            "frames/s), first frame after "
            f"{first['decode']:.2f} s ({first['command']:.2f} s from the start), "
            f"{sidecar.gaps_text(result)}seed {work.target.seed}"
        )
        self.done(Video(path, told))
