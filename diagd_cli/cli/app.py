"""The command line: what exists, and how failures become one line and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from diagd_cli import __version__
from diagd_cli.cli.console import Reporter
from diagd_cli.errors import DiagdError, Exit

app = typer.Typer(
    name="diagd",
    help="Generate video with autoregressive Transformers, fast: Diagonal Decoding along (frame, row, column).",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _version(show: bool) -> None:
    if show:
        print(f"diagd {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@contextmanager
def guard(reporter: Reporter) -> Iterator[None]:
    """Turn failures into one line on stderr and the documented exit code; a traceback only with -v."""
    try:
        yield
    except DiagdError as error:
        report(reporter, error)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        reporter.error("interrupted; nothing half-written was left")
        raise typer.Exit(Exit.INTERRUPTED) from None
    except BrokenPipeError:
        raise typer.Exit(Exit.FAILED) from None
    except Exception as error:
        if isinstance(error, (typer.Exit, typer.Abort, typer.BadParameter)):
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
    """One line for any exception, on one line whatever its message holds."""
    if isinstance(error, DiagdError):
        text = str(error)
    elif isinstance(error, MemoryError) or "out of memory" in str(error).lower() or "can't allocate" in str(error):
        text = "Out of memory. Ask for fewer --frames, use a smaller preset, or free some memory"
    else:
        text = f"{type(error).__name__}: {error}. This is a bug in diagd; -v shows where"
    return " ".join(text.split())


def main() -> None:
    """Entry point of the `diagd` command."""
    try:
        app()
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        sys.exit(Exit.INTERRUPTED)


from diagd_cli.cli import compare, generate, info, plan, presets, record, train  # noqa: E402, F401  (they register)
