"""What options mean for a preset, and the models that they ask for: flag > DIAGD_* variable > preset > default."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diagd_cli.cli.options import Draw, Lengths, Machine, Walk, one_of
from diagd_cli.cli.threads import THREADS
from diagd_cli.schedule.decoding import METHODS, SAMPLING, STAND_INS, TOP_P_RULES, Decoding

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from diagd_cli.pipeline import Loaded, Request
    from diagd_cli.preset import Preset


@dataclass(frozen=True)
class Settings:
    """Everything that decides the tokens of a clip, its pixels, actions and text aside."""

    decoding: Decoding
    frames: int
    context: int
    seed: int
    temperature: float
    top_k: int
    top_p: float
    top_p_rule: str

    @property
    def sampling(self) -> dict:
        """How tokens are drawn, by the names of `pipeline.Request`."""
        return {name: getattr(self, name) for name in SAMPLING}


def merge(
    preset: Preset,
    lengths: Lengths = Lengths(),
    walk: Walk = Walk(),
    draw: Draw = Draw(),
    seed: int | None = None,
    method: str | None = None,
) -> Settings:
    """Options given over the preset's defaults, checked against its grid and window. Raises UsageError."""
    defaults, clip = preset.decoding, preset.clip
    one_of(draw.top_p_rule, TOP_P_RULES, "'--top-p-rule'")
    chosen = merge_decoding(defaults, walk, method)
    context, frames = lengths.context or clip.context, lengths.frames or clip.frames
    preset.check_frames(context, frames)
    chosen.resolve(preset.grid, preset.latents(context))
    return Settings(
        decoding=chosen,
        frames=frames,
        context=context,
        seed=secrets.randbelow(2**32) if seed is None else seed,
        **defaults.sampling_with(**vars(draw)),
    )


def merge_decoding(defaults, walk: Walk, method: str | None = None) -> Decoding:
    """A Decoding from options over a preset's defaults. Raises typer.BadParameter for unknown names."""
    one_of(method, METHODS, "'--decoding'")
    one_of(walk.stand_in, STAND_INS, "'--stand-in'")
    return Decoding(
        method=method or defaults.method,
        k=defaults.k if walk.k is None else walk.k,
        d=defaults.d if walk.d is None else walk.d,
        stand_in=walk.stand_in or defaults.stand_in,
        repair=walk.repair,
    )


def set_threads(threads: int) -> None:
    """Let torch use this many CPU threads; for 0, as many as there are cores that nobody else is using."""
    if threads:
        THREADS.fix(threads)


def make_request(
    settings: Settings, decoding: Decoding, actions: np.ndarray | None, text=None, seed: int | None = None
) -> Request:
    """What the pipeline is asked for: a decoding with the settings' sampling, and their seed unless another is given."""
    from diagd_cli.pipeline import Request

    own = settings.seed if seed is None else seed
    return Request(settings.frames, decoding, own, **settings.sampling, actions=actions, text=text)


def context_of(path: Path, preset: Preset, settings: Settings) -> int:
    """Context frames of a clip: as asked for, but one of a still image. Raises UsageError where the preset takes no image."""
    from diagd_cli.clip.image import IMAGE_FORMATS

    context = 1 if path.suffix.lower() in IMAGE_FORMATS else settings.context
    preset.check_frames(context, settings.frames)
    return context


def size_of(preset: Preset) -> int:
    """Parameters of a preset's Transformer."""
    from diagd_cli.weights.parameters import transformer_parameters

    return transformer_parameters(preset.transformer, preset.positions)


def load_models(
    preset: Preset,
    settings: Settings,
    machine: Machine,
    random: bool = False,
    *,
    batch: int = 1,
    kv_dtype: str = "auto",
    offload: bool = False,
    compile: bool = False,
    beside: Sequence[Preset] = (),
) -> Loaded:
    """The preset's models on the device asked for. Raises DiagdError where they are missing or cannot fit.

    batch, kv_dtype, offload: of what is going to be decoded with them, which must fit too. beside: presets whose
    Transformers are going to be loaded as well.
    """
    from diagd_cli.device import choose_device, choose_dtype
    from diagd_cli.pipeline import load
    from diagd_cli.weights.memory import require

    set_threads(machine.threads)
    where = choose_device(machine.device)
    kind = choose_dtype(machine.dtype, where, size_of(preset))
    kv = kind if kv_dtype == "auto" else choose_dtype(kv_dtype, where)
    frames = settings.context + settings.frames
    require(preset, where, batch=batch, dtype=kind, kv_dtype=kv, frames=frames, offload=offload, beside=beside)
    return load(
        preset, where, kind, folder=machine.weights_dir, random=settings.seed if random else None, compile=compile
    )
