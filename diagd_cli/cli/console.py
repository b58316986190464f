"""What a person sees: one line per result on stdout, everything else on stderr, in colour only on a
terminal.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from diagd_cli.cli.layout import wrapped
from diagd_cli.cli.threads import THREADS
from diagd_cli.errors import DiagdWarning, OutputError
from diagd_cli.explain import explain

POLL = 0.2  # seconds between looks at the clock's display
ROOMY = 100  # columns of a terminal with room for a long bar
LINE_EVERY = 5.0  # seconds between plain lines when stderr is not a terminal


class Reporter:
    """Stages, progress and messages on stderr; results on stdout. `quiet` keeps errors; `verbose`
    adds tracebacks.
    """

    def __init__(self, quiet: bool = False, verbose: bool = False):
        self.quiet, self.verbose = quiet, verbose
        self.out = sys.stdout  # which Ray's own words are kept from
        # as good as the start of the command: what is imported before is light
        self.started = time.perf_counter()
        plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
        # File names are shown as they are: no markup, no emoji codes, no line breaks of rich's.
        self.err = Console(
            stderr=True, highlight=False, emoji=False, no_color=plain or None, soft_wrap=True
        )
        self.drawn: Progress | None = None  # a bar that is on the terminal
        self.live = self.err.is_terminal and not quiet and os.environ.get("TERM") != "dumb"

    def result(self, value: str | dict) -> None:
        """A path, or an object as one line of JSON, on stdout. Raises OutputError, or
        BrokenPipeError.
        """
        try:
            with self.room():
                self.out.write((value if isinstance(value, str) else json.dumps(value)) + "\n")
                self.out.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise stdout_failure(error) from None

    @contextmanager
    def room(self) -> Iterator[None]:
        """No bar is in the way of what is written to the same terminal by others than rich."""
        bar = self.drawn if self.out.isatty() else None
        if bar:
            bar.stop()
        yield
        if bar:
            bar.start()

    def note(self, message: str, whole: bool = False) -> None:
        """Lines on stderr. On a terminal they break between words, unless they are to be copied as
        a `whole`.
        """
        if not self.quiet:
            width = None if whole or not self.err.is_terminal else self.err.width
            lines = [part for line in message.split("\n") for part in wrapped(line, width) or [""]]
            self.err.print("\n".join(lines), markup=False)

    def failure(self, error: Exception) -> None:
        """One line about an error; with -v its traceback first."""
        if self.verbose:
            self.err.print("".join(traceback.format_exception(error)), markup=False)
        self.error(explain(error))

    def error(self, message: str) -> None:
        self.err.print(Text.assemble(("error:", "bold red"), " ", one_line(message)))

    def warning(self, message: str) -> None:
        if not self.quiet:
            self.err.print(Text.assemble(("warning:", "bold yellow"), " ", one_line(message)))

    @contextmanager
    def told_warnings(self) -> Iterator[None]:
        """Tell every DiagdWarning in a line, once; other warnings go their usual way."""
        told: set[str] = set()
        with warnings.catch_warnings():
            usual = warnings.showwarning

            def show(
                message: Warning | str, category: type[Warning], *where: Any, **more: Any
            ) -> None:
                if not issubclass(category, DiagdWarning):
                    usual(message, category, *where, **more)
                elif str(message) not in told:
                    told.add(str(message))
                    self.warning(str(message))

            warnings.simplefilter("always", DiagdWarning)
            warnings.showwarning = show
            yield

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A spinner while something of unknown length happens."""
        THREADS.look()
        if not self.live:
            yield
            return
        with self.err.status(Text(f"{name} ...")):
            yield

    @contextmanager
    def bar(self, name: str, total: int, unit: str = "steps") -> Iterator[Bar]:
        """A bar on a terminal; elsewhere a plain line now and then."""
        bar = Bar(self, name, total, unit)
        try:
            yield bar
        finally:
            bar.close()

    @contextmanager
    def follow(self, name: str, tokens: int, frames: int) -> Iterator[Follow]:
        """Spinners for the stages of one clip, and a bar for its decoding steps."""
        follow = Follow(self, name, tokens, frames)
        try:
            yield follow
        finally:
            follow.open.close()


