"""Options that several commands share, one by one; `groups` has them in groups."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diagd_cli.cli.kinds import COUNT, MASS, POSITIVE, number, option
from diagd_cli.cli.peers import one_speaks
from diagd_cli.schedule.decoding import METHODS, STAND_INS

DTYPES = ("auto", "float32", "bfloat16", "float16")

DECODING_HELP = f"One of {', '.join(METHODS)}; the preset's by default."
STAND_IN_HELP = (
    f"What is fed for a row's first token while its predecessor is missing: {', '.join(STAND_INS)}."
)


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
        "slide-6 attends to the newest 6 latent frames. "
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
