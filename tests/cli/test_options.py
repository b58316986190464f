"""Groups of options: what Typer reads of a command, and what the command gets."""

import inspect

import typer
from typer.testing import CliRunner

from diagd_cli.cli import groups as g
from diagd_cli.cli import options as o


def test_a_group_is_its_options_at_the_command_line():
    app, seen = typer.Typer(), []

    @app.command()
    @g.grouped
    def command(
        clip: str, *, walk: g.DecodingOptions, frames: o.FramesOption = 3, draw: g.SamplingOptions
    ) -> None:
        seen.append((clip, walk, frames, draw))

    names = list(inspect.signature(command).parameters)
    assert names == [
        "clip", "k", "d", "stand_in", "repair", "window", "sinks", "frames", "temperature", "top_p",
        "top_p_rule", "top_k",
    ]  # fmt: skip
    done = CliRunner().invoke(
        app, ["a.mp4", "--d", "5", "--no-repair"], env={"DIAGD_K": "2", "DIAGD_TOP_P": "0.5"}
    )
    assert done.exit_code == 0, done.output
    assert seen == [
        ("a.mp4", g.DecodingOptions(k=2, d=5, repair=False), 3, g.SamplingOptions(top_p=0.5))
    ]


def test_seeds_begin_again():
    assert g.Trials(seed=2**64 - 1, seeds=2, batch=2).drawn == [2**64 - 1, 0]
