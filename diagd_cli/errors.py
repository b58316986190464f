"""Every way diagd can fail on purpose: one line that says what was wrong and what to do, and an
exit code.

`ValueError` and `assert` are for mistakes inside diagd; whatever a user can cause is a
`DiagdError`.
"""

from __future__ import annotations

import difflib
import errno
import re
import textwrap
from collections.abc import Iterable
from enum import IntEnum

INTERRUPTED = "interrupted; nothing half-written was left"


class Stopped(KeyboardInterrupt):
    """An interruption that has left something whole; its text says what."""


class Exit(IntEnum):
    """Exit codes of the command line. What a signal ends, ends with 128 and the signal's number."""

    OK = 0
    FAILED = 1
    USAGE = 2
    HANGUP = 129
    INTERRUPTED = 130
    TERMINATED = 143


class DiagdError(Exception):
    """A failure with a message for people: what was wrong, the value seen, and `hint`: what to do
    about it.
    """

    exit_code = Exit.FAILED

    def __init__(self, message: str, hint: str = ""):
        super().__init__(message)
        self.message, self.hint = message, hint

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


class UsageError(DiagdError):
    """An option or argument that cannot be right, whatever the files hold."""

    exit_code = Exit.USAGE


class ClipError(DiagdError):
    """An input clip that cannot be read or does not fit the preset."""


class PresetError(DiagdError):
    """A preset that is unknown, malformed or inconsistent."""

    exit_code = Exit.USAGE


class WeightsError(DiagdError):
    """Weights that are missing, corrupt or of another model."""


class OutputError(DiagdError):
    """An output that cannot be written."""


class PeersLost(DiagdError):
    """A process that works in step with others cannot go on, nor can they."""


class MissingExtra(DiagdError):
    """An optional dependency that is not installed."""

    def __init__(self, package: str, extra: str, purpose: str):
        super().__init__(
            f"{purpose} needs the package {package}",
            f"Install it with: pip install 'diagd[{extra}]'",
        )


# What torch, oneDNN, the C library, the loader of libraries and ffmpeg say where there is no more
# memory.
_NO_MEMORY = re.compile(
    "out of memory|(can't|cannot|unable to|failed to) allocate|not enough memory|bad_alloc|bad "
    "allocation"
    "|failed to map segment|could not create a (primitive|memory)|can't start new thread",
    re.IGNORECASE,
)


def says_no_memory(text: str) -> bool:
    """Whether the message of a library or of another program is that memory ran out."""
    return bool(_NO_MEMORY.search(text))


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether memory ran out: this error is that, or a DiagdError that was made of one.

    A MemoryError under a DiagdError is not counted: files that claim absurd sizes raise it, and are
    told as such. Nor is a DiagdError that speaks of memory itself.
    """
    if isinstance(error, DiagdError):
        inner = error.__cause__ or error.__context__
        return (
            "memory" not in str(error)
            and not isinstance(inner, MemoryError)
            and is_out_of_memory(inner)
        )
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return isinstance(error, MemoryError) or (error is not None and says_no_memory(str(error)))


class DiagdWarning(UserWarning):
    """What is done all the same, and may not be what was meant. The command line tells it in a line
    on stderr.
    """


def near(word: str, known: Iterable[str], count: int = 1) -> list[str]:
    """The names that a word may have been meant to be, the nearest first; case, and _ for -, make
    no difference.
    """
    plain = {name.lower().replace("_", "-"): name for name in known}
    word = word.lower().replace("_", "-")
    return [plain[found] for found in difflib.get_close_matches(word, plain, n=count)]


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """`Did you mean NAME?`, or something else where no name is near."""
    found = near(word, known)
    return f"Did you mean {found[0]}?" if found else otherwise


def one_line(error: BaseException) -> str:
    """What any exception says, on one line of bounded length."""
    return textwrap.shorten(str(error), 200, placeholder=" ...") or type(error).__name__
