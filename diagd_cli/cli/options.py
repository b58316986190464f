"""Options that several commands share, and how they merge: flag > DIAGD_* variable > preset > default."""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from diagd_cli.schedule.decoding import METHODS, STAND_INS, Decoding

MOST_FRAMES = 100_000  # of one clip: an hour and a half; all of its tokens and pixels are held in memory

DECODING_HELP = f"One of {', '.join(METHODS)}; the preset's by default."
STAND_IN_HELP = f"What is fed for a row's first token while its predecessor is missing: {', '.join(STAND_INS)}."


def option(*names: str, **settings):
    """An option that the variable DIAGD_NAME can set too."""
    variable = "DIAGD_" + names[0].strip("-").replace("-", "_").upper()
    return typer.Option(*names, envvar=variable, **settings)


def number(kind: type, rule: str, low: float = -math.inf, high: float = math.inf) -> dict:
    """Settings of an option that holds an int or a float in low .. high; `rule` says so in words."""

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise typer.BadParameter(f"{str(text)!r} is not {rule}")
        return value

    return {"parser": parse, "metavar": f"<{kind.__name__}>"}


COUNT = number(int, "a whole number, 0 or more", 0)
POSITIVE = number(int, "a whole number, 1 or more", 1)
FRAMES = number(int, f"a whole number in 1..{MOST_FRAMES}", 1, MOST_FRAMES)
MASS = number(float, "a number above 0 and at most 1", math.ulp(0.0), 1)

PresetOption = Annotated[str, option("--preset", "-p", help="Name (see: diagd presets) or path of a YAML file.")]
FramesOption = Annotated[int | None, option("--frames", **FRAMES, help="New frames; the preset's number by default.")]
DecodingOption = Annotated[str | None, option("--decoding", help=DECODING_HELP)]
KOption = Annotated[
    int | None,
    option(
        "--k", "-k", **number(int, "a whole number"), help="Tokens of the row above that exist (ZipAR: the window)."
    ),
]
DOption = Annotated[
    int | None,
    option("--d", "-d", **number(int, "a whole number"), help="Diagonals of a frame made before the next one starts."),
]
StandInOption = Annotated[str | None, option("--stand-in", help=STAND_IN_HELP)]
RepairOption = Annotated[
    bool, typer.Option("--repair/--no-repair", help="Replace stand-ins by the truth once it exists.")
]
TemperatureOption = Annotated[
    float | None,
    option(
        "--temperature", **number(float, "a number in 0..1000", 0, 1000), help="0 is greedy; the preset's by default."
    ),
]
TopPOption = Annotated[
    float | None, option("--top-p", **MASS, help="Nucleus mass, above 0 and at most 1; the preset's by default.")
]
TopKOption = Annotated[int | None, option("--top-k", **COUNT, help="Keep the K likeliest; 0 keeps all.")]
SeedOption = Annotated[
    int | None,
    option(
        "--seed", **number(int, "a whole number in 0..2^64-1", 0, 2**64 - 1), help="Drawn if absent, always reported."
    ),
]
ActionsOption = Annotated[
    str | None,
    typer.Option(
        help="What steers each new frame: a JSONL file, or a list such as 'forward*8,left*4' (the last one goes on). "
        "Without it: the actions recorded beside the clip (CLIP.jsonl), else unsteered."
    ),
]
DeviceOption = Annotated[str, option("--device", help="auto, cpu, cuda or cuda:N.")]
DtypeOption = Annotated[str, option("--dtype", help="auto, float32, bfloat16 or float16.")]
ThreadsOption = Annotated[
    int,
    option("--threads", **number(int, "a whole number in 0..1024", 0, 1024), help="CPU threads; 0 is torch's choice."),
]
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
    return Settings(
        decoding=chosen,
        frames=frames or preset.clip.frames,
        seed=secrets.randbelow(2**32) if seed is None else seed,
        temperature=defaults.temperature if temperature is None else temperature,
        top_k=defaults.top_k if top_k is None else top_k,
        top_p=defaults.top_p if top_p is None else top_p,
    )


def merge_decoding(defaults, method=None, k=None, d=None, stand_in=None, repair=True) -> Decoding:
    """A Decoding from options over a preset's defaults. Raises typer.BadParameter for unknown names."""
    one_of(method, METHODS, "'--decoding'")
    one_of(stand_in, STAND_INS, "'--stand-in'")
    return Decoding(
        method=method or defaults.method,
        k=defaults.k if k is None else k,
        d=defaults.d if d is None else d,
        stand_in=stand_in or defaults.stand_in,
        repair=repair,
    )


def one_of(value: str | None, known: tuple[str, ...], hint: str) -> None:
    """Raise typer.BadParameter for a name that is given and unknown."""
    if value is not None and value not in known:
        raise typer.BadParameter(f"{value!r} is not one of {', '.join(known)}", param_hint=hint)


def set_threads(threads: int) -> None:
    """Let torch use this many CPU threads; 0 leaves its choice."""
    if threads:
        import torch

        torch.set_num_threads(threads)


def parse_actions(preset, text: str | None) -> list[str] | None:
    """The actions that --actions asks for, None for none. Raises UsageError."""
    from diagd_cli.errors import UsageError
    from diagd_cli.tokens import actions

    if text and preset.actions is None:
        raise UsageError(f"The preset {preset.name} takes no actions", "Leave --actions out")
    return actions.parse_actions(text, preset.actions.names) if text else None


def clip_actions(path: Path, preset, asked: list[str] | None, first: int, frames: int) -> list[str] | None:
    """Action names for context + continuation of a clip, from those asked for and those recorded beside it.

    None when the preset takes none. Raises UsageError.
    """
    from diagd_cli.tokens.actions import read_actions, steering

    if preset.actions is None:
        return None
    beside = path.with_suffix(".jsonl")
    recorded = read_actions(beside, preset.actions.names) if beside.is_file() else None
    return steering(asked, recorded, first, preset.clip.context, frames, preset.actions.none)
