"""Of several processes that torchrun has started for one generation, the first one speaks."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from diagd_cli.errors import PeersLost

RANK = os.environ.get("RANK", "0")  # torchrun's name for the number of a process
_stderr: list[int] = []  # what stderr was, of a process that is silent


def one_speaks(processes: int) -> int:
    """Silence this process if it is one of several and not the first; `processes` is returned, as
    Typer wants it of a callback.

    It has nothing to leave in order, and waits in code that hears of no signal: it ends at once.
    """
    if processes > 1 and RANK != "0":
        for ending in (signal.SIGINT, signal.SIGTERM):
            signal.signal(ending, signal.SIG_DFL)
        _stderr.append(os.dup(2))
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(nowhere, stream)
    return processes


@contextmanager
def last_words() -> Iterator[None]:
    """What ends this process alone, as too little memory of its GPU does, is told by it alone."""
    try:
        yield
    except Exception as error:
        if _stderr and not isinstance(error, PeersLost):
            from diagd_cli.cli.console import one_line
            from diagd_cli.explain import explain

            os.write(_stderr[0], f"error: process {RANK}: {one_line(explain(error))}\n".encode())
        raise
