"""What a person sees: one line per result on stdout, everything else on stderr, in colour only on a terminal."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

POLL = 0.2  # seconds between looks at the clock's display
LINE_EVERY = 5.0  # seconds between plain lines when stderr is not a terminal


class Reporter:
    """Stages, progress and messages on stderr; results on stdout. `quiet` keeps errors; `verbose` adds tracebacks."""

    def __init__(self, quiet: bool = False, verbose: bool = False):
        self.quiet, self.verbose = quiet, verbose
        plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
        self.err = Console(stderr=True, highlight=False, no_color=plain or None, soft_wrap=True)
        self.out = Console(highlight=False, no_color=plain or None, soft_wrap=True)
        self.live = self.err.is_terminal and not quiet and os.environ.get("TERM") != "dumb"

    def result(self, value: str | dict) -> None:
        """A path, or an object as one line of JSON, on stdout."""
        sys.stdout.write((value if isinstance(value, str) else json.dumps(value)) + "\n")
        sys.stdout.flush()

    def note(self, message: str) -> None:
        if not self.quiet:
            self.err.print(message, markup=False)

    def warn(self, message: str) -> None:
        if not self.quiet:
            self.err.print(f"[yellow]warning:[/] {escape(message)}")

    def error(self, message: str) -> None:
        self.err.print(f"[bold red]error:[/] {escape(message)}")

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A spinner while something of unknown length happens."""
        if not self.live:
            yield
            return
        with self.err.status(f"{name} ..."):
            yield

    @contextmanager
    def steps(self, name: str, total: int, unit: str = "steps") -> Iterator[Bar]:
        """A bar on a terminal; elsewhere a plain line now and then."""
        bar = Bar(self, name, total, unit)
        try:
            yield bar
        finally:
            bar.close()


class Bar:
    """Counts steps; draws at most every POLL seconds, so that the loop it watches does not wait for it."""

    def __init__(self, reporter: Reporter, name: str, total: int, unit: str):
        self.reporter, self.name, self.total, self.unit = reporter, name, total, unit
        self.started = self.drawn = self.lined = time.perf_counter()
        self.progress = None
        if reporter.live:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(30), TextColumn("{task.fields[text]}"))
            self.progress = Progress(*columns, TimeRemainingColumn(), console=reporter.err, transient=True, auto_refresh=False)
            self.task = self.progress.add_task(name, total=total, text="")
            self.progress.start()

    def update(self, done: int, text: str = "") -> None:
        now = time.perf_counter()
        if now - self.drawn < POLL and done < self.total:
            return
        self.drawn = now
        text = f"{done}/{self.total} {self.unit}" + (f", {text}" if text else "")
        if self.progress:
            self.progress.update(self.task, completed=done, text=text)
            self.progress.refresh()
        elif now - self.lined > LINE_EVERY:
            self.lined = now
            left = (now - self.started) * (self.total - done) / max(1, done)
            self.reporter.note(f"{self.name}: {text}, {left:.0f} s left")

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    def close(self) -> None:
        if self.progress:
            self.progress.stop()


def escape(text: str) -> str:
    """Keep rich from reading square brackets in user text as markup."""
    return str(text).replace("[", r"\[")
