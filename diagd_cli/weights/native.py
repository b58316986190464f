"""Our own weights: safetensors by the names of our modules."""

from __future__ import annotations

from pathlib import Path

from diagd_cli.weights.archive import read_weights
from diagd_cli.weights.match import Rows, Shape, match, rows


def native_tensors(path: Path, expected: dict[str, Shape]) -> Rows:
    """(Name, [the tensor]) of every parameter. Raises WeightsError unless names and shapes are the expected ones."""
    found = read_weights(path)
    match(path, found, expected, "The file belongs to another model or preset")
    return rows((name, [found[name]]) for name in expected)
