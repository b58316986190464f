"""Numbers of 8 bits: int8 or float8, each row of a matrix and each token with a scale of its own.

A scale is the row's largest absolute value over the largest number that the format has. What a
token is rounded to depends on that token alone, never on those beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Format:
    """How numbers are held.

    dtype: torch's.
    largest: the greatest number that is used.
    """

    dtype: torch.dtype
    largest: float


FORMATS = {
    "int8": Format(torch.int8, 127.0),
    "fp8": Format(torch.float8_e4m3fn, torch.finfo(torch.float8_e4m3fn).max),
}
BY_DTYPE = {form.dtype: form for form in FORMATS.values()}
TINY = torch.finfo(torch.float32).tiny  # a row of zeros has a scale all the same
ROWS = 1 << 20  # numbers of a matrix that are in float32 at a time


class Scaled(NamedTuple):
    """A matrix of 8 bits.

    values: int8 or float8 [rows, columns].
    scale: float32 [rows, 1], what each row is to be multiplied by.
    """

    values: Tensor
    scale: Tensor

    def __len__(self) -> int:
        """Its rows, which is what makes the rows of a larger matrix."""
        return len(self.values)


def scales(x: Tensor, form: Format) -> Tensor:
    """The scale of each row, float32 [..., 1], of float x [..., columns]."""
    # the same as the norm of order infinity, which takes eight times as long
    most = x.abs().amax(-1, keepdim=True).float()
    return most.clamp_(min=TINY * form.largest).div_(form.largest)


def quantise(x: Tensor, form: Format) -> Scaled:
    """Float x [..., columns] in 8 bits: off by half a scale at most as int8, by 1/16 as float8."""
    scale = scales(x, form)
    values = x.float() / scale
    if form.dtype == torch.int8:
        values = values.round_()
    return Scaled(values.clamp_(-form.largest, form.largest).to(form.dtype), scale)


def fill(values: Tensor, scale: Tensor, rows: Tensor | Scaled) -> None:
    """Put a matrix into memory that is there, its numbers in `values`' format.

    values: int8 or float8 [rows, columns]; scale: float32 [rows, 1]. Both are overwritten.
    rows: float [rows, columns]; or already of 8 bits, and of the same format copied as they are.
    """
    form = BY_DTYPE[values.dtype]
    if isinstance(rows, Scaled) and rows.values.dtype == form.dtype:
        values.copy_(rows.values)
        scale.copy_(rows.scale)
        return
    for part in blocks(values):
        made = quantise(whole(rows, part).to(values.device), form)
        values[part].copy_(made.values)
        scale[part].copy_(made.scale)


def whole(rows: Tensor | Scaled, part: slice) -> Tensor:
    """Some rows as floats."""
    if isinstance(rows, Scaled):
        return rows.values[part].to(rows.scale.dtype) * rows.scale[part]
    return rows[part]


def blocks(matrix: Tensor) -> list[slice]:
    """The rows of a matrix [rows, columns], a few at a time."""
    rows = max(1, ROWS // matrix.shape[1])
    return [slice(start, start + rows) for start in range(0, len(matrix), rows)]
