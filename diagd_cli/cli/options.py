"""Options that several commands share, and how they merge: flag > DIAGD_* variable > preset > default."""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diagd_cli.errors import UsageError
from diagd_cli.schedule.decoding import METHODS, STAND_INS, TOP_P_RULES, Decoding

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from diagd_cli.config import Preset
    from diagd_cli.pipeline import Loaded, Request

MOST_FRAMES = 100_000  # of one clip: an hour and a half; all of its tokens and pixels are held in memory

DTYPES = ("auto", "float32", "bfloat16", "float16")

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
SAMPLES = number(int, "a whole number in 1..1000", 1, 1000)
MASS = number(float, "a number above 0 and at most 1", math.ulp(0.0), 1)

PresetOption = Annotated[str, option("--preset", "-p", help="Name (see: diagd presets) or path of a YAML file.")]
FramesOption = Annotated[int | None, option("--frames", **FRAMES, help="New frames; the preset's number by default.")]
ContextOption = Annotated[
    int | None,
    option("--context", **POSITIVE, help="Context frames; the preset's number by default, 1 for a still image."),
]
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
TopPRuleOption = Annotated[
    str | None,
    option("--top-p-rule", help="nucleus keeps the token that crosses top-p, strict (WHAM's) drops it; the preset's."),
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
        help="What steers each new frame: a JSONL (WHAM: .npz) file, or a list such as 'forward*8,left*4' (the last one "
        "goes on). Without it: the actions recorded beside the clip (CLIP.jsonl), else unsteered."
    ),
]
PromptOption = Annotated[
    str | None, typer.Option(help="Text that steers a video2world preset; without it, the text of CLIP.txt.")
]
PromptFileOption = Annotated[Path | None, typer.Option(help="A text file with the prompt.")]
PromptEmbeddingOption = Annotated[
    Path | None, typer.Option(help="The prompt's T5 embedding (.safetensors), where T5 itself does not fit.")
]
WeightsDirOption = Annotated[
    Path | None, typer.Option("--weights-dir", envvar="DIAGD_WEIGHTS", help="Folder with the preset's weight files.")
]
RandomWeightsOption = Annotated[
    bool, typer.Option("--random-weights", help="Made-up weights of the true size, to measure speed and memory.")
]
DeviceOption = Annotated[str, option("--device", help="auto, cpu, cuda or cuda:N.")]
DtypeOption = Annotated[str, option("--dtype", help="auto, float32, bfloat16 or float16.")]
KvDtypeOption = Annotated[
    str, option("--kv-dtype", help="auto (the model's), float32, bfloat16 or float16 for the key/value cache.")
]
OffloadOption = Annotated[
    str | None,
    option("--offload", help="tokenizer: it waits in main memory while the Transformer decodes on CUDA."),
]
CompileOption = Annotated[
    bool,
    option("--compile", help="torch.compile the Transformer's blocks first: a minute or more. It needs a compiler."),
]
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
        return {name: getattr(self, name) for name in ("temperature", "top_k", "top_p", "top_p_rule")}


def merge(
    preset, frames=None, context=None, decoding=None, k=None, d=None, stand_in=None, repair=True, temperature=None,
    top_p=None, top_p_rule=None, top_k=None, seed=None,
) -> Settings:  # fmt: skip
    """Options given over the preset's defaults, checked against its grid and window. Raises UsageError."""
    defaults, clip = preset.decoding, preset.clip
    one_of(top_p_rule, TOP_P_RULES, "'--top-p-rule'")
    chosen = merge_decoding(defaults, decoding, k, d, stand_in, repair)
    context, frames = context or clip.context, frames or clip.frames
    preset.check_frames(context, frames)
    chosen.resolve(preset.grid, preset.latents(context))
    return Settings(
        decoding=chosen,
        frames=frames,
        context=context,
        seed=secrets.randbelow(2**32) if seed is None else seed,
        temperature=defaults.temperature if temperature is None else temperature,
        top_k=defaults.top_k if top_k is None else top_k,
        top_p=defaults.top_p if top_p is None else top_p,
        top_p_rule=top_p_rule or defaults.top_p_rule,
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
        raise typer.BadParameter(f"{value!r} is not one of {', '.join(known)}", param_hint=hint)


def set_threads(threads: int) -> None:
    """Let torch use this many CPU threads; 0 leaves its choice."""
    if threads:
        import torch

        torch.set_num_threads(threads)


def request(
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


def parse_actions(preset: Preset, text: str | None) -> np.ndarray | None:
    """The rows of tokens that --actions asks for, None for none. Raises UsageError."""
    if text and preset.actions is None:
        raise UsageError(f"The preset {preset.name} takes no actions", "Leave --actions out")
    return preset.actions.parse(text) if text else None


def clip_actions(
    path: Path, preset: Preset, asked: np.ndarray | None, first: int, context: int, frames: int
) -> np.ndarray | None:
    """Rows for context + continuation of a clip, from those asked for and those recorded beside it.

    None when the preset takes none. Raises UsageError.
    """
    from diagd_cli.tokens.actions import steering

    if preset.actions is None:
        return None
    beside = [path.with_suffix(suffix) for suffix in preset.actions.suffixes]
    recorded = next((preset.actions.read(file) for file in beside if file.is_file()), None)
    return steering(asked, recorded, first, context, frames, preset.actions.rest)


def size_of(preset: Preset) -> int:
    """Parameters of a preset's Transformer."""
    from diagd_cli.model.parameters import transformer_parameters

    return transformer_parameters(preset.transformer, preset.positions)


def load_models(
    preset: Preset,
    settings: Settings,
    device: str,
    dtype: str,
    threads: int,
    folder: Path | None,
    random: bool,
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
    from diagd_cli.engine.device import choose_device, choose_dtype
    from diagd_cli.engine.memory import require
    from diagd_cli.pipeline import load

    set_threads(threads)
    where = choose_device(device)
    kind = choose_dtype(dtype, where, size_of(preset))
    kv = kind if kv_dtype == "auto" else choose_dtype(kv_dtype, where)
    frames = settings.context + settings.frames
    require(preset, where, batch=batch, dtype=kind, kv_dtype=kv, frames=frames, offload=offload, beside=beside)
    return load(preset, where, kind, folder=folder, random=settings.seed if random else None, compile=compile)
