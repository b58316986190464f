"""`config.json`, as the `transformers` library writes it, and the `TransformerConfig` that it is.

What diagd's Transformer cannot do is refused by name: a setting that is passed over would be
another model. Torch-free. The file may be a stranger's.
"""

from __future__ import annotations

import json
import math
import reprlib
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from diagd_cli.errors import WeightsError, one_line
from diagd_cli.families.huggingface.rope import (
    BOUND,
    NEEDED,
    Length,
    Rope,
    frequencies,
    magnitude,
)
from diagd_cli.files.bounded import read_bounded
from diagd_cli.model.config import Codes, Depth, Heads, Positions, TransformerConfig, Width

KINDS = ("llama", "mistral", "qwen2", "qwen3")
# models that are one of these: Emu3's is a Llama, alone or within one that has a tokenizer, too
ALIASES = {"emu3_text_model": "llama", "Emu3": "llama"}
CLASSES = {"SimpARForCausalLM": "qwen2"}  # whose name is all that is known of the model_type
WITHIN = {"emu3": "text_config"}
LARGEST_FILE = 1 << 24  # bytes; the index of the largest models has a hundredth
# what `transformers` takes where a file does not say
HEAD_DIM, SLIDING_WINDOW = {"qwen3": 128}, {"mistral": 4096}


class Settings(BaseModel):
    """What counts in a `config.json`; what else it holds is of training, or of text."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False, strict=True)

    model_type: str
    vocab_size: Codes
    hidden_size: Width
    intermediate_size: int = Field(gt=0, le=1 << 20)
    num_hidden_layers: Depth
    num_attention_heads: Heads
    num_key_value_heads: Heads | None = None
    head_dim: int | None = Field(default=None, gt=0, le=1024)
    hidden_act: str = "silu"
    rms_norm_eps: float = Field(ge=0)
    max_position_embeddings: Length
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    use_sliding_window: bool = False
    sliding_window: int | None = Field(default=None, gt=0)
    layer_types: list[str] | None = None
    rope: Rope

    @property
    def width(self) -> int:
        """Channels of a head."""
        by_heads = self.hidden_size // self.num_attention_heads
        return self.head_dim or HEAD_DIM.get(self.model_type, by_heads)

    @property
    def sees(self) -> tuple[int, str]:
        """The longest sequence of which all is seen, by the angles that it was trained with, and
        the setting that says so; 0 for one without end.
        """
        limits = []
        windowed = self.model_type == "mistral" or self.use_sliding_window
        if windowed and self.sliding_window and self.model_type != "llama":
            limits.append((self.sliding_window, "sliding_window"))
        if (kind := self.rope.rope_type) in BOUND:
            limits.append((self.rope.original_max_position_embeddings, f"rope_type {kind}"))
        return min(limits, default=(0, ""))


def read_settings(path: Path) -> Settings:
    """The settings of a `config.json`. Raises WeightsError for a file that cannot be read, another
    kind of model, and settings that diagd has not.
    """
    raw = read_json(path)
    kind = raw.get("model_type")
    if isinstance(kind, str) and isinstance(inner := raw.get(WITHIN.get(kind, "")), dict):
        raw = {"model_type": "emu3_text_model", **inner}
        kind = raw["model_type"]
    kind = ALIASES.get(kind, kind) if isinstance(kind, str) else kind
    if kind not in KINDS and isinstance(named := raw.get("architectures"), list):
        kind = next((CLASSES[one] for one in map(str, named) if one in CLASSES), kind)
    raw = {**raw, "model_type": kind}
    if kind not in KINDS:
        named = (
            f"a model of type {reprlib.repr(kind)}" if isinstance(kind, str) else "no model_type"
        )
        raise WeightsError(f"{path}: {named}", f"diagd reads {', '.join(KINDS)}")
    _refuse(path, raw)
    given = {**raw, "rope": _rope(path, raw)}
    if "sliding_window" not in raw and kind in SLIDING_WINDOW:
        given["sliding_window"] = SLIDING_WINDOW[kind]
    if raw.get("num_key_value_heads") is None and kind == "llama":
        given["num_key_value_heads"] = raw.get("num_attention_heads")
    elif "num_key_value_heads" not in raw:
        raise WeightsError(f"{path} lacks num_key_value_heads", "Write the number into it")
    try:
        # absent and null are the same, but where null says something
        return Settings.model_validate({k: v for k, v in given.items() if v is not None})
    except ValidationError as error:
        raise WeightsError(f"{path}: {_problem(error)}", "Is it the file of this model?") from None


def _refuse(path: Path, raw: dict[str, Any]) -> None:
    """Raise WeightsError for what would make it another model than diagd's."""
    wrong = ""
    if raw.get("quantization_config") is not None:
        wrong = "its weights are quantised (quantization_config)"
    elif raw.get("hidden_act", "silu") not in ("silu", "swish"):
        wrong = f"hidden_act is {reprlib.repr(raw['hidden_act'])}, and must be 'silu'"
    elif isinstance(kinds := raw.get("layer_types"), list) and (
        unknown := [k for k in kinds if k not in ("full_attention", "sliding_attention")]
    ):
        wrong = f"layer_types holds {reprlib.repr(unknown[0])}"
    if wrong:
        raise WeightsError(f"{path}: {wrong}", "diagd has no such model")


