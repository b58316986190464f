"""Options that several commands share, and how they merge: flag > DIAGD_* variable > preset > default."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from diagd_cli.schedule.decoding import METHODS, STAND_INS, Decoding

DECODING_HELP = f"One of {', '.join(METHODS)} [default: the preset's]"
STAND_IN_HELP = f"What is fed for a row's first token while its predecessor is missing: {', '.join(STAND_INS)}"

PresetOption = Annotated[
    str, typer.Option("--preset", "-p", envvar="DIAGD_PRESET", help="Name (see: diagd presets) or path of a YAML file.")
]
FramesOption = Annotated[int | None, typer.Option(min=1, help="New frames [default: the preset's].")]
DecodingOption = Annotated[str | None, typer.Option("--decoding", envvar="DIAGD_DECODING", help=DECODING_HELP)]
KOption = Annotated[
    int | None, typer.Option("--k", "-k", help="Tokens of the row above that exist (ZipAR: the window).")
]
DOption = Annotated[
    int | None, typer.Option("--d", "-d", help="Diagonals of a frame made before the next frame starts.")
]
StandInOption = Annotated[str | None, typer.Option(help=STAND_IN_HELP)]
RepairOption = Annotated[
    bool, typer.Option("--repair/--no-repair", help="Replace stand-ins by the truth once it exists.")
]
TemperatureOption = Annotated[float | None, typer.Option(min=0, help="0 is greedy [default: the preset's].")]
TopPOption = Annotated[float | None, typer.Option("--top-p", help="Nucleus mass in (0, 1] [default: the preset's].")]
TopKOption = Annotated[int | None, typer.Option("--top-k", min=0, help="Keep the K likeliest; 0 keeps all.")]
SeedOption = Annotated[int | None, typer.Option(envvar="DIAGD_SEED", help="Drawn if absent, always reported.")]
ActionsOption = Annotated[
    str | None,
    typer.Option(
        help="What steers each new frame: a JSONL file, or a list such as 'forward*8,left*4' (the last one goes on). "
        "Without it: the actions recorded beside the clip (CLIP.jsonl), else unsteered."
    ),
]
DeviceOption = Annotated[str, typer.Option(envvar="DIAGD_DEVICE", help="auto, cpu, cuda or cuda:N.")]
DtypeOption = Annotated[str, typer.Option(envvar="DIAGD_DTYPE", help="auto, float32, bfloat16 or float16.")]
ThreadsOption = Annotated[int, typer.Option(min=0, envvar="DIAGD_THREADS", help="CPU threads; 0 is torch's choice.")]
ForceOption = Annotated[bool, typer.Option("--force", "-f", help="Replace outputs that exist.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Errors and results only.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Tracebacks with errors.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Results as JSON on stdout, one object a line.")]


@dataclass(frozen=True)
class Settings:
    """Everything that decides the tokens of a clip, its pixels and actions aside."""

    decoding: Decoding
    frames: int
    seed: int
    temperature: float
    top_k: int
    top_p: float


def merge(
    preset, frames=None, decoding=None, k=None, d=None, stand_in=None, repair=True, temperature=None, top_p=None,
    top_k=None, seed=None,
) -> Settings:  # fmt: skip
    """Options given over the preset's defaults, checked against its grid. Raises UsageError."""
    defaults = preset.decoding
    chosen = merge_decoding(defaults, decoding, k, d, stand_in, repair)
    chosen.resolve(preset.grid, preset.clip.context)
    top_p = defaults.top_p if top_p is None else top_p
    if not 0 < top_p <= 1:
        raise typer.BadParameter(f"{top_p} is not in (0, 1]", param_hint="'--top-p'")
    return Settings(
        decoding=chosen,
        frames=frames or preset.clip.frames,
        seed=secrets.randbelow(2**32) if seed is None else seed,
        temperature=defaults.temperature if temperature is None else temperature,
        top_k=defaults.top_k if top_k is None else top_k,
        top_p=top_p,
    )


def merge_decoding(defaults, method=None, k=None, d=None, stand_in=None, repair=True) -> Decoding:
    """A Decoding from options over a preset's defaults. Raises typer.BadParameter for unknown names."""
    _one_of(method, METHODS, "'--decoding'")
    _one_of(stand_in, STAND_INS, "'--stand-in'")
    return Decoding(
        method=method or defaults.method,
        k=defaults.k if k is None else k,
        d=defaults.d if d is None else d,
        stand_in=stand_in or defaults.stand_in,
        repair=repair,
    )


def _one_of(value: str | None, known: tuple[str, ...], hint: str) -> None:
    if value is not None and value not in known:
        raise typer.BadParameter(f"{value!r} is not one of {', '.join(known)}", param_hint=hint)


def set_threads(threads: int) -> None:
    """Let torch use this many CPU threads; 0 leaves its choice."""
    if threads:
        import torch

        torch.set_num_threads(threads)


def clip_actions(path: Path, preset, actions: str | None, first: int, frames: int) -> list[str] | None:
    """Action names for context + continuation of a clip; None when the preset takes none. Raises UsageError."""
    from diagd_cli.errors import UsageError
    from diagd_cli.tokens.actions import parse_actions, read_actions, steering

    if preset.actions is None:
        if actions:
            raise UsageError(f"The preset {preset.name} takes no actions", "Leave --actions out")
        return None
    names = preset.actions.names
    beside = path.with_suffix(".jsonl")
    recorded = read_actions(beside, names) if beside.is_file() else None
    asked = parse_actions(actions, names) if actions else None
    return steering(asked, recorded, first, preset.clip.context, frames, preset.actions.none)