class Bar:
    """Counts steps; draws at most every POLL seconds, so that the loop it watches does not wait for
    it.
    """

    def __init__(self, reporter: Reporter, name: str, total: int, unit: str):
        self.reporter, self.name, self.total, self.unit = reporter, name, total, unit
        self.started = self.drawn = self.lined = time.perf_counter()
        self.base: int | None = None
        self.progress: Progress | None = None
        if reporter.live:
            # Where it is narrow, the bar is shorter, and names and figures go on below: rich would
            # cut them.
            words, whole = Column(overflow="fold"), Column(no_wrap=True)
            columns = (
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False, table_column=words),
                BarColumn(30 if reporter.err.width >= ROOMY else 8, table_column=whole),
                TextColumn("{task.fields[text]}", markup=False, table_column=words.copy()),
                TimeRemainingColumn(table_column=whole.copy()),
            )
            self.progress = Progress(
                *columns,
                console=reporter.err,
                transient=True,
                auto_refresh=False,
                redirect_stdout=False,  # else results would go to stderr
            )
            self.task = self.progress.add_task(name, total=total, text="")
            self.progress.start()
            reporter.drawn = self.progress

    def update(self, done: int, text: Callable[[float], str] = lambda seconds: "") -> None:
        """Report `done` steps; text(seconds so far) is asked for only when something is drawn."""
        THREADS.look()
        now = time.perf_counter()
        if self.base is None:
            self.base = done - 1  # a resumed run starts in the middle
        if now - self.drawn < POLL and done < self.total:
            return
        self.drawn = now
        line = ", ".join(
            filter(None, [f"{done}/{self.total} {self.unit}", text(now - self.started)])
        )
        if self.progress:
            self.progress.update(self.task, completed=done, text=line)
            self.progress.refresh()
        elif now - self.lined > LINE_EVERY:
            self.lined = now
            left = (now - self.started) * (self.total - done) / max(1, done - self.base)
            self.reporter.note(f"{self.name}: {line}, {left:.0f} s left")

    def close(self) -> None:
        if self.progress:
            self.progress.stop()
            self.progress = self.reporter.drawn = None


_STAGES = {"encode": "encoding", "decode": "prefill", "pixels": "decoding pixels"}


class Follow:
    """What the pipeline calls while it works on one clip: `stage` around each stage, `on_steps`
    after each step.
    """

    def __init__(self, reporter: Reporter, name: str, tokens: int, frames: int):
        self.reporter, self.name, self.tokens, self.frames = reporter, name, tokens, frames
        self.open = ExitStack()
        self.steps: Bar | None = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.open.enter_context(self.reporter.stage(f"{self.name}: {_STAGES[name]}"))
        try:
            yield
        finally:
            self.open.close()

    def on_steps(self, done: int, total: int) -> None:
        if self.steps is None:
            self.open.close()  # the prefill's spinner: the first step is done
            self.steps = self.open.enter_context(self.reporter.bar(self.name, total))
        share = done / total
        self.steps.update(
            done,
            lambda s: (
                f"{self.tokens * share / s:.0f} tokens/s, {self.frames * share / s:.1f} frames/s"
            ),
        )


def stdout_failure(error: OSError) -> OutputError:
    """What to say where stdout takes nothing. Python must not flush it again when it ends, and what
    follows is lost.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    reason = (
        "it is closed" if error.errno == errno.EBADF else (error.strerror or str(error)).lower()
    )
    return OutputError(
        f"The result cannot be written to stdout: {reason}",
        "Send it to a file or pipe that can hold it",
    )


def one_line(text: str) -> str:
    """A message on one line, whatever it quotes; control characters, which could steer a terminal,
    as escapes.
    """
    words = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)
