"""A preset with another decoding as its default, in a place of its own."""

from __future__ import annotations

import os
from pathlib import Path

import yaml

from diagd_cli.clip.write import atomic
from diagd_cli.config import Preset
from diagd_cli.errors import WeightsError
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.weights.locate import locate
from diagd_cli.weights.source import Source, Weights

ENTRIES = ("tokenizer_weights", "transformer_weights", "inverse_weights")


def write_chosen(path: Path, preset: Preset, walk: Decoding, sampling: dict, folder: Path | None = None) -> None:
    """Write `preset` with the decoding and sampling as its defaults, by the name of the file.

    Weights that would not be found from there, or were found in `folder`, are named by their way from there. The preset's k
    and d are kept where the method has none of its own. Raises OutputError.
    """
    numbers = {"ntp": (), "diagd": ("k", "d")}.get(walk.method, ("k",))
    chosen = {"method": walk.method, "stand_in": walk.stand_in, **{name: getattr(walk, name) for name in numbers}}
    if walk.method in ("ntp", "zipar"):
        chosen.pop("stand_in")  # they have no use for it
    defaults = preset.decoding.model_copy(update={**chosen, **sampling})
    entries = {name: moved(preset, getattr(preset, name), path, folder) for name in ENTRIES}
    new = preset.model_copy(update={"name": path.stem, "decoding": defaults, **entries})
    with atomic(path) as part:
        text = yaml.safe_dump(new.model_dump(mode="json"), sort_keys=False, width=110, allow_unicode=True)
        part.write_text(text, encoding="utf-8")


def moved(preset: Preset, entry: Weights | None, path: Path, folder: Path | None) -> Weights | None:
    """The entry by which a preset at `path` finds the files that `preset` finds, `folder` searched first."""
    if entry is None:
        return None
    source, files = _locate(preset, entry, folder)
    try:
        if _locate(preset.model_copy(update={"path": path}), entry)[1] == files:
            return entry
    except WeightsError:
        pass  # they lie beside the old preset, or in a folder that was named
    own = path.resolve().parent
    pairs = zip(source.files, files, strict=True)
    near = [known.model_copy(update={"file": os.path.relpath(file.resolve(), own)}) for known, file in pairs]
    remote = tuple(known for known in entry.sources if known.repo)  # which can still be fetched
    return Weights(format=entry.format, sources=(*remote, Source(files=tuple(near))))


def _locate(preset: Preset, entry: Weights, folder: Path | None = None) -> tuple[Source, list[Path]]:
    """`locate` of any entry, whichever model it is of."""
    return locate(preset.model_copy(update={"transformer_weights": entry}), "transformer", folder)
