"""What a command is going to read, so that it writes over none of it: see `clip.outputs.check_outputs`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from diagd_cli.cli.options import Steer
from diagd_cli.cli.prompts import encoder_folder
from diagd_cli.errors import WeightsError

if TYPE_CHECKING:
    from diagd_cli.preset import Preset

Named = tuple[Path, str]  # a file and what it is


def preset_inputs(*presets: Preset | None, folder: Path | None = None, weights: bool = True) -> list[Named]:
    """The files of presets; their weights, looked for in `folder` first; and the text encoders that lie beside them."""
    return [named for preset in presets if preset for named in _of_preset(preset, folder, weights)]


def _of_preset(preset: Preset, folder: Path | None, weights: bool) -> Iterator[Named]:
    from diagd_cli.weights.locate import locate, roles

    if preset.path:
        yield preset.path, "the preset"
    for role in roles(preset) if weights else ():
        try:
            yield from ((path, f"the {role} weights") for path in locate(preset, role, folder)[1])
        except WeightsError:  # there are none, which is told when they are needed
            continue
    if encoder := encoder_folder(preset):
        yield from ((path, "the text encoder") for path in encoder.iterdir())


def clip_inputs(preset: Preset, clips: Iterable[Path], steer: Steer = Steer()) -> list[Named]:
    """Clips, the actions and prompts that lie beside them, and what else steers them."""
    from diagd_cli.tokens.actions import file_beside, is_file

    found: list[Named] = []
    for clip in clips:
        found.append((clip, "the clip"))
        beside = file_beside(clip, preset.actions) if preset.actions else None
        if beside:
            found.append((beside, "the actions"))
        if preset.text:
            found.append((clip.with_suffix(".txt"), "the prompt"))
    if steer.actions and is_file(steer.actions):
        found.append((Path(steer.actions), "the actions"))
    given = (steer.prompt_file, "the prompt"), (steer.prompt_embedding, "the prompt's embedding")
    return found + [(path, what) for path, what in given if path]
