"""What a job is going to read, so that it writes over none of it (`files.outputs`).

Its imports are inside functions: command modules import this one, and --help needs neither numpy
nor pydantic.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from diagd_cli.errors import WeightsError

if TYPE_CHECKING:
    from diagd_cli.files.outputs import Named
    from diagd_cli.files.url import Place
    from diagd_cli.preset import Preset


def preset_inputs(
    *presets: Preset | None,
    folder: Path | None = None,
    weights: bool = True,
) -> list[Named]:
    """The files that presets are read from, each with what it is.

    presets: those to read; None stands for none.
    folder: where their weights are looked for first.
    weights: whether the weights are read too, not the presets and their text encoders alone.
    """
    return [named for preset in presets if preset for named in _of_preset(preset, folder, weights)]


def _of_preset(preset: Preset, folder: Path | None, weights: bool) -> Iterator[Named]:
    from diagd_cli.tokens.text import encoder_folder
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


def clip_inputs(
    preset: Preset,
    clips: Iterable[Place],
    actions: str | None = None,
    prompt_file: Path | None = None,
    prompt_embedding: Path | None = None,
) -> list[Named]:
    """Clips, the actions and prompts that lie beside them, and what else steers them.

    clips: video files, or recordings that hold their frames.
    actions: as in --actions: a file, which is read, or the actions themselves, which are not.
    prompt_file: UTF-8 text.
    prompt_embedding: safetensors.
    """
    from diagd_cli.files.url import Url, place
    from diagd_cli.tokens.actions import file_beside, is_file

    found: list[Named] = []
    for clip in clips:
        found.append((clip, "the clip"))
        if isinstance(clip, Url):  # whose existence would be a request each
            suffixes = preset.actions.suffixes if preset.actions else ()
            found += [(clip.with_suffix(suffix), "the actions") for suffix in suffixes]
        elif preset.actions and (beside := file_beside(clip, preset.actions)):
            found.append((beside, "the actions"))
        if preset.takes_text:
            found.append((clip.with_suffix(".txt"), "the prompt"))
    if actions and is_file(actions):
        found.append((place(actions), "the actions"))
    given = (prompt_file, "the prompt"), (prompt_embedding, "the prompt's embedding")
    return found + [(path, what) for path, what in given if path]
