"""Clips in, videos with their continuations out: what is asked for, checked before torch and the
models are loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from diagd_cli.clip.read import check_clip
from diagd_cli.files.atomic import STDOUT
from diagd_cli.files.outputs import Named, check_free, check_outputs
from diagd_cli.inputs import clip_inputs, preset_inputs
from diagd_cli.jobs.prompts import Prompts, find_prompts
from diagd_cli.jobs.settings import AUTO, Machine, Settings, Steering
from diagd_cli.jobs.targets import Target
from diagd_cli.preset import Preset

HELD = 64  # frames of a stream that wait for their pixels, or to be written


@dataclass(frozen=True)
class Generation:
    """What `diagd generate` is asked for.

    targets: the videos to make, see `jobs.targets.continuations`.
    start: first context frame; None takes the clip's last ones.
    batch: clips that are decoded together.
    stream: write each frame as soon as it is made, to an MP4 that grows under its own name.
    save_tokens: write the token grid beside the MP4, as .npz with `codes` and `context`.
    force: replace outputs that exist.
    resume: keep outputs that were made with these settings, and make what is missing.
    any_seed: with `resume`, whether a video by another seed will do.
    """

    preset: Preset
    settings: Settings
    targets: Sequence[Target]
    steering: Steering = Steering()
    machine: Machine = Machine()
    start: int | None = None
    batch: int = 1
    stream: bool = False
    save_tokens: bool = False
    force: bool = False
    resume: bool = False
    any_seed: bool = False

    @property
    def frames_held(self) -> int:
        """Most frames of a video that are in memory at once."""
        settings = self.settings
        whole = settings.context + settings.frames
        return min(whole, settings.context + HELD) if self.stream else whole

    @property
    def clips(self) -> list[Path]:
        """The clips that are continued, each once."""
        own = [] if self.of_nothing else [target.clip for target in self.targets]
        return list(dict.fromkeys(own))

    @property
    def of_nothing(self) -> bool:
        """Whether there are no clips, and all begins with the prefix."""
        return not self.settings.context

    def choices(self, target: Target) -> dict:
        """What decides an output, as its sidecar tells it, and as a resumed run compares it."""
        preset, settings = self.preset, self.settings
        guided = preset.guided(settings.guidance)
        guidance = guided and {"scale": guided.scale, "tokens": guided.tokens}
        return {
            "decoding": settings.decoding.facts(preset.grid, preset.context),
            "frames": settings.frames,
            "context": settings.context,
            "seed": target.seed,
            **settings.sampling.facts,
            "preset": preset.name,
            "clip": preset.clip.model_dump(),
            "actions": self.steering.actions,
            "dtype": self.machine.dtype,
            "kv_dtype": self.machine.kv_dtype,
            **({"weights": self.machine.weights} if self.machine.weights != AUTO else {}),
            **({"label": target.label} if preset.labels else {}),
            **({"guidance": guidance} if guidance else {}),
        }

    def files(self, target: Target) -> list[Named]:
        """The files of one video."""
        if target.output == STDOUT:
            return []
        save_tokens = self.save_tokens and self.preset.pixels  # else they are the output
        tokens = [(target.output.with_suffix(".npz"), "the tokens")] if save_tokens else []
        sidecar_file = (target.output.with_suffix(".json"), "the sidecar")
        return [(target.output, "the output"), *tokens, sidecar_file]


@dataclass(frozen=True, eq=False)
class Video:
    """A video that is there: its path, its sidecar (None on stdout), and whether it was there
    before.
    """

    output: Path
    sidecar: dict | None
    kept: bool = False


@dataclass(frozen=True, eq=False)
class Made:
    """What a generation has made, in the order of completion, and the clips of which something
    failed.
    """

    videos: list[Video] = field(default_factory=list)
    failed: list[Path] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Checked:
    """What checking a generation has read: the clips' prompts, and the actions that are asked for,
    rows int64 [n, A], None for none.
    """

    prompts: Prompts
    actions: np.ndarray | None


def check(generation: Generation) -> Checked:
    """What steers the clips. Refuses outputs that cannot be written or are inputs; those that exist
    fail alone later.

    Raises UsageError, OutputError.
    """
    preset, steering, machine = generation.preset, generation.steering, generation.machine
    if generation.stream:
        preset.require_pixels("--stream")
    actions = preset.parse_actions(steering.actions)
    prompts = find_prompts(preset, generation.clips, steering, machine.random_weights)
    reads = preset_inputs(preset, folder=machine.weights_dir, weights=not machine.random_weights)
    reads += clip_inputs(
        preset, generation.clips, steering.actions, steering.prompt_file, steering.prompt_embedding
    )
    check_outputs(
        [named for target in generation.targets for named in generation.files(target)], reads
    )
    return Checked(prompts, actions)


def check_alone(generation: Generation) -> None:
    """Of a single video, what would end it when its turn comes, which is after torch has been
    imported: its clip cannot be opened, or its files exist already. Several fail one by one, later.

    Raises ClipError, OutputError.
    """
    if len(generation.targets) > 1:
        return
    [target] = generation.targets
    for path, _ in generation.files(target):
        check_free(path, generation.force or generation.resume)
    if not generation.of_nothing:
        check_clip(target.clip)
