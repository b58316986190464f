"""What long work tells of itself while it runs. The command line draws it (`cli.console`); without
one it is silent.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Bar(Protocol):
    """Progress of something whose length is known; `total` may be corrected while it runs."""

    total: int

    def update(self, done: int, text: Callable[[float], str] = ...) -> None:
        """So much of `total` is done; text(seconds so far) says what there is to say of it."""
        ...


class Follow(Protocol):
    """What `pipeline.continue_clips` calls while it works."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Surrounds a stage: "encode", "decode" or "pixels"."""
        ...

    def on_steps(self, done: int, total: int) -> None:
        """So many decoding steps are done."""
        ...


class Progress(Protocol):
    """Whoever wants to know how far work is, and what it has to say meanwhile."""

    def note(self, message: str, whole: bool = False) -> None:
        """A line that a person should see; `whole`: it is to be copied, and must not be broken."""
        ...

    def failure(self, error: Exception) -> None:
        """One of several pieces of work has failed, and the others go on."""
        ...

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Surrounds something of unknown length."""
        ...

    def bar(self, name: str, total: int, unit: str = "steps") -> AbstractContextManager[Bar]:
        """Surrounds something of `total` units."""
        ...

    def follow(self, name: str, tokens: int, frames: int) -> AbstractContextManager[Follow]:
        """Surrounds the continuation of clips by so many tokens and frames in all."""
        ...


class Silent:
    """A Progress, a Bar and a Follow that say nothing."""

    total = 0

    def note(self, message: str, whole: bool = False) -> None:
        pass

    def failure(self, error: Exception) -> None:
        pass

    def stage(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()

    def bar(self, name: str, total: int, unit: str = "steps") -> AbstractContextManager[Bar]:
        return nullcontext(Silent())

    def follow(self, name: str, tokens: int, frames: int) -> AbstractContextManager[Follow]:
        return nullcontext(Silent())

    def update(self, done: int, text: Callable[[float], str] = lambda seconds: "") -> None:
        pass

    def on_steps(self, done: int, total: int) -> None:
        pass
