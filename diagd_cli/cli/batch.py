"""What diagd generate does with its clips: in batches, each an MP4 and a sidecar that tells how it was made."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from diagd_cli.cli import options as o
from diagd_cli.cli import sidecar
from diagd_cli.cli.console import Reporter
from diagd_cli.cli.output import Output
from diagd_cli.cli.settings import Settings, context_of, load_models, make_request

if TYPE_CHECKING:
    import numpy as np

    from diagd_cli.cli.prompts import Prompts
    from diagd_cli.clip.read import Clip
    from diagd_cli.files.outputs import Named
    from diagd_cli.pipeline import Loaded, Result
    from diagd_cli.preset import Preset


@dataclass(frozen=True)
class Job:
    """One video to make: a continuation of a clip."""

    path: Path
    target: Path
    seed: int


@dataclass(frozen=True, eq=False)
class Work:
    """A job whose clip has been read; actions: rows int64 [context + frames, A] that steer it."""

    job: Job
    clip: Clip
    actions: np.ndarray | None


@dataclass
class Batch:
    """Jobs in batches of at most `size` with one loaded model; a clip that fails does not stop the rest."""

    preset: Preset
    settings: Settings
    actions: str | None  # the text of --actions
    asked: np.ndarray | None  # what it means
    prompts: Prompts
    start: int | None
    machine: o.Machine
    kv_dtype: str
    offload: bool  # the tokenizer
    compile: bool
    random: bool  # weights
    size: int
    stream: bool
    save_tokens: bool
    force: bool
    resume: bool
    seeded: bool
    json: bool
    reporter: Reporter
    alone: bool
    loaded: Loaded | None = None
    failed: list[Path] = field(default_factory=list)  # clips

    def check(self, jobs: list[Job], reads: list[Named]) -> None:
        """Refuse, before any work is done, outputs that cannot be written or are inputs; those that exist fail alone later.

        Raises UsageError, OutputError.
        """
        from diagd_cli.files.outputs import check_outputs

        check_outputs([named for job in jobs for named in self.outputs(job.target)], reads)

    def outputs(self, target: Path) -> list[Named]:
        """The files of one video."""
        from diagd_cli.files.atomic import STDOUT

        if target == STDOUT:
            return []
        tokens = [(target.with_suffix(".npz"), "the tokens")] if self.save_tokens else []
        return [(target, "the output"), *tokens, (target.with_suffix(".json"), "the sidecar")]

    def run(self, jobs: list[Job]) -> int:
        """Make every video; returns of how many clips one or more failed."""
        waiting: dict[int, list[Work]] = {}  # by context frames: those of a batch have equally many
        for work in self.ready(jobs):
            group = waiting.setdefault(len(work.clip.frames), [])
            group.append(work)
            if len(group) == self.size:
                self.make(waiting.pop(len(work.clip.frames)))
        for group in waiting.values():
            self.make(group)
        failed = list(dict.fromkeys(map(str, self.failed)))
        if failed:
            count = len({job.path for job in jobs})
            self.reporter.error(f"{len(failed)} of {count} clips failed: {', '.join(failed)}")
        return len(failed)

    @contextmanager
    def attempt(self, *paths: Path) -> Iterator[None]:
        """What goes wrong with one clip of several, or one batch, is reported, and the next one follows."""
        try:
            yield
        except Exception as error:
            if self.alone or isinstance(error, BrokenPipeError):
                raise
            self.reporter.failure(error)
            self.failed += paths

    def ready(self, jobs: list[Job]) -> Iterator[Work]:
        """The jobs that are to be made and may be; each clip is read once for all of its samples."""
        for path, samples in groupby(jobs, key=lambda job: job.path):
            allowed, clip = [], None
            for job in samples:
                with self.attempt(path):
                    self.check_free(job.target)
                    allowed.append(job)
            with self.attempt(path):
                clip, actions = self.read(path) if allowed else (None, None)
            for job in allowed if clip else ():
                work = Work(job, clip, actions)
                missing = False
                with self.attempt(path):
                    missing = self.missing(work)
                if missing:
                    yield work

    def check_free(self, target: Path) -> None:
        """Raise OutputError where a video's files exist already, unless they may be replaced."""
        from diagd_cli.files.outputs import check_free

        free = self.force or (self.resume and sidecar.made_before(target) is not None)
        for path, _ in self.outputs(target):
            check_free(path, free)

    def read(self, path: Path) -> tuple[Clip, np.ndarray | None]:
        """A clip's context and what steers its continuation."""
        from diagd_cli.clip.read import read_clip
        from diagd_cli.tokens.actions import clip_actions

        clip = read_clip(path, context_of(path, self.preset, self.settings), self.start, tell=self.reporter.note)
        context = len(clip.frames)
        if clip.damage:
            last = clip.first + context - 1
            self.reporter.note(f"{path} is {clip.damage}; it is continued after frame {last} (frames count from 0)")
        return clip, clip_actions(path, self.preset.actions, self.asked, clip.first, context, self.settings.frames)

    def missing(self, work: Work) -> bool:
        """Whether a video has to be made: not where --resume finds it."""
        target = work.job.target
        made = sidecar.made_before(target) if self.resume else None
        if made and sidecar.matches(self, made, work):
            self.reporter.note(f"{target} is there already, with these settings")
            self.reporter.result(made if self.json else str(target))
            return False
        return True

    def load(self) -> Loaded:
        """The models, loaded once, when the first clip needs them; the text encoder has come and gone before."""
        if self.loaded is None:
            self.prompts.embed(self.reporter)
            with self.reporter.stage(f"loading {self.preset.name}"):
                self.loaded = load_models(
                    self.preset, self.settings, self.machine, self.random,
                    batch=self.size, kv_dtype=self.kv_dtype, offload=self.offload, compile=self.compile,
                )  # fmt: skip
            if self.compile:
                self.compile_blocks()
            if self.offload and self.loaded.device.type == "cpu":
                self.reporter.note("--offload changes nothing on the CPU: the tokenizer is in main memory anyway")
        return self.loaded

    def compile_blocks(self) -> None:
        """Let torch.compile do its work before there is something to time."""
        from diagd_cli.pipeline import warm_up

        with self.reporter.stage("compiling"):
            request = make_request(self.settings, self.settings.decoding, None)
            self.loaded = warm_up(self.loaded, request, self.preset.latents(self.settings.context), self.size)

    def make(self, group: list[Work]) -> None:
        """Continue the clips of one batch, and write each with its sidecar last."""
        loaded = self.load()  # outside the attempts: without a model no clip can be made
        outputs: dict[Output, Work] = {}
        try:
            for work in group:
                with self.attempt(work.job.path):
                    output = Output(work.job.target, sidecar.fps(self, work.clip), self.stream, self.alone)
                    if self.stream:
                        size = self.preset.clip.height, self.preset.clip.width
                        output.begin(*size, sidecar.unfinished(self, work))
                    outputs[output] = work
            results: list[Result] = []
            with self.attempt(*(work.job.path for work in outputs.values())):
                results = self.generate(loaded, list(outputs.values()), list(outputs)) if outputs else []
            for (output, work), result in zip(outputs.items(), results, strict=False):  # none, where all have failed
                with self.attempt(work.job.path):
                    self.finish(loaded, output, work, result)
        finally:
            for output in outputs:
                output.drop()

    def generate(self, loaded: Loaded, group: list[Work], outputs: list[Output]) -> list[Result]:
        """What the pipeline makes of the clips, followed on stderr."""
        from diagd_cli.device import choose_dtype
        from diagd_cli.pipeline import continue_clips

        s, paths = self.settings, [work.clip.path for work in group]
        requests = [
            make_request(s, s.decoding, work.actions, self.prompts.of(work.clip.path), work.job.seed) for work in group
        ]
        kv_dtype = None if self.kv_dtype == "auto" else choose_dtype(self.kv_dtype, loaded.device)
        name = paths[0].name if len(group) == 1 else f"{len(group)} clips"
        tokens = len(group) * self.preset.new_latents(s.frames) * self.preset.grid.area
        with self.reporter.follow(name, tokens, len(group) * s.frames) as follow:
            return continue_clips(
                loaded, [work.clip for work in group], requests, follow.stage, follow.on_steps,
                on_frames=(lambda n, frames: outputs[n].write(frames)) if self.stream else None,
                kv_dtype=kv_dtype, offload=self.offload,
            )  # fmt: skip

    def finish(self, loaded: Loaded, output: Output, work: Work, result: Result) -> None:
        """Write what is left of one video, and its sidecar last: all of its files or none; say what was made."""
        from diagd_cli.files.atomic import STDOUT, together, write_json, write_npz

        target, started, made = work.job.target, time.perf_counter(), None
        with together() as held:
            with self.reporter.stage("writing"):
                output.close(result.frames)
            if self.save_tokens:
                write_npz(target.with_suffix(".npz"), codes=result.codes, context=result.context)
            result.seconds["write"] = time.perf_counter() - started
            if target != STDOUT:
                made = sidecar.describe(self, loaded, work, result, held.at(target))
                write_json(target.with_suffix(".json"), made)
        output.keep()
        rates, shown = result.rates, sidecar.first_frame(self, result)
        of = f" in a batch of {result.batch}" if result.batch > 1 else ""
        self.reporter.note(
            f"{target}: {self.settings.frames} new frames, {result.steps} steps in {result.seconds['decode']:.2f} s{of} "
            f"({rates['tokens_per_second']:.0f} tokens/s, {rates['frames_per_second']:.1f} frames/s), "
            f"first frame after {shown['decode']:.2f} s ({shown['command']:.2f} s from the start), seed {work.job.seed}"
        )
        if made:
            self.reporter.result(made if self.json else str(target))

    def show(self, jobs: list[Job]) -> None:
        """What would be done: the plan and the paths."""
        from diagd_cli.cli.plan import summary

        new = self.preset.new_latents(self.settings.frames)
        context = self.preset.latents(self.settings.context)
        facts = summary(self.preset.grid, context, new, self.settings.decoding, self.preset)
        for job in jobs:
            if self.json:
                settings = sidecar.choices(self, job.seed)
                told = {"input": str(job.path), "output": str(job.target), "settings": settings, "plan": facts}
                self.reporter.result(told)
            else:
                self.reporter.result(
                    f"{job.path} -> {job.target}: {facts['label']}, {facts['steps']} steps for {facts['tokens']} tokens"
                )
