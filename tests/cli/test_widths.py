"""The reports of the commands at the widths of terminals: no figure and no label is cut, and no
line is too long.
"""

import os
import re

import pytest
from jobs.vote.ballots import make_key, make_votes
from rich.cells import cell_len
from tiny import moving, save_clip

from diagd_cli import jobs
from diagd_cli.cli.attention import text as of_attention
from diagd_cli.cli.bench import text as of_bench
from diagd_cli.cli.compare import text as of_compare
from diagd_cli.cli.decodings import parse_candidates
from diagd_cli.cli.eval import text as of_eval
from diagd_cli.cli.layout import lay_out
from diagd_cli.cli.vote import text as of_vote
from diagd_cli.jobs.benchmark import machine
from diagd_cli.jobs.vote.count import count_votes
from diagd_cli.preset_files import load_preset
from diagd_cli.report.sweep import SweepReport
from diagd_cli.report.sweep_table import table
from diagd_cli.schedule.decoding import Decoding


def of_sweep(report: SweepReport, width: int | None) -> str:
    return lay_out(table(report), width)


LONG = "ntp,diagd:1:2,diagd:2:3:previous-frame-target:no-repair"


@pytest.fixture(scope="module")
def reports(tiny, tmp_path_factory):
    """What each command reports, made once for all widths."""
    folder, preset = tmp_path_factory.mktemp("reports"), load_preset(tiny.preset)
    clips = [
        save_clip(folder / "a.mp4", moving(8)),
        save_clip(folder / "日本の部屋.mp4", moving(8)[::-1]),
    ]
    settings = jobs.choose(preset, seed=0)
    long, two = (
        parse_candidates(LONG, preset, settings),
        parse_candidates("ntp,diagd:1:2", preset, settings),
    )
    decodings = [one.decoding for one in two]
    diagonal = [Decoding("diagd", k, d) for k in (1, 2) for d in (1, 2)]
    combined = jobs.combine(diagonal, ["previous-frame"], [True], preset.grid, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "SECONDS", 0.005)
        patch.setitem(machine.READ, "cpu", 1 << 22)
        patch.setitem(machine.SIDE, "cpu", 128)
        benchmark = jobs.bench(
            jobs.Benchmark(preset, settings, decodings, batches=(1, 4), repeats=1)
        )
    votes = make_votes({"1": "left", "2": "left", "3": "right", "4": "equal"})
    return {
        of_compare: jobs.compare(
            jobs.Comparing(preset, settings, clips[1], long, folder / "c.mp4")
        ),
        of_bench: benchmark,
        of_eval: jobs.evaluate(jobs.Evaluating(preset, settings, clips, long)),
        of_sweep: jobs.sweep(
            jobs.Sweeping(preset, settings, clips, combined, folder / "s", chart=False)
        ),
        of_attention: jobs.measure_attention(jobs.AttentionRequest(preset, settings, clips[1])),
        of_vote: count_votes(make_key(), [votes]),
    }


@pytest.mark.parametrize("width", [60, 80, 100])
def test_no_figure_of_a_report_is_cut(reports, width):
    for layout, report in reports.items():
        whole, shown = layout(report, None), layout(report, width)
        assert "…" not in shown and max(map(cell_len, shown.splitlines())) <= width, shown
        # a block needs no name for its label
        assert words_of(whole) <= words_of(shown) | {"decoding", "pair"}, shown
        assert layout(report, 1000) == whole  # what is no terminal gets the whole width


def words_of(text: str) -> set[str]:
    """What may not be cut: all but the lines of tables."""
    return set(text.replace("─", "").split())


def test_lists_and_plans(diagd):
    plan = ["plan", "--grid", "3,40,64", "--k", "2", "--d", "10"]
    for words in (["presets"], ["weights"], ["info"], plan):
        shown, whole = diagd(*words, COLUMNS="60").out, diagd(*words).out
        longest = max(map(len, whole.split()))  # a path is not broken
        assert max(map(len, shown.splitlines())) <= max(60, longest + 2)
        assert words in (plan, ["info"]) or words_of(whole) == words_of(shown)


def test_on_a_terminal(start, tiny, tmp_path):
    """All that is seen there, the bars that come and go included."""
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    if not hasattr(termios, "tcsetwinsize"):
        pytest.skip("needs Python 3.11")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 60))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"} | {
        "TERM": "xterm"
    }
    arguments = [
        "compare",
        tiny.clip,
        "-p",
        tiny.preset,
        "--decodings",
        LONG,
        "-o",
        tmp_path / "c.mp4",
    ]
    process = start(*arguments, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 10_000):
            shown += part
    except OSError:  # the end, on Linux
        pass
    os.close(ours)
    assert process.wait(60) == 0
    plain = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown.decode())
    table = plain.split("tiny, 3 new frames")[1]
    assert "…" not in plain and max(map(len, re.split(r"[\r\n]+", table))) <= 60
    assert "speed-up" in table and "previous-frame-target, no repair" in " ".join(table.split())
