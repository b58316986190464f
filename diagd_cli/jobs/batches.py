"""A generation at work: clips of equally long contexts in batches, each video written with its
sidecar last.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial

import numpy as np

from diagd_cli.errors import PeersLost, Stopped
from diagd_cli.explain import explain
from diagd_cli.files.atomic import STDOUT, together, write_json, write_npz
from diagd_cli.files.landing import landed
from diagd_cli.jobs import sidecar
from diagd_cli.jobs.failures import failures_of
from diagd_cli.jobs.generation import Checked, Generation, Made, Video, check
from diagd_cli.jobs.models import cache_dtype, load_for
from diagd_cli.jobs.output import Output
from diagd_cli.jobs.targets import Target
from diagd_cli.jobs.work import Reader, Work
from diagd_cli.loading import Loaded
from diagd_cli.pipeline import Result, continue_clips
from diagd_cli.progress import Progress, Silent
from diagd_cli.weights.locate import locate_all


def generate(
    generation: Generation,
    progress: Progress | None = None,
    on_video: Callable[[Video], object] = lambda video: None,
    started: float | None = None,
    checked: Checked | None = None,
    load_for: Callable[[Generation, int, Progress], Loaded] = load_for,
) -> Made:
    """Make every video; on_video is called with each when all of its files are complete.

    Of several videos one that fails does not stop the rest: `progress.failure` is told, and its
    clip is in `failed`. Of a single one the error is raised.

    started: when it all began, as time.perf_counter() tells it, for the sidecar.
    checked: what `check` has returned, where that was called before.
    load_for: loads the models, for batches of so many clips.

    Raises UsageError, OutputError and WeightsError before any work is done where it cannot be.
    """
    began = time.perf_counter() if started is None else started
    checked = checked or check(generation)
    run = Run(generation, checked, progress or Silent(), on_video, began, load_for=load_for)
    with failures_of(run.made, generation.failures):
        run.make_all()
    return run.made


class Run:
    """One generation, by models that are loaded once."""

    def __init__(
        self,
        generation: Generation,
        checked: Checked,
        progress: Progress,
        on_video: Callable[[Video], object],
        started: float,
        loaded: Loaded | None = None,
        load_for: Callable[[Generation, int, Progress], Loaded] = load_for,
    ):
        self.generation, self.progress, self.prompts = generation, progress, checked.prompts
        self.on_video, self.started = on_video, started
        self.reader = Reader(generation, checked, progress, self.attempt, self.done)
        self.size = min(generation.batch, len(generation.targets))
        self.loaded, self.load_for = loaded, load_for
        self.made = Made()

    def make_all(self) -> None:
        """Make every video that is missing, in batches as they fill up."""
        waiting: dict[tuple[int, int], list[Work]] = {}
        with closing(self.reader.ready()) as ready:  # which holds a clip that was fetched
            for work in ready:
                group = waiting.setdefault(work.shape, [])
                group.append(work)
                if len(group) == self.size:
                    self.make(waiting.pop(work.shape))
        for group in waiting.values():
            self.make(group)

    @contextmanager
    def attempt(self, *targets: Target) -> Iterator[None]:
        """What goes wrong with one video of several, or one batch, is told, and the next one
        follows.
        """
        try:
            yield
        except Exception as error:
            if self.generation.alone or isinstance(error, (BrokenPipeError, PeersLost)):
                raise
            self.progress.failure(error)
            self.made.failures.update(dict.fromkeys(targets, explain(error)))

    def done(self, video: Video) -> None:
        self.made.videos.append(video)
        self.on_video(video)

    def load(self) -> Loaded:
        """The models, loaded once, when the first clip needs them; the text encoder has come and
        gone before.
        """
        machine, preset = self.generation.machine, self.generation.preset
        if self.loaded is None:
            machine.fetch_weights(preset)  # those of words among them, which are read first
            if preset.text and not machine.random_weights:
                locate_all(preset, machine.weights_folder)  # before a text encoder is fetched
        self.prompts.embed(self.progress)
        if self.loaded is None:
            self.loaded = self.load_for(self.generation, self.size, self.progress)
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
                with self.attempt(work.target):
                    fps = sidecar.fps(generation, work.clip)
                    output = Output(work.target.output, fps, generation.stream, generation.alone)
                    if generation.stream:
                        output.begin(clip.height, clip.width, sidecar.unfinished(generation, work))
                    outputs[output] = work
            results: list[Result] = []
            with self.attempt(*(work.target for work in outputs.values())):
                results = (
                    self.decode(loaded, list(outputs.values()), list(outputs)) if outputs else []
                )
            # none, where all have failed
            for (output, work), result in zip(outputs.items(), results, strict=False):
                with self.attempt(work.target):
                    self.finish(loaded, output, work, result)
            if any(result.stopped for result in results):
                kept = ", ".join(str(output.target) for output in outputs)
                made = f"{results[0].new} of {group[0].settings.frames} new frames"
                raise Stopped(f"{made} were made, and {kept} holds them")
        finally:
            for output in outputs:
                output.drop()

    def decode(self, loaded: Loaded, group: list[Work], outputs: list[Output]) -> list[Result]:
        """What the pipeline makes of the clips."""
        preset, frames = self.generation.preset, group[0].settings.frames
        clips = [work.clip for work in group]
        requests = [
            work.settings.request(
                actions=work.actions,
                text=self.prompts.of(work.target.clip, work.target.prompt),
                label=work.target.label,
                negative=self.prompts.kept_from,
            )
            for work in group
        ]
        stream, spooled = self.generation.stream, self.generation.save_tokens
        name = clips[0].path.name if len(group) == 1 else f"{len(group)} clips"
        tokens = len(group) * preset.new_latents(frames) * preset.grid.area
        with self.progress.follow(name, tokens, len(group) * frames) as follow:
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
        target, began = work.target.output, time.perf_counter()
        begun = partial(sidecar.unfinished, self.generation, work)
        with landed(target, begun) as path, together() as held:
            with self.progress.stage("writing"):
                if self.generation.preset.pixels:
                    output.close(result.frames, path)
            if self.generation.save_tokens or not self.generation.preset.pixels:
                codes = output.codes() if self.generation.stream else result.codes
                context = np.array(result.context)
                write_npz(path.with_suffix(".npz"), codes=codes, context=context)
            result.seconds["write"] = time.perf_counter() - began
            first = sidecar.first_frame(result, self.started)
            if target != STDOUT:
                about = self.prompts.about(work.target.clip, work.target.prompt)
                told = sidecar.describe(
                    self.generation, loaded, work, result, held.at(path), first, about
                )
                write_json(path.with_suffix(".json"), told)
        output.keep()
        rates = result.rates
        of = f" in a batch of {result.batch}" if result.batch > 1 else ""
        self.progress.note(
            f"{target}: {result.new} new frames, {result.steps} steps in "
            f"{result.seconds['decode']:.2f} s{of} "
            f"({rates['tokens_per_second']:.0f} tokens/s, {rates['frames_per_second']:.1f} "
            "frames/s), first frame after "
            f"{first['decode']:.2f} s ({first['command']:.2f} s from the start), "
            f"{sidecar.gaps_text(result)}seed {work.target.seed}"
        )
        self.done(Video(target))
