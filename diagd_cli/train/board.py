"""Figures for TensorBoard, where it is installed (extra: train)."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def installed() -> bool:
    """Whether figures can be written for TensorBoard."""
    return importlib.util.find_spec("tensorboard") is not None


class Board:
    """Scalars in event files of a folder. What an earlier writer has there of steps from `first` on is void."""

    def __init__(self, folder: Path, first: int):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=first)

    def add(self, step: int, figures: dict) -> None:
        """Write numbers by name; of a list, each number as NAME/INDEX. All is on disk when this returns."""
        for name, value in figures.items():
            several = isinstance(value, (list, tuple))
            for tag, number in [(f"{name}/{n}", v) for n, v in enumerate(value)] if several else [(name, value)]:
                self._writer.add_scalar(tag, number, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
