"""What options mean for a preset: flag > DIAGD_* variable > preset > default."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from diagd_cli.cli.groups import (
    DecodingOptions,
    Lengths,
    MachineOptions,
    SamplingOptions,
    SteeringOptions,
)
from diagd_cli.cli.kinds import check_window_word, one_of
from diagd_cli.schedule.decoding import METHODS, STAND_INS, Decoding, window_of
from diagd_cli.tokens.sampling import TOP_P_RULES

if TYPE_CHECKING:
    from diagd_cli.jobs.settings import Machine, Settings, Steering
    from diagd_cli.preset import Preset
    from diagd_cli.schedule.decoding import Method
    from diagd_cli.schedule.standin import StandIn
    from diagd_cli.sections import Defaults


def merge(
    preset: Preset,
    lengths: Lengths = Lengths(),
    decoding: DecodingOptions = DecodingOptions(),
    sampling: SamplingOptions = SamplingOptions(),
    seed: int | None = None,
    method: str | None = None,
    endless: bool = False,
    guidance: float | None = None,
) -> Settings:
    """Options given over the preset's defaults, checked against its grid and window. Raises
    UsageError.
    """
    from diagd_cli.jobs.settings import choose

    one_of(sampling.top_p_rule, TOP_P_RULES, "'--top-p-rule'")
    chosen = merge_decoding(preset.decoding, decoding, method)
    options = {**vars(lengths), **vars(sampling)}
    return choose(preset, **options, decoding=chosen, seed=seed, guidance=guidance, endless=endless)


def merge_decoding(
    defaults: Defaults | Decoding, given: DecodingOptions, method: str | None = None
) -> Decoding:
    """A Decoding from options over a preset's defaults. Raises typer.BadParameter for unknown
    names.
    """
    one_of(method, METHODS, "'--decoding'")
    one_of(given.stand_in, STAND_INS, "'--stand-in'")
    name, width = read_window(given.window)
    own = (window_of(name) if name else None) or {}
    window = own.get("window", defaults.window)
    sinks = given.sinks if given.sinks is not None else defaults.sinks if window == "slide" else 0
    return Decoding(
        method=cast("Method", method or defaults.method),
        k=defaults.k if given.k is None else given.k,
        d=defaults.d if given.d is None else given.d,
        stand_in=cast("StandIn", given.stand_in or defaults.stand_in),
        repair=given.repair,
        window=window,
        sinks=sinks,
        attend=own.get("attend", defaults.attend),
        width=defaults.width if width is None else width,
    )


def read_window(text: str | None) -> tuple[str | None, int | None]:
    """What becomes of the window, and how many guesses a pass checks, as `--window` tells them by
    comma. Raises typer.BadParameter for what is neither.
    """
    words = [word.strip() for word in (text or "").split(",") if word.strip()]
    numbers = [int(word) for word in words if word.isdecimal()]
    names = [word for word in words if not word.isdecimal()]
    for name in [*names, *map(str, numbers[1:])]:
        check_window_word(name, "'--window'")
    return names[-1] if names else None, numbers[0] if numbers else None


def machine_of(
    options: MachineOptions,
    *,
    kv_dtype: str = "auto",
    random: bool = False,
    offload: bool = False,
    compile: bool = False,
    tp: int = 1,
) -> Machine:
    """Where models run, as a job takes it; the number of threads is the command line's own
    affair.
    """
    from diagd_cli.files.url import place
    from diagd_cli.jobs.settings import Machine

    return Machine(
        device=options.device,
        dtype=options.dtype,
        kv_dtype=kv_dtype,
        weights_dir=place(options.weights_dir) if options.weights_dir else None,
        random_weights=random,
        offload=offload,
        compile=compile,
        weights=options.weights,
        tp=tp,
    )


def steering_of(options: SteeringOptions) -> Steering:
    """What steers, as a job takes it."""
    from diagd_cli.jobs.settings import Steering

    return Steering(**vars(options))
