"""Settings that no shape tells: with another norm_eps, rotary base or number of heads the same
weights load, and are not the same model. They are compared with what the weights say of themselves,
as those do that diagd has trained; else with the shipped presets of the same family, whose settings
are the official ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from diagd_cli import families
from diagd_cli.model.config import TransformerConfig
from diagd_cli.model.transformer import Transformer
from diagd_cli.model.unset import Unset
from diagd_cli.preset import Preset
from diagd_cli.preset_files import is_shipped, load_preset, preset_names
from diagd_cli.weights.locate import Role

KEY = "diagd"  # of the entry in a file's metadata: the settings, as JSON
# by name, as a preset's YAML has them; what is within `positions` by a dotted name
Settings = dict[str, Any]


def settings_of(preset: Preset, role: Role) -> Settings:
    """Everything in a preset that its weights were trained with and the model cannot do without."""
    if role == "inverse":
        return {}
    config = getattr(preset, role)
    kind = families.tokenizer_kind(preset.tokenizer.kind)
    told = flattened(
        role, kind.settings(config) if role == "tokenizer" else config.model_dump(mode="json")
    )
    if role == "transformer":
        told["transformer.outputs"] = config.logits
        if config.positions.kind == "learned":
            del told["transformer.positions.base"], told["transformer.positions.yarn"]
        told["prefix"] = list(preset.prefix)
        if preset.actions and not preset.actions.names:  # which are everybody's own
            told |= flattened("actions", preset.actions.model_dump(mode="json"))
    return told


def flattened(name: str, value: dict[str, Any]) -> Settings:
    """A record's settings by dotted names; `positions` is taken apart, what is set as a whole is
    not.
    """
    found: Settings = {}
    for key, part in value.items():
        found |= flattened(f"{name}.{key}", part) if key == "positions" else {f"{name}.{key}": part}
    return found


def metadata(preset: Preset, role: Role) -> dict[str, str]:
    """What weights are to say of themselves, as safetensors holds it."""
    return {KEY: json.dumps(settings_of(preset, role))}


def saying(paths: list[Path]) -> dict[str, str] | None:
    """The same of a file that says it, to be passed on; None for what says nothing."""
    try:
        with safe_open(paths[0], "pt") as file:
            text = (file.metadata() or {}).get(KEY)
    except (OSError, SafetensorError):  # it is of another format
        return None
    return None if text is None else {KEY: text}


def told_by(paths: list[Path]) -> Settings:
    """What weights say of themselves; nothing where that is nothing, or cannot be read."""
    try:
        told = json.loads((saying(paths) or {KEY: "{}"})[KEY])
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def deviations(preset: Preset, role: Role, paths: list[Path]) -> list[str]:
    """A line for each setting that is probably wrong, and why; none for shipped presets. The files
    have been checked.
    """
    if is_shipped(preset):
        return []
    if role == "prompt":
        return []
    own = settings_of(preset, role)
    if told := told_by(paths):
        wrong = [name for name in own if name in told and told[name] != own[name]]
        return [
            f"{name} is {plain(own[name])}; the weights were trained with {plain(told[name])}"
            for name in wrong
        ]
    lines = []
    for name, values in unlike(preset, role, own):
        known = " or ".join(dict.fromkeys(map(plain, values)))
        lines.append(
            f"{name} is {plain(own[name])}; no file tells it, and the shipped presets of its "
            f"family have {known}"
        )
    return lines


def unlike(preset: Preset, role: Role, own: Settings) -> Iterator[tuple[str, list]]:
    """Settings that no shape tells and that no shipped preset of the family has, with the values
    that those have.

    Those with weights of the same shapes are the family, where there are any. Otherwise, for
    weights that are not of diagd's own making, it is all of the same format; and a setting counts
    if a shipped value would change no shape.
    """
    relatives = [other for other in shipped() if family(other, role) == family(preset, role)]
    others = [settings_of(other, role) for other in relatives]
    if not others or own in others:
        return
    config = getattr(preset, role)
    twins = [
        o
        for o, other in zip(others, relatives, strict=True)
        if shapes(getattr(other, role)) == shapes(config)
    ]
    entry = getattr(preset, f"{role}_weights")
    if not twins and (entry.format if entry else family(preset, role)) == families.OWN_FORMAT:
        return
    for name in own:
        values = [other.get(name) for other in twins or others]
        if own[name] not in values and (
            twins or any(untold(config, name, value) for value in values)
        ):
            yield name, values


def family(preset: Preset, role: Role) -> str:
    """Whose settings are a preset's official ones: the format of its weights, or for diagd's own
    that of its tokenizer.
    """
    entry = getattr(preset, f"{role}_weights")
    return (
        entry.format
        if entry and entry.format != families.OWN_FORMAT
        else families.format_of(preset.tokenizer.kind)
    )


@cache
def shipped() -> list[Preset]:
    """The shipped presets."""
    return [load_preset(name) for name in preset_names()]


def untold(config: Any, name: str, value: object) -> bool:
    """Whether a model with another value of a setting has parameters of the same names and shapes;
    `config` as in `shapes`.
    """
    given = config.model_dump()
    place, *within = name.split(".")[1:] or [""]
    if place not in given:
        return True  # not the model's: a prefix, actions
    if within:
        given[place][within[0]] = value
    # which changes none in a product that is equal
    elif name == "transformer.head_dim" and isinstance(value, int):
        given |= {
            "head_dim": value,
            **{n: given[n] * config.head_dim // value for n in ("heads", "kv_heads")},
        }
    else:
        given[place] = value
    try:
        return shapes(type(config).model_validate(given)) == shapes(config)
    except (ValueError, RuntimeError):  # there is no such model
        return False


@cache
def shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a model's parameters; of a Transformer those of one layer, and how many
    there are.

    config: a `TransformerConfig`, or a tokenizer's record (`tokens.protocols.TokenizerConfig`).
    """
    with Unset("meta"):
        if not isinstance(config, TransformerConfig):
            model = families.tokenizer_kind(config.kind).build(config)
        else:
            model = Transformer(
                config.model_copy(update={"layers": 1}), torch.zeros(2, 3, dtype=torch.int64)
            )
    found = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return found | {"layers": (config.layers,)} if isinstance(config, TransformerConfig) else found


def plain(value: object) -> str:
    """A value as a preset's YAML may have it."""
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)
