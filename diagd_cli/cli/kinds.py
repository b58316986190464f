"""What options are made of: numbers within bounds, files, names that are known."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import typer

from diagd_cli.errors import did_you_mean
from diagd_cli.schedule.decoding import WINDOWS, window_of

SLASHES = ("/", os.sep)  # at the end of a folder's name


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


def check_window_word(word: str, hint: str) -> None:
    """Raise typer.BadParameter for a word that tells of no window."""
    if not window_of(word):
        one_of(word, WINDOWS, hint)
