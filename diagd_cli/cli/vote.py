"""diagd vote: which of two decodings people prefer, without their knowing which is which."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import Annotated

import typer

from diagd_cli.cli import options as o
from diagd_cli.cli.console import Reporter, one_line
from diagd_cli.cli.guard import guard
from diagd_cli.cli.help import Commands
from diagd_cli.cli.layout import lay_out, width_of
from diagd_cli.files.paths import path_text
from diagd_cli.report.table import Table

HELP = """Let people compare two decodings blindly, and count their votes.

[bold]Examples[/]

  diagd generate clips/*.mp4 --decoding ntp --seed 1 -o ntp/

  diagd generate clips/*.mp4 --decoding diagd --seed 1 -o diagd/

  diagd vote pack ntp diagd -o ballot           # a page to give to voters

  diagd vote count votes-*.json --key ballot.key.json
"""

commands = Commands(no_args_is_help=True)


@commands.command(help="Make a folder with a page that shows shuffled pairs, and beside it the key, FOLDER.key.json.")
def pack(
    a: Annotated[Path, typer.Argument(metavar="A_DIR", help="A folder of MP4s.")],
    b: Annotated[Path, typer.Argument(metavar="B_DIR", help="Another, with MP4s of the same names.")],
    folder: Annotated[Path, typer.Option("-o", "--output", help="The folder to make, for voters.")],
    seed: o.SeedOption = None,
    question: Annotated[str, typer.Option(help="What voters are asked.")] = "Which video looks better?",
    json: o.JsonOption = False,
    quiet: o.QuietOption = False,
    verbose: o.VerboseOption = False,
) -> None:
    reporter = Reporter(quiet, verbose)
    with guard(reporter):
        from diagd_cli.jobs.vote.pack import key_path
        from diagd_cli.jobs.vote.pack import pack as make

        with reporter.stage("packing"):
            key = make(a, b, folder, secrets.randbits(63) if seed is None else seed, question)
        kept = key_path(folder)
        reporter.note(f"{len(key.pairs)} pairs. {kept} tells the sides: keep it, and do not give it to voters.")
        facts = {"folder": path_text(folder), "key": path_text(kept), "pairs": len(key.pairs), "seed": key.seed}
        reporter.result(facts if json else str(folder))


@commands.command(help="Wins, ties and losses of A_DIR over B_DIR, with 95% intervals and a sign test.")
def count(
    votes: Annotated[list[Path], typer.Argument(metavar="VOTES.json", help="Files that voters' pages saved.")],
    key: Annotated[Path, typer.Option(help="The FOLDER.key.json of the page.")],
    json: o.JsonOption = False,
    verbose: o.VerboseOption = False,
) -> None:
    reporter = Reporter(verbose=verbose)
    with guard(reporter):
        from diagd_cli.files.outputs import check_outputs
        from diagd_cli.jobs.vote.count import check_votes, count_votes
        from diagd_cli.jobs.vote.records import Key, Votes, read_record

        check_outputs([], [(key, "the key"), *((path, "a file of votes") for path in votes)])
        known = read_record(key, Key)
        files = [(path, read_record(path, Votes)) for path in votes]
        check_votes(known, files)
        facts = count_votes(known, [ballot for _, ballot in files])
        reporter.result(facts if json else text(facts, width_of(sys.stdout)))


def text(facts: dict, width: int | None) -> str:
    """The counts as a table: a row over all pairs, then one for each."""
    head = ["pair", "votes", "win (95% interval)", "tie", "lose", "clip"]
    rows = []
    for row in [facts["overall"], *facts["pairs"]]:
        outcomes = map(cell, (row["win"], row["tie"], row["lose"]))
        rows.append((row.get("pair", "all"), str(row["votes"]), *outcomes, one_line(row.get("name", ""))))
    voters = f"{facts['voters']} voter{'s' if facts['voters'] > 1 else ''}"
    first = f"{one_line(facts['question'])} {voters}; win: {one_line(facts['a'])} over {one_line(facts['b'])}"
    last = f"Sign test, ties left out: p = {facts['overall']['p']:.2g}. Intervals take votes to be independent."
    return lay_out(Table(head, rows, first, [last], left=("clip",)), width)


def cell(outcome: dict) -> str:
    """A count with its share and interval in percent."""
    if outcome["share"] is None:
        return "-"
    low, high = outcome["interval"]
    return f"{outcome['count']} {outcome['share']:.0%} ({100 * low:.0f}-{100 * high:.0f})"
