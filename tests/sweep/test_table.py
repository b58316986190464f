"""A sweep as CSV, and as tables for a terminal."""

import csv

import pytest
from rich.console import Console
from sweep.small import ntp, report, row

from diagd_cli.sweep.front import ranked
from diagd_cli.sweep.table import table, write_csv

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
    assert lines[0]["nll_difference"] == lines[1]["nll_difference_low"] == last["action_accuracy"] == ""


def test_terminal():
    console = Console(width=80, record=True, file=None)
    with console.capture() as shown:
        for part in table(report(ROWS)):
            console.print(part)
    text = shown.get()
    assert "• DiagD k=2 d=10" in text and "  DiagD k=4 d=20" in text and "+0.100 ±0.020" in text
    assert "…" not in text and "actions" not in text.split("±: half")[0]
