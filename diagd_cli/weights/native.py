"""Our own weights: safetensors by the names of our modules. Matrices may be stored in 8 bits, each
row with its scale.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from diagd_cli.checkpoints.archive import Stored, read_weights
from diagd_cli.checkpoints.match import Rows, Shape, match, rows
from diagd_cli.checkpoints.unpickle import FETCH
from diagd_cli.errors import WeightsError
from diagd_cli.model.eight_bits import FORMATS, quantise

# name.scale, float32 [rows, 1]: what the int8 tensor `name` [rows, columns] is to be multiplied by
SCALE = ".scale"


def native_tensors(path: Path, expected: dict[str, Shape]) -> Rows:
    """(Name, [the tensor]) of every parameter. Raises WeightsError unless names and shapes are the
    expected ones.
    """
    found = read_weights(path)
    packed = {name for name, shape in expected.items() if len(shape) == 2 and name + SCALE in found}
    for name in packed:
        found[name] = _unpacked(path, found.get(name), found.pop(name + SCALE))
    match(path, found, expected, "The file belongs to another model or preset")
    return rows((name, [found[name]]) for name in expected)


def _unpacked(path: Path, stored: Stored | None, scale: Stored) -> Stored:
    """A matrix with the scales of its rows. Raises WeightsError."""
    if (
        stored is None
        or stored.dtype != torch.int8
        or len(stored.shape) != 2
        or scale.shape != (stored.shape[0], 1)
        or not scale.dtype.is_floating_point
    ):
        raise WeightsError(f"{path} holds a scale that belongs to no matrix in 8 bits", FETCH)

    def release() -> None:
        stored.release()
        scale.release()

    return Stored(stored.shape, scale.dtype, stored.load, release, scale.load)


def in_8_bits(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights with every matrix as int8 and a float32 scale a row, largest absolute value
    / 127; vectors are kept.

    An element is off by half a scale at most.
    """
    stored = {}
    for name, value in weights.items():
        if value.ndim != 2 or not value.is_floating_point():
            stored[name] = value
            continue
        stored[name], stored[name + SCALE] = quantise(value, FORMATS["int8"])
    return stored
