"""How failures become one line on stderr and the documented exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import typer

from diagd_cli.cli import signals
from diagd_cli.cli.console import Reporter, stdout_failure
from diagd_cli.errors import DiagdError, Exit, Stopped

if TYPE_CHECKING:
    from typer._click.exceptions import UsageError as ClickUsageError

TRAINING_INTERRUPTED = (
    "interrupted; what was trained is kept, and the same command goes on from there"
)
# click's UsageError; where it lies depends on the version of Typer
UsageProblem = cast("type[ClickUsageError]", typer.BadParameter.__base__)


@contextmanager
def guard(reporter: Reporter, training: bool = False) -> Iterator[None]:
    """Turn failures into one line on stderr and the documented exit code; a traceback only with -v.
    Warnings are lines too.

    Ctrl-C passes, for `CommandLine.main` to report; but a `training`, which leaves more than
    nothing, says so here.
    """
    try:
        with reporter.told_warnings():
            yield
    except Stopped as stopped:
        reporter.error(f"interrupted; {stopped}")
        raise SystemExit(signals.exit_code()) from None
    except KeyboardInterrupt:
        if not training:
            raise
        reporter.error(TRAINING_INTERRUPTED)
        raise SystemExit(signals.exit_code()) from None
    except DiagdError as error:
        reporter.failure(error)
        raise typer.Exit(error.exit_code) from None
    except BrokenPipeError as error:  # whoever read stdout has gone, and knows
        stdout_failure(error)
        raise typer.Exit(Exit.FAILED) from None
    except Exception as error:
        if isinstance(error, (typer.Exit, typer.Abort, UsageProblem)):
            raise
        reporter.failure(error)
        raise typer.Exit(Exit.FAILED) from None
