"""Options that several commands share, one by one and in groups."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from diagd_cli.cli.peers import one_speaks
from diagd_cli.errors import did_you_mean
from diagd_cli.schedule.decoding import METHODS, STAND_INS

# of one clip: an hour and a half; all of its tokens and pixels are held in memory

SLASHES = ("/", os.sep)  # at the end of a folder's name

DTYPES = ("auto", "float32", "bfloat16", "float16")

DECODING_HELP = f"One of {', '.join(METHODS)}; the preset's by default."
STAND_IN_HELP = (
    f"What is fed for a row's first token while its predecessor is missing: {', '.join(STAND_INS)}."
)


def option(*names: str, **settings: Any) -> Any:
    """An option that the variable DIAGD_NAME can set too."""
    variable = "DIAGD_" + names[0].strip("-").replace("-", "_").upper()
    return typer.Option(*names, **{"envvar": variable, **settings})


def number(
    kind: type[int] | type[float], rule: str, low: float = -math.inf, high: float = math.inf
) -> dict[str, Any]:
    """Settings of an option that holds an int or a float in low .. high; `rule` says so in
    words.
    """

    def parse(text: str | float) -> float:
        try:
            value: float = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise typer.BadParameter(f"{str(text)!r} is not {rule}")
        return value

    return {"parser": parse, "metavar": f"<{kind.__name__}>"}


def a_file(text: str | Path) -> Path:
    """Reads an option that names a file to write: what ends with a slash is a folder. Raises
    typer.BadParameter.
    """
    if str(text).endswith(SLASHES):
        raise typer.BadParameter(f"{str(text)!r} is a folder. Name a file")
    return Path(text)


FILE: dict[str, Any] = {"parser": a_file, "metavar": "<path>"}
COUNT = number(int, "a whole number, 0 or more", 0)
POSITIVE = number(int, "a whole number, 1 or more", 1)
SAMPLES = number(int, "a whole number in 1..1000", 1, 1000)
MASS = number(float, "a number above 0 and at most 1", math.ulp(0.0), 1)

PresetOption = Annotated[
    str, option("--preset", "-p", help="Name (see: diagd presets) or path of a YAML file.")
]
FramesOption = Annotated[
    int | None, option("--frames", **POSITIVE, help="New frames; the preset's number by default.")
]
ContextOption = Annotated[
    int | None,
    option(
        "--context",
        **POSITIVE,
        help="Context frames; the preset's number by default, 1 for a still image.",
    ),
]
DecodingOption = Annotated[str | None, option("--decoding", help=DECODING_HELP)]
KOption = Annotated[
    int | None,
    option(
        "--k",
        "-k",
        **number(int, "a whole number"),
        help="Tokens of the row above that exist (ZipAR: the window).",
    ),
]
DOption = Annotated[
    int | None,
    option(
        "--d",
        "-d",
        **number(int, "a whole number"),
        help="Diagonals of a frame made before the next one starts.",
    ),
]
StandInOption = Annotated[str | None, option("--stand-in", help=STAND_IN_HELP)]
RepairOption = Annotated[
    bool,
    typer.Option("--repair/--no-repair", help="Replace stand-ins by the truth once it exists."),
]
WindowOption = Annotated[
    str | None,
    option(
        "--window",
        help="What becomes of frames that are too many for the model: slide or roll; the preset's. "
        "For exact also how many guesses a pass checks: 64, or slide,64.",
    ),
]
SinksOption = Annotated[
    int | None,
    option("--sinks", **COUNT, help="First frames that stay visible where the window slides."),
]
TemperatureOption = Annotated[
    float | None,
    option(
        "--temperature",
        **number(float, "a number in 0..1000", 0, 1000),
        help="0 is greedy; the preset's by default.",
    ),
]
TopPOption = Annotated[
    float | None,
    option("--top-p", **MASS, help="Nucleus mass, above 0 and at most 1; the preset's by default."),
]
TopPRuleOption = Annotated[
    str | None,
    option(
        "--top-p-rule",
        help="nucleus keeps the token that crosses top-p, strict (WHAM's) drops it; the preset's.",
    ),
]
TopKOption = Annotated[
    int | None, option("--top-k", **COUNT, help="Keep the K likeliest; 0 keeps all.")
]
SeedOption = Annotated[
    int | None,
    option(
        "--seed",
        **number(int, "a whole number in 0..2^64-1", 0, 2**64 - 1),
        help="Drawn if absent, always reported.",
    ),
]
ActionsOption = Annotated[
    str | None,
    typer.Option(
        help="What steers each new frame: a JSONL (WHAM: .npz) file, or a list such as "
        "'forward*8,left*4' (the last one goes on). Without it: the actions recorded beside the "
        "clip (CLIP.jsonl), else unsteered."
    ),
]
PromptOption = Annotated[
    str | None,
    typer.Option(
        help="Text that steers a preset that takes one; without it, that of CLIP.txt beside a clip."
    ),
]
PromptFileOption = Annotated[Path | None, typer.Option(help="A text file with the prompt.")]
PromptEmbeddingOption = Annotated[
    Path | None,
    typer.Option(help="The prompt's T5 embedding (.safetensors), where T5 itself does not fit."),
]
NegativePromptOption = Annotated[
    str | None,
    typer.Option(
        help="Text that guidance leads away from; without it, from no text in particular."
    ),
]
WeightsDirOption = Annotated[
    Path | None,
    typer.Option(
        "--weights-dir", envvar="DIAGD_WEIGHTS", help="Folder with the preset's weight files."
    ),
]
WeightsPlaceOption = Annotated[
    str | None,
    typer.Option(
        "--weights-dir",
        envvar="DIAGD_WEIGHTS",
        metavar="<path>",
        help="Folder with the preset's weight files, or the URL of one: they are fetched once.",
    ),
]
RandomWeightsOption = Annotated[
    bool,
    typer.Option(
        "--random-weights", help="Made-up weights of the true size, to measure speed and memory."
    ),
]
DeviceOption = Annotated[
    str, option("--device", help="auto, cpu, cuda or cuda:N; for generate also cuda:all.")
]
DtypeOption = Annotated[str, option("--dtype", help="auto, float32, bfloat16 or float16.")]
WeightsOption = Annotated[
    str,
    option(
        "--weights",
        envvar="DIAGD_WEIGHT_FORMAT",  # DIAGD_WEIGHTS is the folder
        help="auto (the preset's), float, or 8 bits: int8 on CPUs, fp8 on CUDA.",
    ),
]
KvDtypeOption = Annotated[
    str,
    option(
        "--kv-dtype",
        help="auto (the model's), float32, bfloat16 or float16 for the key/value cache.",
    ),
]
OffloadOption = Annotated[
    str | None,
    option(
        "--offload",
        help="tokenizer: it waits in main memory while the Transformer decodes on CUDA.",
    ),
]
CompileOption = Annotated[
    bool,
    option(
        "--compile",
        help="torch.compile the Transformer's blocks first: a minute or more. It needs a compiler.",
    ),
]
ThreadsOption = Annotated[
    int,
    option(
        "--threads",
        **number(int, "a whole number in 0..1024", 0, 1024),
        help="CPU threads; 0: as many as cores are free.",
    ),
]
TpOption = Annotated[
    int,
    option(
        "--tp",
        **number(int, "a whole number in 1..1024", 1, 1024),
        is_eager=True,
        callback=one_speaks,
        help="Processes that hold a large Transformer together, a GPU each, as torchrun "
        "--nproc-per-node N -m diagd_cli generate ... --tp N starts them.",
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", "-f", help="Replace outputs that exist.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Errors and results only.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Tracebacks with errors.")]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Results as JSON on stdout, one object a line.")
]


@dataclass(frozen=True)
class Lengths:
    """How many frames, None for the preset's."""

    frames: FramesOption = None
    context: ContextOption = None


