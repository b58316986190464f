"""The command line: what exists, and how failures become one line and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from diagd_cli import __version__
from diagd_cli.cli import signals
from diagd_cli.cli.console import Reporter, stdout_failure
from diagd_cli.cli.help import Commands, Group, asked_for_help, usage_message
from diagd_cli.errors import INTERRUPTED, DiagdError, Exit, is_out_of_memory

TRAINING_INTERRUPTED = "interrupted; what was trained is kept, and the same command goes on from there"
_UsageProblem = typer.BadParameter.__base__  # click's UsageError; where it lies depends on the version of Typer


class CommandLine(Group):
    """The whole of diagd: usage errors and what interrupts it are told in one line like every other failure, instead of a box."""

    def main(self, args=None, *more, **options):
        try:
            code = super().main(asked_for_help(args), *more, **{**options, "standalone_mode": False})
            sys.stdout.flush()
        except _UsageProblem as error:
            code = error.exit_code
            if type(error).__name__ == "NoArgsIsHelpError":  # diagd alone: who sees it wants to know what there is
                code = Exit.OK
                typer.echo(error.ctx.get_help())
            else:
                Reporter().error(usage_message(error))
        except (KeyboardInterrupt, typer.Abort):
            code = Exit.INTERRUPTED
        except OSError as error:  # help on a stdout that takes nothing; those of a command are told by `guard`
            code, failure = Exit.FAILED, stdout_failure(error)
            if not isinstance(error, BrokenPipeError):
                Reporter().error(str(failure))
        if code == Exit.INTERRUPTED:
            Reporter().error(INTERRUPTED)
            code = signals.exit_code()
        sys.exit(code)


app = Commands(
    name="diagd",
    cls=CommandLine,
    help="Generate video with autoregressive Transformers, fast: Diagonal Decoding along (frame, row, column).",
    no_args_is_help=True,
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
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


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
        if isinstance(error, (typer.Exit, typer.Abort, _UsageProblem)):
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
        from diagd_cli.clip.files import is_full, write_failure

        if error.errno == errno.ENAMETOOLONG:
            return f"The name {error.filename} is too long. Choose a shorter one"
        if is_full(str(error)):
            return str(write_failure(error.filename or "A file", str(error)))
    return f"{type(error).__name__}: {error}. This is a bug in diagd; -v shows where"


def main() -> None:
    """Run the command of the command line. KeyboardInterrupt passes where there is none yet."""
    signals.listen()
    if sys.stdout is None:  # it is closed: what is written must fail, and no file that is opened may take its place
        os.dup2(os.open(os.devnull, os.O_RDONLY), 1)
        sys.stdout = os.fdopen(1, "w")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="surrogateescape")  # a path is printed as it is, whatever its bytes
    app()


from diagd_cli.cli import (  # noqa: E402, F401  (they register)
    attention,
    bench,
    compare,
    embed,
    eval,
    finetune,
    generate,
    info,
    plan,
    presets,
    record,
    sweep,
    train,
    train_inverse,
    vote,
    weights,
)
