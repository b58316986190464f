"""A generation by many workers: what one of them does, and what is made of all that they tell.

A worker is a process with models of its own, on any machine that has the same folders. Who starts
it and hands it batches is Ray (`jobs.cluster`), or one machine with several GPUs (`jobs.devices`).
"""

from __future__ import annotations

import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from diagd_cli.clip.image import IMAGE_FORMATS
from diagd_cli.errors import DiagdError, OutputError
from diagd_cli.files.hidden import remove_leftovers
from diagd_cli.jobs.failures import failures_of
from diagd_cli.jobs.generation import Generation, Made, Video, read_steering
from diagd_cli.jobs.targets import Target
from diagd_cli.progress import Progress, Silent

UNWRITTEN = Path("failures.jsonl")  # a worker goes on after a failure; who asks writes the file


@dataclass(frozen=True)
class Outcome:
    """What became of one video.

    number: its place among the generation's targets.
    kept: it was there before.
    error: why it was not made, in a line; "" where it was.
    fatal: no other can be made either.
    """

    number: int = -1
    kept: bool = False
    error: str = ""
    fatal: bool = False


class Worker:
    """Makes batches of one generation, by models that are loaded once.

    folder: from which relative paths lead, as they do for who asks; "" where there are none.

    Raises OutputError where that folder is not there, and what loading raises.
    """

    def __init__(self, generation: Generation, folder: str):
        from diagd_cli.jobs.models import load_for  # and torch, which takes long

        if folder:
            enter(folder)
        self.generation = without_targets(generation)
        self.embedded: dict = {}
        self.tidied: set[Path] = set()
        # a text encoder needs the memory before the Transformer does, and waits for the prompts
        asked = not generation.preset.text
        self.loaded = load_for(self.generation, generation.batch, Silent()) if asked else None

    def make(self, batch: dict[int, Target], again: bool = False) -> list[Outcome]:
        """Make videos, by number.

        again: they may have been made by a worker that was killed before it could tell.

        Raises DiagdError where none can be made.
        """
        from diagd_cli.jobs.batches import Run

        outputs = (target.output for target in batch.values())
        folders = {output.parent for output in outputs if isinstance(output, Path)}
        remove_leftovers(folders - self.tidied)
        self.tidied |= folders
        generation = replace(self.generation, targets=tuple(batch.values()), again=again)
        checked, started = read_steering(generation), time.perf_counter()
        checked.prompts.embedded = self.embedded
        run = Run(generation, checked, Silent(), lambda video: None, started, self.loaded)
        run.make_all()
        self.loaded, self.embedded = run.loaded, checked.prompts.embedded
        kept = {video.output for video in run.made.videos if video.kept}
        return [
            Outcome(number, target.output in kept, run.made.failures.get(target, ""))
            for number, target in batch.items()
        ]


def folder_of(generation: Generation) -> str:
    """The folder from which a generation's paths lead; "" where all that it reads and writes are
    URLs, for which workers need no folder.
    """
    asked = generation.steering
    own = generation.machine.weights_dir, asked.prompt_file, asked.prompt_embedding
    places = [where for target in generation.targets for where in (target.clip, target.output)]
    return os.getcwd() if any(isinstance(where, Path) for where in (*own, *places)) else ""


def enter(folder: str) -> None:
    """Let relative paths lead from there. Raises OutputError where that folder is not."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise OutputError(
            f"The folder {folder} is not on {platform.node()}: {error.strerror}",
            "Workers need the same folders as the machine that asks",
        ) from None


def without_targets(generation: Generation) -> Generation:
    """A generation without its targets, which go to the workers by and by."""
    longest = max(map(generation.frames_of, generation.targets), default=0)
    return replace(generation, targets=(), room=longest, failures=UNWRITTEN)


def batches(generation: Generation) -> list[dict[int, Target]]:
    """The targets by number, in batches of equally long contexts and continuations as far as names
    tell; the longest first, so that the last ones to be made are short.
    """

    def shape(number: int) -> tuple[int, bool]:
        target = generation.targets[number]
        return -generation.frames_of(target), target.clip.suffix.lower() in IMAGE_FORMATS

    order = sorted(range(len(generation.targets)), key=shape)
    return [
        {number: generation.targets[number] for number in order[n : n + generation.batch]}
        for n in range(0, len(order), generation.batch)
    ]


def collect(
    generation: Generation,
    outcomes: Iterable[Outcome],
    progress: Progress,
    on_video: Callable[[Video], object],
) -> Made:
    """What is made of all, in the order of completion, as `jobs.generate` returns it.

    Raises DiagdError where no video can be made.
    """
    made, total = Made(), len(generation.targets)
    count: Counter[str] = Counter()
    preset = generation.preset

    def text(seconds: float) -> str:
        clips, tokens = count["clips"] / seconds, count["tokens"] / seconds
        failed = f", {len(made.failures)} failed" if made.failures else ""
        return f"{clips:.2f} clips/s, {tokens:.0f} tokens/s{failed}"

    with failures_of(made, generation.failures), progress.bar("all", total, "clips") as bar:
        for done, outcome in enumerate(outcomes, 1):
            if outcome.fatal:
                raise DiagdError(outcome.error)
            target = generation.targets[outcome.number]
            if outcome.error:
                progress.failure(DiagdError(outcome.error))
                made.failures[target] = outcome.error
            else:
                latents = 0 if outcome.kept else preset.new_latents(generation.frames_of(target))
                count.update(clips=not outcome.kept, tokens=latents * preset.grid.area)
                made.videos.append(Video(target.output, outcome.kept))
                on_video(made.videos[-1])
            bar.update(done, text)
    return made
