"""What `diagd play` is asked for, checked before anything is loaded, and the room that it makes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diagd_cli.clip.read import Clip, read_clip
from diagd_cli.errors import DiagdError, UsageError
from diagd_cli.files.outputs import check_outputs
from diagd_cli.inputs import clip_inputs, preset_inputs
from diagd_cli.jobs.settings import AUTO, Machine, Settings
from diagd_cli.play import ENDINGS, nothing, recording
from diagd_cli.play.playable import playable, remembered
from diagd_cli.preset import Preset
from diagd_cli.preset_files import option_word, preset_folder
from diagd_cli.progress import Progress
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.tokens.actions import recorded_beside

if TYPE_CHECKING:
    from diagd_cli.loading import Loaded
    from diagd_cli.play.room import Room

SHIPPED = "freedoom"  # whose clips are there for who names none


@dataclass(frozen=True)
class Playing:
    """A world to play.

    clips: with which it can begin; the first is taken.
    pace: most frames a second; 0 for as many as can be made.
    sessions: how many can play at once.
    record: the MP4 of what was played, at the end.
    force: replace one that exists.
    """

    preset: Preset
    settings: Settings
    clips: list[Path]
    machine: Machine = Machine()
    pace: float = 0.0
    sessions: int = 1
    record: Path | None = None
    force: bool = False

    def check(self) -> None:
        """Refuse a preset that cannot be played and what cannot be written. Raises DiagdError."""
        preset = self.preset
        preset.require_pixels("diagd play")
        if preset.tokenizer.temporal > 1:
            hint = "Take one that makes a frame at a time, such as freedoom"
            raise UsageError(
                f"{preset.name} makes {preset.tokenizer.temporal} frames at once, and cannot be "
                "played",
                hint,
            )
        playable(preset)
        if self.settings.decoding.window == "roll" and not preset.overlap:
            hint = "Let the window slide, or set clip.overlap in the preset"
            raise UsageError(f"The window of {preset.name} cannot roll: its overlap is 0", hint)
        if self.record and self.record.suffix.lower() != ".mp4":
            raise UsageError(f"The recording is {self.record}", "Give it the ending .mp4")
        records = [recording(self.record, n) for n in range(self.sessions)] if self.record else []
        own = [path.with_suffix(ending) for path in records for ending in ENDINGS.values()]
        writes = [(path, "the recording") for path in own]
        reads = preset_inputs(preset, folder=self.machine.weights_folder) + clip_inputs(
            preset, self.clips
        )
        check_outputs(writes, reads, force=self.force, instead="Choose another --record")

    def room(self, progress: Progress, stepped: Callable[[], None] = nothing) -> Room:
        """Load the models and read the clips; `stepped` is called on the world's thread after each
        step. Raises DiagdError.
        """
        from diagd_cli.jobs.models import load_models
        from diagd_cli.weights.memory import ONE_CLIP

        preset, settings = self.preset, self.settings
        try:
            with progress.stage(f"loading {preset.name}"):
                loaded = load_models(
                    preset,
                    settings,
                    self.machine,
                    frames=preset.clip.window,
                    batch=self.sessions,
                )
        except DiagdError as error:
            error.hint = error.hint.replace(ONE_CLIP, "Use --sessions 1")
            raise
        return self.room_of(loaded, stepped)

    def room_of(self, loaded: Loaded, stepped: Callable[[], None] = nothing) -> Room:
        """Read the clips; the models are there already. Raises DiagdError."""
        from diagd_cli.play.room import Room

        settings = self.settings
        return Room(
            loaded,
            read_starts(self.clips, self.preset, settings.context, self.sessions),
            settings.decoding,
            suggestions(self.preset, settings.decoding),
            settings.seed,
            self.pace,
            self.sessions,
            settings.sampling,
            self.words,
            stepped,
        )

    @property
    def words(self) -> list[object] | None:
        """What `diagd generate` must be told besides to have the same models and sampling; None
        where it cannot: made-up weights are of the seed with which the room began.
        """
        machine, own = self.machine, self.preset.sampling().facts
        if machine.random_weights:
            return None
        words: list[object] = []
        for name, value in self.settings.sampling.facts.items():
            words += [f"--{name.replace('_', '-')}", value] if value != own[name] else []
        for name in ("device", "dtype", "weights", "weights_dir"):
            value = getattr(machine, name)
            value = os.path.abspath(value) if isinstance(value, Path) else value
            words += [f"--{name.replace('_', '-')}", value] if value not in (AUTO, None) else []
        return words


def read_starts(
    paths: list[Path], preset: Preset, context: int, sessions: int = 1
) -> dict[str, Clip]:
    """Clips by name, each with the context with which a walk begins: where several play, whose
    walks go on from equally many frames, as many as they remember, if all of the clips have them.

    Raises DiagdError for a clip that cannot be read, or beside which lie the actions of others.
    """
    most = max(context, remembered(preset)) if sessions > 1 else context
    found = {path.stem: read_clip(path, context, 0, most - context) for path in paths}
    count = min(context + len(clip.future) for clip in found.values())
    for clip in found.values():
        if preset.actions:
            recorded_beside(clip.path, preset.actions, count)
    return {
        name: replace(
            clip, frames=np.concatenate([clip.frames, clip.future])[:count], future=clip.future[:0]
        )
        for name, clip in found.items()
    }


def shipped_clips(preset: Preset) -> list[Path]:
    """The clips in the package. Raises UsageError for a preset that has other actions than they."""
    clips = sorted((preset_folder() / SHIPPED / "clips").glob("*.mp4"))
    if preset.actions is None:
        return clips
    try:
        for clip in clips:
            recorded_beside(clip, preset.actions, 1)
    except UsageError:
        hint = f"Name one with which it can begin: diagd play CLIP -p {option_word(preset)}"
        raise UsageError(f"{preset.name} has no clips of its own", hint) from None
    return clips


def own_decoding(preset: Preset) -> Decoding:
    """The preset's, with a window that slides where it can: one that rolls stalls."""
    own = preset.decoding.decoding
    return own if preset.why_rolls else replace(own, window="slide")


def suggestions(preset: Preset, decoding: Decoding) -> list[Decoding]:
    """Next-token prediction, the diagonals within frames, and those across them."""
    own = replace(decoding, method="diagd") if decoding.method != "diagd" else decoding
    found = [replace(own, method="ntp"), replace(own, method="spatial"), own, replace(own, k=1)]
    return list(dict.fromkeys(found))
