"""diagd vote: which of two decodings people prefer, without their knowing which is which."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diagd_cli.cli import options as o
from diagd_cli.cli.console import Reporter, one_line
from diagd_cli.cli.guard import guard
from diagd_cli.cli.help import Commands
from diagd_cli.cli.layout import lay_out, width_of
from diagd_cli.files.paths import path_text
from diagd_cli.report.table import Table

if TYPE_CHECKING:
    from diagd_cli.report.vote import Share, Tally, VoteCounts

HELP = """Let people compare two decodings blindly, and count their votes.

[bold]Examples[/]

  diagd generate clips/*.mp4 --decoding ntp --seed 1 -o ntp/

  diagd generate clips/*.mp4 --decoding diagd --seed 1 -o diagd/

  diagd vote pack ntp diagd -o ballot           # a page to give to voters

  diagd vote count votes-*.json --key ballot.key.json
"""

commands = Commands(no_args_is_help=True)


@commands.command(
    help=(
        "Make a folder with a page that shows shuffled pairs, and beside it the key, "
        "FOLDER.key.json."
    )
)
def pack(
    a: Annotated[Path, typer.Argument(metavar="A_DIR", help="A folder of MP4s.")],
    b: Annotated[
        Path, typer.Argument(metavar="B_DIR", help="Another, with MP4s of the same names.")
    ],
    folder: Annotated[Path, typer.Option("-o", "--output", help="The folder to make, for voters.")],
    seed: o.SeedOption = None,
    question: Annotated[str, typer.Option(help="What voters are asked.")] = (
        "Which video looks better?"
    ),
    json: o.JsonOption = False,
    quiet: o.QuietOption = False,
    verbose: o.VerboseOption = False,
) -> None:
    reporter = Reporter(quiet, verbose)
    with guard(reporter):
        from diagd_cli.jobs.vote.pack import key_path, pack_ballot

        with reporter.stage("packing"):
            key = pack_ballot(
                a, b, folder, secrets.randbits(63) if seed is None else seed, question
            )
        kept = key_path(folder)
        reporter.note(
            f"{len(key.pairs)} pairs. {kept} tells the sides: keep it, and do not give "
            "it to voters."
        )
        facts = {
            "folder": path_text(folder),
            "key": path_text(kept),
            "pairs": len(key.pairs),
            "seed": key.seed,
        }
        reporter.result(facts if json else str(folder))


@commands.command(
    help="Wins, ties and losses of A_DIR over B_DIR, with 95% intervals and a sign test."
)
def count(
    votes: Annotated[
        list[Path], typer.Argument(metavar="VOTES.json", help="Files that voters' pages saved.")
    ],
    key: Annotated[Path, typer.Option(help="The FOLDER.key.json of the page.")],
    json: o.JsonOption = False,
    verbose: o.VerboseOption = False,
) -> None:
    reporter = Reporter(verbose=verbose)
    with guard(reporter):
        from diagd_cli.jobs.vote.count import count_files

        counts = count_files(votes, key)
        reporter.result(counts.facts() if json else text(counts, width_of(sys.stdout)))


def text(counts: VoteCounts, width: int | None) -> str:
    """The counts as a table: a row over all pairs, then one for each."""
    head = ["pair", "votes", "win (95% interval)", "tie", "lose", "clip"]
    rows = [("all", *cells(counts.overall), "")]
    rows += [(one.pair, *cells(one.tally), one_line(one.name)) for one in counts.pairs]
    voters = f"{counts.voters} voter{'s' if counts.voters > 1 else ''}"
    title = (
        f"{one_line(counts.question)} {voters}; win: {one_line(counts.a)} over {one_line(counts.b)}"
    )
    note = f"Sign test, ties left out: p = {counts.p:.2g}. Intervals take votes to be independent."
    return lay_out(Table(head, rows, title, [note], left=("clip",)), width)


def cells(tally: Tally) -> tuple[str, ...]:
    """The number of votes and each outcome."""
    return (str(tally.votes), cell(tally.win), cell(tally.tie), cell(tally.lose))


def cell(outcome: Share) -> str:
    """A count with its share and interval in percent."""
    if outcome.share is None or outcome.interval is None:
        return "-"
    low, high = outcome.interval
    return f"{outcome.count} {outcome.share:.0%} ({100 * low:.0f}-{100 * high:.0f})"