@dataclass(frozen=True)
class DecodingOptions:
    """In which order tokens are made; None for the preset's."""

    k: KOption = None
    d: DOption = None
    stand_in: StandInOption = None
    repair: RepairOption = True
    window: WindowOption = None
    sinks: SinksOption = None


@dataclass(frozen=True)
class SamplingOptions:
    """How a token is drawn from its logits; None for the preset's."""

    temperature: TemperatureOption = None
    top_p: TopPOption = None
    top_p_rule: TopPRuleOption = None
    top_k: TopKOption = None


@dataclass(frozen=True)
class SteeringOptions:
    """What steers a video; None for what lies beside the clip."""

    actions: ActionsOption = None
    prompt: PromptOption = None
    prompt_file: PromptFileOption = None
    prompt_embedding: PromptEmbeddingOption = None
    negative_prompt: NegativePromptOption = None


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

    device: DeviceOption = "auto"
    dtype: DtypeOption = "auto"
    weights: WeightsOption = "auto"
    threads: ThreadsOption = 0
    weights_dir: WeightsPlaceOption = None


@dataclass(frozen=True)
class OutputOptions:
    """What is said, and how."""

    json: JsonOption = False
    quiet: QuietOption = False
    verbose: VerboseOption = False


def grouped(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command as Typer reads it: each parameter whose type is one of the groups above becomes
    that group's options.

    They are put together again before the command runs. Typer knows no such thing: it reads a
    signature, option by option.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {}  # their dataclasses
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        kind = hints[parameter.name]
        if not is_dataclass(kind):
            parameters.append(parameter.replace(annotation=kind, kind=parameter.KEYWORD_ONLY))
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


def numbers(text: str | None, default: int, option: str) -> list[int]:
    """Whole numbers by comma. Raises typer.BadParameter."""
    parts = [str(default)] if text is None else text.split(",")
    for part in parts:
        if not part.strip().isdecimal():
            raise typer.BadParameter(f"{part!r} is not a whole number", param_hint=f"'{option}'")
    return [int(part) for part in parts]


def one_of(value: str | None, known: tuple[str, ...], hint: str) -> None:
    """Raise typer.BadParameter for a name that is given and unknown."""
    if value is not None and value not in known:
        told = f"{value!r} is not one of {', '.join(known)}. {did_you_mean(value, known)}"
        raise typer.BadParameter(told.removesuffix(". "), param_hint=hint)
