"""What the formats share: comparing a file with the preset, and handing its tensors out, each while
it is in use.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from diagd_cli.checkpoints.archive import Stored
from diagd_cli.checkpoints.unpickle import FETCH
from diagd_cli.errors import WeightsError
from diagd_cli.model.config import TransformerConfig
from diagd_cli.model.eight_bits import Scaled

Shape = tuple[int, ...]
# our parameter -> names and shapes in the file of what makes its rows
Layout = dict[str, dict[str, Shape]]
# our parameter, the tensors that make its rows, one under the other
Rows = Iterator[tuple[str, list[Tensor | Scaled]]]


def require(family: str, config: TransformerConfig, settings: Mapping[str, Any]) -> None:
    """Raise WeightsError where the preset's Transformer is none that a family's files can fill."""
    for name, value in settings.items():
        if (given := attrgetter(name)(config)) != value:
            raise WeightsError(
                f"No {family} file fits transformer.{name}: {given}", f"It must be {value}"
            )


def compare(
    label: object,
    role: str,
    seen: Mapping[str, Any],
    wanted: Mapping[str, Any],
    official: Mapping[str, Mapping[str, Any]],
    otherwise: str = "",
) -> None:
    """Raise WeightsError where the sizes that a file reveals are not the preset's; the hint names a
    preset that it fits.

    official: sizes by preset; a size that is not among them is any.
    otherwise: the hint where none fits.
    """
    wrong = [
        f"{k} is {seen[k]} in the file, {wanted[k]} in the preset"
        for k in seen
        if seen[k] != wanted[k]
    ]
    if wrong:
        fits = [
            name
            for name, sizes in official.items()
            if all(sizes.get(k, v) == v for k, v in seen.items())
        ]
        hint = f"It fits the preset {' or '.join(fits)}" if fits else otherwise
        hint = hint or f"Correct them under {role} in the preset"
        raise WeightsError(
            f"{label} holds another {role} than the preset's: {'; '.join(wrong)}", hint
        )


def matrix(label: object, found: Mapping[str, Stored], name: str, hint: str) -> tuple[int, int]:
    """Rows and columns of a matrix. Raises WeightsError where there is none of that name."""
    shape = found[name].shape if name in found else ()
    if len(shape) != 2:
        raise WeightsError(f"{label} lacks the matrix {name}", hint)
    return shape


def match(
    label: object, found: Mapping[str, Stored], expected: Mapping[str, Shape], hint: str
) -> None:
    """Raise WeightsError unless names and shapes are exactly the expected ones, and the tensors
    hold real numbers.
    """
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or extra:
        what = (
            f"lacks {missing[0]}"
            if missing
            else f"holds {extra[0]}, which the preset's model has not"
        )
        others = len(missing) + len(extra) - 1
        raise WeightsError(
            f"{label} {what}" + (f", and {others} more names differ" if others else ""), hint
        )
    for name, shape in expected.items():
        if found[name].shape != shape:
            message = f"{label}: {name} is {found[name].shape}, the preset needs {shape}"
            raise WeightsError(message, "Check the preset's sizes")
        if not found[name].dtype.is_floating_point:
            raise WeightsError(f"{label}: {name} is {found[name].dtype}, not floating-point", FETCH)


def flat(layout: Layout) -> dict[str, Shape]:
    """Names and shapes in the file of all that a layout needs."""
    return {name: shape for parts in layout.values() for name, shape in parts.items()}


def gather(layout: Layout, found: Mapping[str, Stored]) -> dict[str, list[Stored]]:
    """Our parameters -> what makes their rows."""
    return {ours: [found[name] for name in parts] for ours, parts in layout.items()}


def resized(table: Stored, count: int) -> list[Stored]:
    """The first `count` rows of a table, zeros where it ends."""
    more = count - table.shape[0]
    if more <= 0:
        return [table.rows(0, count)]
    shape = (more, *table.shape[1:])
    return [table, Stored(shape, table.dtype, lambda: torch.zeros(shape))]


def tied(
    label: object,
    head: Stored,
    embedding: Stored,
    parts: Iterable[tuple[str, list[Stored]]],
    told: str = "transformer.tied",
    hint: str = "Set tied: false in the preset",
) -> Rows:
    """The parts, once the output layer has been seen to be the embedding. Raises WeightsError where
    it is not, with a hint; `told`: what says that it is.
    """
    if not torch.equal(head.load(), embedding.load()):
        raise WeightsError(f"{label}: its output layer is not the embedding, as {told} says", hint)
    head.release()
    yield from rows(parts)


def rows(parts: Iterable[tuple[str, list[Stored]]]) -> Rows:
    """Map each parameter's tensors while they are in use, and give their memory back."""
    for name, pieces in parts:
        yield name, [piece.read() for piece in pieces]
        for piece in pieces:
            piece.release()
