"""Figures for TensorBoard, where it is installed (extra: train)."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event


def installed() -> bool:
    """Whether figures can be written for TensorBoard."""
    return importlib.util.find_spec("tensorboard") is not None


class Board:
    """Scalars in an event file of a folder. What an earlier one has there of steps from `first` on
    is void.

    What cannot be written, on a full disk for example, is left out, and that is said once:
    log.jsonl is the record of a run. TensorBoard's own writer has a thread, whose failures are
    beyond reach: its records are written here.
    """

    def __init__(self, folder: Path, first: int):
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        self._folder, self._file = folder, None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
            self._file = (folder / name).open("wb")
        except OSError as error:
            self._give_up(error)
        start = SessionLog(status=SessionLog.START)
        self._write(
            Event(step=first, file_version="brain.Event:2"), Event(step=first, session_log=start)
        )

    def add(self, step: int, figures: dict) -> None:
        """Write numbers by name; of a list, each number as NAME/INDEX. All is on disk when this
        returns.
        """
        from tensorboard.compat.proto.event_pb2 import Event
        from torch.utils.tensorboard.summary import scalar

        events = []
        for name, value in figures.items():
            several = isinstance(value, (list, tuple))
            for tag, number in (
                [(f"{name}/{n}", v) for n, v in enumerate(value)] if several else [(name, value)]
            ):
                events.append(Event(step=step, summary=scalar(tag, number)))
        self._write(*events)

    def close(self) -> None:
        if self._file:
            self._file.close()

    def _write(self, *events: Event) -> None:
        from torch.utils.tensorboard import RecordWriter

        if not self._file:
            return
        writer = RecordWriter(self._file)
        try:
            for event in events:
                event.wall_time = time.time()
                writer.write(event.SerializeToString())
            writer.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        if self._file:
            with suppress(OSError):  # of what is still in its buffer
                self._file.close()
            self._file = None
        reason = (error.strerror or str(error)).lower()
        print(
            f"{self._folder} cannot be written: {reason}. The figures go to log.jsonl only",
            file=sys.stderr,
        )
