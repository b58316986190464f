"""A preset with another decoding as its default, in a place of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

from diagd_cli.errors import WeightsError
from diagd_cli.preset import Preset
from diagd_cli.preset_files import save_preset
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.sources import Source, Weights
from diagd_cli.tokens.sampling import Sampling
from diagd_cli.weights.locate import Role, locate


def write_chosen(
    path: Path, preset: Preset, decoding: Decoding, sampling: Sampling, folder: Path | None = None
) -> None:
    """Write `preset` with the decoding and sampling as its defaults, by the name of the file.

    Weights that would not be found from there, or were found in `folder`, are named by their way
    from there. The preset's k and d are kept where the method has none of its own. Raises
    OutputError.
    """
    own = {"ntp": (), "exact": ("width",), "diagd": ("k", "d")}
    numbers = own.get(decoding.method, ("k",))
    chosen = {
        "method": decoding.method,
        "stand_in": decoding.stand_in,
        "window": decoding.window,
        "sinks": decoding.sinks,
        "attend": decoding.attend,
        **{name: getattr(decoding, name) for name in numbers},
    }
    if decoding.raster or decoding.method == "zipar":
        chosen.pop("stand_in")  # they have no use for it
    defaults = preset.decoding.model_copy(update={**chosen, **sampling.facts})
    entries = {f"{role}_weights": moved(preset, role, path, folder) for role in get_args(Role)}
    new = preset.model_copy(update={"name": path.stem, "decoding": defaults, **entries})
    save_preset(new, path)


def moved(preset: Preset, role: Role, path: Path, folder: Path | None) -> Weights | None:
    """The entry by which a preset at `path` finds the files that `preset` finds, `folder` searched
    first.
    """
    entry = getattr(preset, f"{role}_weights")
    if entry is None:
        return None
    source, files = locate(preset, role, folder)
    try:
        if locate(preset.model_copy(update={"path": path}), role)[1] == files:
            return entry
    except WeightsError:
        pass  # they lie beside the old preset, or in a folder that was named
    own = path.resolve().parent
    pairs = zip(source.files, files, strict=True)
    near = [known.at(os.path.relpath(file.resolve(), own)) for known, file in pairs]
    remote = tuple(known for known in entry.sources if known.repo)  # which can still be fetched
    return entry.model_copy(update={"sources": (*remote, Source(files=tuple(near)))})
