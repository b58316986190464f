"""How a command ends when it is asked to: by Ctrl-C, SIGTERM, or SIGHUP of a terminal that closes.

Only the command line listens; nothing here happens when the library is imported.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType

# seconds in which further SIGTERM and SIGHUP are the same wish, as when a machine is shut down
SAME = 2.0
_terminals: list[int] = []  # which of stdout and stderr are one
_heard: list[tuple[int, float]] = []  # the first signal that ended the command, and when


def listen() -> None:
    """Have each of the signals end the command in an orderly way, unless it is ignored, as SIGHUP
    is under nohup.
    """
    ending = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    if hasattr(signal, "SIGHUP"):
        ending[signal.SIGHUP] = signal.SIG_DFL
    _terminals[:] = filter(os.isatty, (1, 2))
    for number, usual in ending.items():
        if signal.getsignal(number) == usual:
            signal.signal(number, interrupt)
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, interrupt)


def interrupt(number: int, frame: FrameType | None = None) -> None:
    """Raise KeyboardInterrupt; but while torch is imported, whose C++ would abort, or within the
    import system, whose callbacks would lose it, only after that.
    """
    now = time.monotonic()
    if number != getattr(signal, "SIGALRM", None):
        if number != signal.SIGINT and _heard and now - _heard[0][1] < SAME:
            return
        _heard[:] = _heard or [(number, now)]
        for stream in _terminals:
            if not os.isatty(stream):  # it is closed, and what is still said must not fail
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    if hasattr(signal, "setitimer") and (_importing_torch() or _importing(frame)):
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        return
    raise KeyboardInterrupt


def exit_code() -> int:
    """The exit code of a command that has been interrupted: 128 and the signal's number, of Ctrl-C
    130.
    """
    return 128 + (_heard[0][0] if _heard else signal.SIGINT)


def _importing(frame: FrameType | None) -> bool:
    return frame is not None and frame.f_code.co_filename.startswith("<frozen importlib")


def _importing_torch() -> bool:
    return getattr(getattr(sys.modules.get("torch"), "__spec__", None), "_initializing", False)
