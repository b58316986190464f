"""What a person sees: streams, colour, progress."""

import io
import json
import os
import sys
import time
import warnings

import pytest
from rich.console import Console

from diagd_cli.cli import console
from diagd_cli.cli.console import Reporter
from diagd_cli.errors import DiagdWarning


def on_a_terminal(**options) -> Reporter:
    """A reporter that believes its stderr, a string, is a terminal."""
    reporter = Reporter(**options)
    reporter.err = Console(
        file=io.StringIO(), force_terminal=True, width=100, emoji=False, soft_wrap=True
    )
    reporter.live = not reporter.quiet
    return reporter


def test_results_on_stdout_and_all_else_on_stderr(capsys):
    reporter = Reporter()
    reporter.result("a.mp4")
    reporter.result({"name": "é", "n": 1})
    reporter.note("a note")
    reporter.error("no [bold] :smile: luck")
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == "a.mp4" and json.loads(out.splitlines()[1]) == {
        "name": "é",
        "n": 1,
    }
    assert err == "a note\nerror: no [bold] :smile: luck\n"


def test_quiet_keeps_errors(capsys):
    reporter = Reporter(quiet=True)
    reporter.note("a note")
    reporter.error("no luck")
    assert capsys.readouterr().err == "error: no luck\n"


def test_warnings_are_a_line_each_told_once(capsys, recwarn):
    for quiet in (False, True):
        with Reporter(quiet=quiet).told_warnings():
            for message in ("not\nmeant?", "not\nmeant?", "nor this"):
                warnings.warn(DiagdWarning(message), stacklevel=1)
    assert capsys.readouterr().err == "warning: not meant?\nwarning: nor this\n"
    assert not recwarn.list


def test_errors_are_one_line_whatever_they_quote(capsys):
    Reporter().error("a\nb \x1b[31mred\x07 \udcff " + "long " * 60)
    err = capsys.readouterr().err
    assert err == "error: a b \\x1b[31mred\\x07 \\udcff " + " ".join(["long"] * 60) + "\n"


def test_without_a_terminal_plain_lines_now_and_then(capsys, monkeypatch):
    now = iter(range(0, 10_000))
    monkeypatch.setattr(console, "LINE_EVERY", 5.0)
    # a second passes at every look at the clock
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(now)))
    reporter = Reporter()
    with reporter.stage("loading"), reporter.bar("walk.mp4", 20) as bar:
        for step in range(1, 21):
            bar.update(step, lambda seconds: f"{seconds:.0f} s so far")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "walk.mp4: 6/20 steps, 6 s so far, 14 s left",
        "walk.mp4: 12/20 steps, 12 s so far, 8 s left",
        "walk.mp4: 18/20 steps, 18 s so far, 2 s left",
    ]


def test_short_work_says_nothing_without_a_terminal(capsys):
    with Reporter().bar("walk.mp4", 3) as bar:
        for step in range(1, 4):
            bar.update(step)
    assert capsys.readouterr().err == ""


def test_bar_and_spinner_on_a_terminal():
    reporter = on_a_terminal()
    with reporter.follow("a [/b] :smile:.mp4", tokens=60, frames=6) as follow:
        with follow.stage("encode"):
            pass
        with follow.stage("decode"):
            follow.on_steps(3, 3)
    shown = reporter.err.file.getvalue()
    assert "a [/b] :smile:.mp4: encoding" in shown and "a [/b] :smile:.mp4: prefill" in shown
    assert "3/3 steps" in shown and "tokens/s" in shown and "frames/s" in shown and "\x1b[" in shown


@pytest.mark.parametrize("width", [60, 80, 100])
def test_no_figure_of_the_bar_is_cut(width, monkeypatch):
    reporter = on_a_terminal()
    reporter.err = Console(
        file=io.StringIO(), force_terminal=True, width=width, emoji=False, soft_wrap=True
    )
    monkeypatch.setattr(console, "POLL", 0)
    with reporter.bar(
        "DiagD k=2 d=10, previous-frame-target, no repair, freedoom-diagonal", 4800
    ) as bar:
        bar.update(1234, lambda seconds: "1358 tokens/s, 101.5 frames/s")
    shown = reporter.err.file.getvalue()
    assert "…" not in shown
    for word in (
        "d=10,",
        "previous-frame-target,",
        "freedoom-diagonal",
        "1234/4800",
        "1358",
        "tokens/s,",
        "101.5",
        "frames/s",
    ):
        assert word in shown


def test_progress_does_not_slow_the_loop(monkeypatch):
    """Most updates only look at the clock; what is shown is drawn at most every POLL seconds."""
    reporter = on_a_terminal()
    drawn = []
    with reporter.follow("walk.mp4", tokens=60, frames=6) as follow:
        follow.on_steps(1, 10**6)
        monkeypatch.setattr(
            follow.steps.progress, "refresh", lambda: drawn.append(time.perf_counter())
        )
        started = time.perf_counter()
        for step in range(2, 10_000):
            follow.on_steps(step, 10**6)
        seconds = time.perf_counter() - started
    assert len(drawn) <= seconds / console.POLL + 1
    assert seconds / 10_000 < 50e-6  # a step of the shipped model takes some 10 ms


@pytest.fixture
def terminal():
    """A terminal to write to, as a file's number, and a function that reads what it shows."""
    ours, theirs = pytest.importorskip("pty").openpty()
    yield theirs, lambda: os.read(ours, 10_000).decode().strip()
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize(
    "variables, expected",
    [
        ({}, "\x1b[1;31merror:\x1b[0m no luck"),
        ({"NO_COLOR": "1"}, "\x1b[1merror:\x1b[0m no luck"),  # bold alone
        ({"TERM": "dumb"}, "error: no luck"),
    ],
    ids=["xterm", "NO_COLOR", "dumb"],
)
def test_colour_only_where_it_is_wanted(terminal, monkeypatch, variables, expected):
    for name, value in ({"TERM": "xterm"} | variables).items():
        monkeypatch.setenv(name, value)
    file, shown = terminal
    with os.fdopen(os.dup(file), "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        Reporter().error("no luck")
    assert shown() == expected


def test_a_command_on_a_terminal_is_in_colour(start, terminal):
    file, shown = terminal
    start("generate", "none.mp4", stderr=file, env={**os.environ, "TERM": "xterm"}).wait(60)
    assert shown().startswith("\x1b[1;31merror:\x1b[0m none.mp4 does not exist")
