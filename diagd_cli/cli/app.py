"""The command line: what exists, and how failures become one line and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer

from diagd_cli import __version__
from diagd_cli.cli import (
    attention,
    bench,
    compare,
    embed,
    eval,
    finetune,
    generate,
    info,
    plan,
    play,
    presets,
    record,
    signals,
    sweep,
    train,
    train_inverse,
    vote,
    weights,
)
from diagd_cli.cli.console import Reporter, stdout_failure
from diagd_cli.cli.guard import UsageProblem
from diagd_cli.cli.help import Commands, Group, asked_for_help, usage_message
from diagd_cli.errors import INTERRUPTED, Exit


class CommandLine(Group):
    """The whole of diagd: usage errors and what interrupts it are told in one line like every other
    failure, instead of a box.
    """

    def main(self, args: Sequence[str] | None = None, *more: Any, **options: Any) -> NoReturn:
        try:
            code = super().main(
                asked_for_help(args), *more, **{**options, "standalone_mode": False}
            )
            sys.stdout.flush()
        except UsageProblem as error:
            code = error.exit_code
            # diagd alone: who sees it wants to know what there is
            if type(error).__name__ == "NoArgsIsHelpError" and error.ctx:
                code = Exit.OK
                typer.echo(error.ctx.get_help())
            else:
                Reporter().error(usage_message(error))
        except (KeyboardInterrupt, typer.Abort):
            code = Exit.INTERRUPTED
        # help on a stdout that takes nothing; those of a command are told by `guard`
        except OSError as error:
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
    help=(
        "Generate video with autoregressive Transformers, fast: Diagonal Decoding along (frame, "
        "row, column)."
    ),
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
        bool,
        typer.Option(
            "--version", "-V", callback=_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


app.command(help=attention.HELP)(attention.attention)
app.command(help=bench.HELP)(bench.bench)
app.command(help=compare.HELP)(compare.compare)
app.command(help=embed.HELP)(embed.embed)
app.command("eval", help=eval.HELP)(eval.evaluate)
app.command(help=finetune.HELP)(finetune.finetune)
app.command(help=generate.HELP)(generate.generate)
app.command(help=info.HELP)(info.info)
app.command(help=plan.HELP)(plan.plan)
app.command(help=play.HELP)(play.play)
app.add_typer(presets.commands, name="presets", help=presets.HELP)
app.command(help=record.HELP)(record.record)
app.command(help=sweep.HELP)(sweep.sweep)
train.commands.command(help=train_inverse.HELP)(train_inverse.inverse)
app.add_typer(train.commands, name="train", help=train.HELP)
app.add_typer(vote.commands, name="vote", help=vote.HELP)
app.add_typer(weights.commands, name="weights", help=weights.HELP)


def main() -> None:
    """Run the command of the command line. KeyboardInterrupt passes where there is none yet."""
    signals.listen()
    # it is closed: what is written must fail, and no file that is opened may take its place
    if sys.stdout is None:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 1)
        sys.stdout = os.fdopen(1, "w")
    if hasattr(sys.stdout, "reconfigure"):
        # a path is printed as it is, whatever its bytes
        sys.stdout.reconfigure(errors="surrogateescape")
    app()
