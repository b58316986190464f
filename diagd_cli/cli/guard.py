"""How failures become one line on stderr and the documented exit code."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from diagd_cli.cli import signals
from diagd_cli.cli.console import Reporter, stdout_failure
from diagd_cli.errors import DiagdError, Exit, is_out_of_memory

TRAINING_INTERRUPTED = "interrupted; what was trained is kept, and the same command goes on from there"
UsageProblem = typer.BadParameter.__base__  # click's UsageError; where it lies depends on the version of Typer


@contextmanager
def guard(reporter: Reporter, training: bool = False) -> Iterator[None]:
    """Turn failures into one line on stderr and the documented exit code; a traceback only with -v. Warnings are lines too.

    Ctrl-C passes, for `CommandLine.main` to report; but a `training`, which leaves more than nothing, says so here.
    """
    try:
        with reporter.told_warnings():
            yield
    except KeyboardInterrupt:
        if not training:
            raise
        reporter.error(TRAINING_INTERRUPTED)
        raise SystemExit(signals.exit_code()) from None
    except DiagdError as error:
        report(reporter, error)
        raise typer.Exit(error.exit_code) from None
    except BrokenPipeError as error:  # whoever read stdout has gone, and knows
        stdout_failure(error)
        raise typer.Exit(Exit.FAILED) from None
    except Exception as error:
        if isinstance(error, (typer.Exit, typer.Abort, UsageProblem)):
            raise
        report(reporter, error)
        raise typer.Exit(Exit.FAILED) from None


def report(reporter: Reporter, error: BaseException) -> None:
    """One line about an error; with -v its traceback first."""
    if reporter.verbose:
        import traceback

        reporter.err.print("".join(traceback.format_exception(error)), markup=False)
    reporter.error(explain(error))


def explain(error: BaseException) -> str:
    """What to say about any exception."""
    if is_out_of_memory(error):
        return "Out of memory. Ask for fewer --frames, use a smaller preset, or free some memory"
    if isinstance(error, DiagdError):
        return str(error)
    if isinstance(error, OSError):
        from diagd_cli.files.atomic import is_full, write_failure

        if error.errno == errno.ENAMETOOLONG:
            return f"The name {error.filename} is too long. Choose a shorter one"
        if is_full(str(error)):
            return str(write_failure(error.filename or "A file", str(error)))
    return f"{type(error).__name__}: {error}. This is a bug in diagd; -v shows where"