def _rope(path: Path, raw: dict[str, Any]) -> dict[str, Any]:
    """The rotary settings, wherever a version of the library has put them: the newest place wins,
    but rope_scaling over all, as there. Raises WeightsError.
    """
    told = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    if not isinstance(told, dict):
        raise WeightsError(f"{path}: rope_scaling is no mapping", "Is it the file of this model?")
    told = {name: value for name, value in told.items() if value is not None}
    kind = told.setdefault("rope_type", told.pop("type", "default"))
    told.pop("type", None)
    if not isinstance(kind, str) or kind not in NEEDED:
        hint = f"diagd has {', '.join(NEEDED)}"
        raise WeightsError(f"{path}: rope_type is {reprlib.repr(kind)}", hint)
    part = told.pop("partial_rotary_factor", raw.get("partial_rotary_factor"))
    if part not in (None, 1, 1.0):
        hint = "diagd rotates all channels of a head"
        raise WeightsError(f"{path}: partial_rotary_factor is {reprlib.repr(part)}", hint)
    if (base := raw.get("rope_theta")) is not None:
        told.setdefault("rope_theta", base)
    own = raw.get("original_max_position_embeddings")
    told.setdefault("original_max_position_embeddings", raw.get("max_position_embeddings"))
    if own is not None and kind in ("llama3", "yarn", "longrope"):
        told["original_max_position_embeddings"] = own
    elif kind in ("default", "linear", "dynamic"):
        told["original_max_position_embeddings"] = raw.get("max_position_embeddings")
    try:
        rope = Rope.model_validate(told)
        lacking = rope.missing()
    except ValidationError as error:
        hint = f"rope_type is {kind}"
        raise WeightsError(f"{path}: rope: {_problem(error)}", hint) from None
    if lacking:
        raise WeightsError(f"{path}: rope_type {kind} lacks {lacking[0]}", "Write it there")
    return told


def transformer_config(path: Path, settings: Settings, outputs: int) -> TransformerConfig:
    """The Transformer that settings describe, whose output layer has `outputs` rows: where these
    are not all, it is not tied, but a copy of them. `path`: of the file, for messages. Raises
    WeightsError.
    """
    rope, width = settings.rope, settings.width
    tied = settings.tie_word_embeddings and outputs == settings.vocab_size
    kv_heads = settings.num_key_value_heads or settings.num_attention_heads
    if (given := len(rope.short_factor or ())) and 2 * given != width:
        told = f"short_factor has {given} numbers, and a head {width} channels"
        raise WeightsError(f"{path}: {told}", "There must be one for every two")
    scale = magnitude(rope, settings.max_position_embeddings) ** 2
    try:
        own = () if rope.rope_type in ("default", "dynamic") else _told(rope, width)
        return TransformerConfig(
            vocab=settings.vocab_size,
            outputs=0 if tied else outputs,
            dim=settings.hidden_size,
            layers=settings.num_hidden_layers,
            heads=settings.num_attention_heads,
            kv_heads=kv_heads,
            head_dim=width,
            mlp_dim=settings.intermediate_size,
            norm_eps=settings.rms_norm_eps,
            qk_norm=settings.model_type == "qwen3",
            bias=_bias(settings),
            tied=tied,
            # queries and keys are both as much longer, all of their channels being rotated
            attention_scale=0.0 if scale == 1 else scale / math.sqrt(width),
            positions=Positions(base=rope.rope_theta, frequencies=own),
        )
    except ValidationError as error:
        raise WeightsError(f"{path}: {_problem(error)}", "Is it the file of this model?") from None


def _told(rope: Rope, width: int) -> tuple[float, ...]:
    """Frequencies with as few digits as tell the float32."""
    with np.errstate(all="ignore"):  # what is not finite is refused
        return tuple(float(str(one)) for one in frequencies(rope, width))


def _bias(settings: Settings) -> Any:
    """Which linear layers have one: a value of `TransformerConfig.bias`."""
    if settings.model_type in ("mistral", "qwen2"):
        return "qkv" if settings.model_type == "qwen2" else False
    mlp = settings.mlp_bias and settings.model_type == "llama"
    attention = settings.attention_bias
    return True if attention and mlp else "attention" if attention else "mlp" if mlp else False


def require_reach(path: Path, settings: Settings, length: int) -> None:
    """Raise WeightsError where a sequence of `length` tokens is too long to be computed as the
    model would.
    """
    reach, why = settings.sees
    if reach and length > reach:
        hint = f"Lower clip.window: {why} is not supported beyond {reach}"
        raise WeightsError(f"{path}: {why} reaches {reach} tokens, the window {length}", hint)


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds. Raises WeightsError for anything else."""
    hint = "Give the folder of a model"
    try:
        text = read_bounded(path, LARGEST_FILE)
    except ValueError as error:
        raise WeightsError(f"{path} cannot be read: {error}", hint) from None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} cannot be read: no JSON ({one_line(error)})", hint) from None
    if not isinstance(found, dict):
        raise WeightsError(f"{path} is no object of JSON", hint)
    return found


def _problem(error: ValidationError) -> str:
    """The first problem, in words."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return f"lacks {where}"
    if first["type"] == "extra_forbidden":
        return f"{where[:60]} is not known"
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
