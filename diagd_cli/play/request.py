"""What `diagd play` is asked for, checked before anything is loaded, and the room that it makes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from diagd_cli.clip.read import read_clip
from diagd_cli.errors import UsageError
from diagd_cli.files.outputs import check_outputs
from diagd_cli.inputs import clip_inputs, preset_inputs
from diagd_cli.jobs.settings import Machine, Settings
from diagd_cli.play import ENDINGS
from diagd_cli.preset import Preset
from diagd_cli.preset_files import preset_folder
from diagd_cli.progress import Progress
from diagd_cli.schedule.decoding import Decoding

if TYPE_CHECKING:
    from diagd_cli.play.room import Room

SHIPPED = "freedoom"  # whose clips are there for who names none


@dataclass(frozen=True)
class Playing:
    """A world to play.

    clips: with which it can begin; the first is taken.
    pace: most frames a second; 0 for as many as can be made.
    record: the MP4 of what was played, at the end.
    force: replace one that exists.
    """

    preset: Preset
    settings: Settings
    clips: list[Path]
    machine: Machine = Machine()
    pace: float = 0.0
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
        if not getattr(preset.actions, "names", ()):
            hint = "Take a preset with actions of kind names, such as freedoom"
            raise UsageError(f"{preset.name} has no actions that keys stand for", hint)
        if self.record and self.record.suffix.lower() != ".mp4":
            raise UsageError(f"The recording is {self.record}", "Give it the ending .mp4")
        own = (
            [self.record.with_suffix(ending) for ending in ENDINGS.values()] if self.record else []
        )
        writes = [(path, "the recording") for path in own]
        reads = preset_inputs(preset, folder=self.machine.weights_dir) + clip_inputs(
            preset, self.clips
        )
        check_outputs(writes, reads, force=self.force, instead="Choose another --record")

    def room(self, progress: Progress) -> Room:
        """Load the models and read the clips. Raises DiagdError."""
        from diagd_cli.jobs.models import load_models
        from diagd_cli.play.room import Room

        preset, settings = self.preset, self.settings
        clips = {path.stem: read_clip(path, settings.context, 0) for path in self.clips}
        with progress.stage(f"loading {preset.name}"):
            loaded = load_models(preset, settings, self.machine, frames=preset.clip.window)
        suggested = suggestions(preset, settings.decoding)
        return Room(loaded, clips, settings.decoding, suggested, settings.seed, self.pace)


def shipped_clips() -> list[Path]:
    """The clips in the package."""
    return sorted((preset_folder() / SHIPPED / "clips").glob("*.mp4"))


def suggestions(preset: Preset, decoding: Decoding) -> list[Decoding]:
    """Next-token prediction, the diagonals within frames, and those across them."""
    own = replace(decoding, method="diagd") if decoding.method != "diagd" else decoding
    found = [replace(own, method="ntp"), replace(own, method="spatial"), own, replace(own, k=1)]
    return list(dict.fromkeys(found))
