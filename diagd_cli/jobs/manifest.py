"""Clips as the rows of a file: each with actions, a prompt, a seed, a length and an output of its
own.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from diagd_cli.errors import MissingExtra, UsageError, did_you_mean
from diagd_cli.files.remote import local
from diagd_cli.files.url import Place, Url, address, below, masked, place
from diagd_cli.jobs.settings import MOST_FRAMES
from diagd_cli.jobs.targets import Row, is_folder, row_key
from diagd_cli.tokens.actions import ACTION_FILES

KINDS = (".jsonl", ".csv", ".parquet")
Text = Annotated[str, StringConstraints(pattern=r"^[^\x00]+$")]  # which no path may hold


class Columns(BaseModel):
    """A row as it is written: paths are relative to the manifest, and None is what is not given."""

    model_config = ConfigDict(extra="forbid")

    clip: Text
    actions: Text | None = None
    prompt: Text | None = None
    seed: Annotated[int, Field(ge=0, lt=2**64)] | None = None
    frames: Annotated[int, Field(ge=1, le=MOST_FRAMES)] | None = None
    output: Text | None = None


NAMES = tuple(Columns.model_fields)


def read_manifest(path: Place, output: str | Place | None, suffix: str) -> list[Row]:
    """The rows of a .jsonl, .csv or .parquet file, checked, with paths that lead there from here.

    output: the folder of the outputs; None is that of the manifest, and each row names its own.
    suffix: what an output must end in.

    Raises UsageError for a file that cannot be read, another column, and a value that cannot be;
    MissingExtra for Parquet without pyarrow.
    """
    folder = path.parent if output is None else place(output)
    if output is not None and not is_folder(output):
        raise UsageError(f"-o {folder} is one file for the rows of {path}", "Name a folder")
    with local(path, failure=UsageError) as here:
        rows = [
            _row(path, where, values, None if output is None else folder, suffix)
            for where, values in _values(here, path.suffix.lower())
        ]
    if not rows:
        raise UsageError(f"{path} holds no row", "Write one clip a row")
    return rows


def _row(path: Place, where: str, values: dict[str, Any], output: Place | None, suffix: str) -> Row:
    given = {name: value for name, value in values.items() if value not in (None, "")}
    try:
        told = Columns.model_validate(given)
    except ValidationError as error:
        raise _refused(f"{path}, {where}", error.errors()[0]) from None
    if output is None and told.output is None:
        raise UsageError(f"{path}, {where}: no output", "Give -o FOLDER, or a column of outputs")
    folder, at = path.parent if output is None else output, f"{path}, {where}"
    with _naming(at):
        target = below(folder, told.output) if told.output else None
        clip = below(path.parent, told.clip)
        actions = _actions(path.parent, told.actions)
    if target and target.suffix.lower() != suffix:
        raise UsageError(
            f"{path}, {where}: the output {masked(told.output or '')} does not end in {suffix}",
            f"Name an {suffix} file",
        )
    return Row(
        clip, actions, told.prompt, told.seed, told.frames, target, row_key(told.model_dump())
    )


def _actions(folder: Place, text: str | None) -> str | None:
    """A row's actions, where they are a file's name with what leads there."""
    if not text:
        return text
    beside = below(folder, text)
    there = not isinstance(beside, Url) and os.path.isfile(beside)
    return address(beside) if text.endswith(ACTION_FILES) or there else text


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """What is wrong with a value tells the row that it is in."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{where}: {error.message}", error.hint) from None


def _refused(where: str, problem: Any) -> UsageError:
    """What pydantic says of a row, in our words."""
    name, allowed = str(problem["loc"][0]), f"Columns are {', '.join(NAMES)}"
    if problem["type"] == "extra_forbidden":
        hint = f"{did_you_mean(name, NAMES)} {allowed}".strip()
        return UsageError(f"{where}: unknown column {name!r}", hint)
    if problem["type"] == "missing":
        return UsageError(f"{where}: no {name}", allowed)
    reason = problem["msg"][0].lower() + problem["msg"][1:]
    seen = problem["input"]
    value = masked(seen) if isinstance(seen, str) else seen
    return UsageError(f"{where}: {name} is {value!r}: {reason}", "Correct it there")


def _values(path: Path, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each row is, in words, and its values by column. Raises UsageError, MissingExtra."""
    readers = {".jsonl": _json_lines, ".csv": _csv, ".parquet": _parquet}
    if kind not in KINDS:
        raise UsageError(f"The manifest {path} is no {', '.join(KINDS)} file", "Name one")
    try:
        yield from readers[kind](path)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UsageError(f"The manifest {path} cannot be read: {reason}", "Check it") from None


def _json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                values = json.loads(line)
            except (ValueError, RecursionError):
                values = None
            if not isinstance(values, dict):
                raise UsageError(
                    f"{path}, line {number}: not a JSON object", 'Write lines of {"clip": "a.mp4"}'
                )
            yield f"line {number}", values


def _csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        try:
            for values in reader:
                if None in values:  # what is left over
                    raise UsageError(
                        f"{path}, line {reader.line_num}: more values than columns",
                        "Put text with commas in quotes",
                    )
                yield f"line {reader.line_num}", values
        except csv.Error as error:
            raise UsageError(
                f"{path}, line {reader.line_num}: {error}", "Correct it there"
            ) from None


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra("pyarrow", "parquet", f"Reading {path}") from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for name in file.schema_arrow.names:  # before the whole is read
                if name not in NAMES:
                    raise _refused(str(path), {"loc": (name,), "type": "extra_forbidden"})
            number = 0
            for batch in file.iter_batches():
                for values in batch.to_pylist():
                    number += 1
                    yield f"row {number}", values
    except pyarrow.ArrowException as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UsageError(f"{path} is not a Parquet file: {reason}", "Write it anew") from None
