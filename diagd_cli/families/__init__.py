"""The model families: each folder here holds one, as the record FAMILY. Nothing else in diagd names
any of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from diagd_cli.errors import did_you_mean
from diagd_cli.families.family import OWN_FORMAT, Checkpoint, Family, TokenizerKind, kind_of

__all__ = [
    "OWN_FORMAT",
    "Checkpoint",
    "Family",
    "TokenizerKind",
    "actions_kind",
    "checkpoint_format",
    "format_of",
    "formats",
    "known",
    "recordings",
    "register",
    "registered",
    "tokenizer_kind",
]

_FOLDERS = sorted(
    module.name for module in iter_modules([str(Path(__file__).parent)]) if module.ispkg
)
_shipped: tuple[Family, ...] = tuple(
    import_module(f"{__name__}.{name}").FAMILY for name in _FOLDERS
)
_more: list[Family] = []  # those of others


def known() -> list[Family]:
    """Every family: the shipped ones, and those that were registered."""
    return [*_shipped, *_more]


def register(family: Family) -> None:
    """Make a family of one's own known to presets. Raises ValueError where its name, or a kind of
    it, is taken.
    """
    for other in known():
        if family.name == other.name or _kinds(family) & _kinds(other):
            raise ValueError(
                f"there is a family {other.name} already, which has the kinds "
                f"{sorted(_kinds(other))}"
            )
    _more.append(family)


@contextmanager
def registered(family: Family) -> Iterator[None]:
    """A family that is known within the block."""
    register(family)
    try:
        yield
    finally:
        _more.remove(family)


def _kinds(family: Family) -> set[str]:
    records = (family.tokenizer and family.tokenizer.config, family.actions)
    return {kind_of(record) for record in records if record}


def tokenizer_kind(kind: str) -> TokenizerKind:
    """The tokenizer of a kind. Raises ValueError for one that there is not, in words for the reader
    of a preset.
    """
    return _choose({own.kind: own for family in known() if (own := family.tokenizer)}, kind)


def actions_kind(kind: str) -> type[Any]:
    """The record of a kind of actions. Raises ValueError, as in `tokenizer_kind`."""
    return _choose(
        {kind_of(own): own for family in known() if (own := family.actions)},
        kind,
    )


def checkpoint_format(form: str) -> Checkpoint:
    """How official weight files of a format are read. Raises ValueError, as in `tokenizer_kind`."""
    return _choose({family.name: own for family in known() if (own := family.checkpoint)}, form)


def format_of(kind: str) -> str:
    """The format of weight files beside a tokenizer of a kind, where no preset says it."""
    return next((f.format for f in known() if f.tokenizer and f.tokenizer.kind == kind), OWN_FORMAT)


def formats(offsets: bool = False) -> list[str]:
    """Every format of weight files; or those whose codes may lie anywhere in the vocabulary."""
    official = {family.name: own for family in known() if (own := family.checkpoint)}
    return (
        [name for name, own in official.items() if own.offsets]
        if offsets
        else [OWN_FORMAT, *official]
    )


def recordings() -> dict[str, Any]:
    """Readers of clips that are no videos, by suffix."""
    return {suffix: read for family in known() for suffix, read in family.recordings.items()}


def _choose(found: dict[str, Any], name: object) -> Any:
    if name not in found:
        hint = did_you_mean(str(name), list(found), f"use {' or '.join(found)}")
        raise ValueError(f"there is no {name!r}: {hint[0].lower()}{hint[1:]}")
    return found[name]
