"""Clips in, videos with their continuations out: what is asked for, checked before torch and the
models are loaded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from diagd_cli.clip.read import check_clip
from diagd_cli.errors import ClipError, UsageError
from diagd_cli.files.atomic import STDOUT
from diagd_cli.files.outputs import Named, check_free, check_outputs
from diagd_cli.files.remote import check_readable, found, local, read_text
from diagd_cli.files.url import Place, Url, masked, place
from diagd_cli.inputs import clip_inputs, preset_inputs
from diagd_cli.jobs.prompts import Prompts, find_prompts
from diagd_cli.jobs.settings import AUTO, Machine, Settings, Steering
from diagd_cli.jobs.targets import Target
from diagd_cli.preset import Preset
from diagd_cli.tokens.actions import is_file

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
    manifest: the file that the targets were read from, which is not written over.
    failures: a JSONL file that tells of each target that failed; without one, a single target's
        failure is raised.
    again: the targets may have been made by a process that was killed before it could tell: what
        is whole and has these settings is kept, also without `resume`.
    room: new frames that memory must have room for, where those of the targets are fewer.
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
    manifest: Place | None = None
    failures: Place | None = None
    again: bool = False
    room: int = 0

    @cached_property  # each sidecar asks
    def frames_held(self) -> int:
        """Most frames of a video that are in memory at once."""
        settings = self.settings
        longest = max([self.room, *map(self.frames_of, self.targets)])
        whole = settings.context + longest
        return min(whole, settings.context + HELD) if self.stream else whole

    @property
    def clips(self) -> list[Place]:
        """The clips that are continued, each once."""
        own = [] if self.of_nothing else [target.clip for target in self.targets]
        return list(dict.fromkeys(own))

    @property
    def of_nothing(self) -> bool:
        """Whether there are no clips, and all begins with the prefix."""
        return not self.settings.context

    @property
    def alone(self) -> bool:
        """Whether a failure is raised, since there is nothing else to go on with."""
        return len(self.targets) == 1 and not self.failures

    def frames_of(self, target: Target) -> int:
        """New frames of a video."""
        return target.frames or self.settings.frames

    def settings_of(self, target: Target) -> Settings:
        """The settings of one video. Raises UsageError where the preset cannot make so many frames,
        or takes no still image.
        """
        settings = replace(self.settings, frames=self.frames_of(target), seed=target.seed)
        return settings if self.of_nothing else settings.for_clip(target.clip, self.preset)

    def choices(self, target: Target) -> dict:
        """What decides an output, as its sidecar tells it, and as a resumed run compares it."""
        preset, settings = self.preset, self.settings
        guided = preset.guided(settings.guidance)
        guidance = guided and {"scale": guided.scale, "tokens": guided.tokens}
        return {
            "decoding": settings.decoding.facts(preset.grid, preset.context),
            "frames": self.frames_of(target),
            "context": settings.context,
            "seed": target.seed,
            **settings.sampling.facts,
            "preset": preset.name,
            "clip": preset.clip.model_dump(),
            "actions": masked(target.actions or self.steering.actions or "") or None,
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


@dataclass(frozen=True)
class Video:
    """A video that is there, and whether it was there before."""

    output: Place
    kept: bool = False

    @property
    def sidecar(self) -> dict | None:
        """What lies beside it, read when it is asked for; None on stdout. Raises OSError, of a URL
        OutputError.
        """
        if self.output == STDOUT:
            return None
        return json.loads(read_text(self.output.with_suffix(".json")))


@dataclass(frozen=True, eq=False)
class Made:
    """What a generation has made, in the order of completion, and why others failed, in a line
    each.
    """

    videos: list[Video] = field(default_factory=list)
    failures: dict[Target, str] = field(default_factory=dict)

    @property
    def failed(self) -> list[Place]:
        """The clips of which something failed."""
        return list(dict.fromkeys(target.clip for target in self.failures))


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
        if any(isinstance(target.output, Url) for target in generation.targets):
            message = "--stream grows a file under its own name, which no URL's can"
            raise UsageError(message, "Leave it out, or name a path")
    check_readable(clip for clip in generation.clips if isinstance(clip, Url))
    steered = read_steering(generation)
    reads = preset_inputs(preset, folder=machine.weights_folder, weights=not machine.random_weights)
    reads += clip_inputs(
        preset, generation.clips, steering.actions, steering.prompt_file, steering.prompt_embedding
    )
    own = dict.fromkeys(target.actions for target in generation.targets if target.actions)
    reads += [(place(actions), "the actions") for actions in own if is_file(actions)]
    reads += [(generation.manifest, "the manifest")] if generation.manifest else []
    writes = [named for target in generation.targets for named in generation.files(target)]
    if generation.failures:
        check_free(generation.failures, generation.force or generation.resume)
        writes.append((generation.failures, "the failures"))
    check_outputs(writes, reads)
    return steered


def read_steering(generation: Generation) -> Checked:
    """What steers all clips. Raises UsageError."""
    preset, steering, targets = generation.preset, generation.steering, generation.targets
    actions = actions_of(preset, steering.actions)
    shared = list(dict.fromkeys(target.clip for target in targets if target.prompt is None))
    own = dict.fromkeys(target.prompt for target in targets if target.prompt is not None)
    machine = generation.machine
    prompts = find_prompts(
        preset, shared, steering, machine.random_weights, own, machine.weights_folder
    )
    return Checked(prompts, actions)


def actions_of(preset: Preset, text: str | None) -> np.ndarray | None:
    """Rows of tokens int64 [n, A] that a text asks for, which may be the URL of a file; None for
    none. Raises UsageError.
    """
    url = place(text) if text and "://" in text else None
    if url is None:
        return preset.parse_actions(text)
    with local(url, failure=UsageError) as path:
        return preset.parse_actions(str(path))


def check_alone(generation: Generation) -> None:
    """Of a single video, what would end it when its turn comes, which is after torch has been
    imported: its clip cannot be opened, or its files exist already. Several fail one by one, later.

    Raises ClipError, OutputError.
    """
    if not generation.alone:
        return
    [target] = generation.targets
    for path, _ in generation.files(target):
        check_free(path, generation.force or generation.resume)
    clip = target.clip
    if not isinstance(clip, Url):
        if not generation.of_nothing:
            check_clip(clip)
    elif found(clip) is None:
        raise ClipError(f"{clip} does not exist", "Check the bucket and the name")
