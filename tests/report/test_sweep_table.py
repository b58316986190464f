"""A sweep as CSV, and as tables for a terminal."""

import csv

import pytest
from jobs.sweeping.small import ntp, report, row

from diagd_cli.cli.layout import lay_out
from diagd_cli.jobs.sweeping.front import ranked
from diagd_cli.report.sweep_table import columns, table, write_csv

ROWS = ranked([ntp(), row(2, 10, 9, 0.1), row(4, 20, 5, 0.12, None)])


def test_csv(tmp_path):
    write_csv(tmp_path / "sweep.csv", ROWS)
    with (tmp_path / "sweep.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["label"] for line in lines] == ["NTP", "DiagD k=4 d=20", "DiagD k=2 d=10"]
    last = lines[-1]
    assert (last["k"], last["d"], last["speedup"], last["front"]) == ("2", "10", "9", "True")
    told = [float(last[name]) for name in ("nll", "nll_difference", "nll_difference_high")]
    assert told == pytest.approx([2.1, 0.1, 0.12])
    assert (
        lines[0]["nll_difference"]
        == lines[1]["nll_difference_low"]
        == last["action_accuracy"]
        == ""
    )


def test_terminal():
    shown = lay_out(table(report(ROWS)), 80)
    assert "• DiagD k=2 d=10" in shown and "  DiagD k=4 d=20" in shown and "+0.100 ±0.020" in shown
    assert "actions" not in shown.split("±: half")[0]


@pytest.mark.parametrize("width", [60, 80, 100])
def test_no_figure_is_cut(width):
    shown = lay_out(table(report(ROWS)), width)
    assert all(len(line) <= width for line in shown.splitlines())
    assert all(cell in shown for row in ROWS for cell in columns(row).values())
