"""Groups of options that several commands share, as dataclasses, and how a command takes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer

from diagd_cli.cli import options as o
from diagd_cli.cli.kinds import COUNT, POSITIVE, SAMPLES, number, option


@dataclass(frozen=True)
class Lengths:
    """How many frames, None for the preset's."""

    frames: o.FramesOption = None
    context: o.ContextOption = None


@dataclass(frozen=True)
class DecodingOptions:
    """In which order tokens are made; None for the preset's."""

    k: o.KOption = None
    d: o.DOption = None
    stand_in: o.StandInOption = None
    repair: o.RepairOption = True
    window: o.WindowOption = None
    sinks: o.SinksOption = None


@dataclass(frozen=True)
class SamplingOptions:
    """How a token is drawn from its logits; None for the preset's."""

    temperature: o.TemperatureOption = None
    top_p: o.TopPOption = None
    top_p_rule: o.TopPRuleOption = None
    top_k: o.TopKOption = None


@dataclass(frozen=True)
class SteeringOptions:
    """What steers a video; None for what lies beside the clip."""

    actions: o.ActionsOption = None
    prompt: o.PromptOption = None
    prompt_file: o.PromptFileOption = None
    prompt_embedding: o.PromptEmbeddingOption = None
    negative_prompt: o.NegativePromptOption = None


@dataclass(frozen=True)
class ManyOptions:
    """Which of many clips, beside those that are named."""

    manifest: Annotated[
        str | None,
        typer.Option(
            metavar="<path>",
            help="A .jsonl, .csv or .parquet file of clips in their place, a row each: clip, and "
            "its own actions, prompt, seed, frames and output; paths are relative to it. Rows that "
            "fail are told in failures.jsonl.",
        ),
    ] = None
    shard: Annotated[
        str | None,
        option(
            "--shard",
            metavar="<I/N>",
            help="The I-th of N parts of the clips, 1/N to N/N: for as many machines that know "
            "nothing of each other. A clip's part depends on it alone.",
        ),
    ] = None


@dataclass(frozen=True)
class ClusterOptions:
    """By whom it is done, where that is not this process."""

    ray: Annotated[
        str | None,
        option(
            "--ray",
            metavar="<address>",
            help="Have the work done by a Ray cluster: local (one of this machine's devices), auto "
            "(the one that runs here), or HOST:PORT.",
        ),
    ] = None
    workers: Annotated[
        str | None,
        option(
            "--workers",
            metavar="<min:max>",
            help="Workers on Ray, a GPU or --threads CPUs each; as many as there are by default.",
        ),
    ] = None


@dataclass(frozen=True)
class GuidanceOptions:
    """What is to be seen, where no clip says it."""

    label: Annotated[
        str | None,
        typer.Option(
            help="What is to be seen, a number, or several by comma: an image of each. For presets "
            "with labels, which take no clip."
        ),
    ] = None
    guidance: Annotated[
        float | None,
        option(
            "--guidance",
            **number(float, "a number in 0..1000", 0, 1000),
            help="Scale of the guidance; 1 is none. The preset's by default.",
        ),
    ] = None


@dataclass(frozen=True)
class Trials:
    """Over what a measurement goes."""

    seed: Annotated[int, typer.Option(**COUNT, help="The first seed.")] = 0
    seeds: Annotated[
        int, typer.Option(**SAMPLES, help="Continuations of each clip, by SEED, SEED+1, ...")
    ] = 1
    batch: Annotated[
        int, option("--batch", **POSITIVE, help="Clips that are decoded together.")
    ] = 1
    start: Annotated[int, typer.Option(**COUNT, help="First context frame.")] = 0

    @property
    def drawn(self) -> list[int]:
        """The seeds of each clip's continuations."""
        from diagd_cli.jobs.settings import seeds_from

        return seeds_from(self.seed, self.seeds)


@dataclass(frozen=True)
class MachineOptions:
    """Where a model runs, and where its files are."""

    device: o.DeviceOption = "auto"
    dtype: o.DtypeOption = "auto"
    weights: o.WeightsOption = "auto"
    threads: o.ThreadsOption = 0
    weights_dir: o.WeightsPlaceOption = None


@dataclass(frozen=True)
class OutputOptions:
    """What is said, and how."""

    json: o.JsonOption = False
    quiet: o.QuietOption = False
    verbose: o.VerboseOption = False


def grouped(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command as Typer reads it: each parameter whose type is one of the groups above becomes
    that group's options.

    They are put together again before the command runs. Typer knows no such thing: it reads a
    signature, option by option.
    """
    groups: dict[str, Any] = {}  # their dataclasses
    parameters: list[inspect.Parameter] = []
    # not get_type_hints: for a default of None Python 3.10 hides there what Typer is told
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        kind = parameter.annotation
        if not is_dataclass(kind):
            parameters.append(parameter.replace(kind=parameter.KEYWORD_ONLY))
            continue
        groups[parameter.name] = kind
        kinds = get_type_hints(kind, include_extras=True)
        for field in fields(kind):
            own = inspect.Parameter(
                field.name,
                parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=kinds[field.name],
            )
            parameters.append(own)

    @wraps(command)
    def run(**given: Any) -> Any:
        for name, kind in groups.items():
            given[name] = kind(**{field.name: given.pop(field.name) for field in fields(kind)})
        return command(**given)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what `inspect` looks for first
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run
