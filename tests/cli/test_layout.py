"""Tables within a terminal's columns: whatever the width, every cell is there as a whole."""

import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from diagd_cli.cli.layout import lay_out, listed, split, width_of, wrapped
from diagd_cli.report.table import Table

# Words without spaces, so that a text which is broken can be put together again; some are as wide
# as two columns.
WORD = st.text(st.sampled_from("aZ09.,-+±%[]:é日本🙂"), min_size=1, max_size=12)
CELL = st.one_of(WORD, st.lists(WORD, min_size=1, max_size=6).map(" ".join))
TABLES = st.integers(1, 13).flatmap(
    lambda n: st.lists(st.lists(CELL, min_size=n, max_size=n), min_size=2, max_size=5)
)
WIDTHS = st.one_of(st.none(), st.integers(60, 200))


def flat(text: str) -> str:
    return " ".join(text.split())


@given(TABLES, WIDTHS, CELL, st.lists(CELL, max_size=2))
def test_no_cell_is_cut_and_no_line_too_long(table, width, title, notes):
    head, *rows = table
    shown = lay_out(Table(head, rows, title, notes), width)
    assert all(cell_len(line) <= (width or 10_000) for line in shown.splitlines())
    for text in [title, *notes, *head[1:], *(cell for row in rows for cell in row)]:
        fits = cell_len(text) <= (width or 10_000) - 4
        assert text in shown if fits and cell_len(text) < 30 else flat(text) in flat(shown)


@given(TABLES, WIDTHS)
def test_every_row_keeps_its_cells(table, width):
    """Of each table that the rows are split into, line n is led by the label of row n, and its
    cells stand in their order.
    """
    head, *rows = table
    groups = split([max(map(cell_len, cells)) for cells in zip(*table, strict=True)], width)
    parts = lay_out(Table(head, rows), width).split("\n\n")
    if not groups:
        assert len(parts) == len(rows) and all(
            map(str.startswith, map(flat, parts), [flat(row[0]) for row in rows])
        )
        return
    assert sorted(n for group in groups for n in group if n) == list(range(1, len(head)))
    for group, part in zip(groups, parts, strict=True):
        lines = part.splitlines()
        assert set(lines[1]) <= {"─", " "} and len(lines) == len(rows) + 2
        for row, line in zip([head, *rows], [lines[0], *lines[2:]], strict=True):
            assert flat(line) == flat(" ".join(row[n] for n in group))


def test_wide_narrow_and_narrower():
    head, row = ["decoding", "steps", "tokens/s", "speed-up"], ["NTP", "4,800", "1,300", "1.0x"]
    [table] = lay_out(Table(head, [row]), 60).split("\n\n")
    assert (
        table.splitlines()[0] == "decoding steps tokens/s speed-up"
        and lay_out(Table(head, [row]), None) == table
    )
    first, second = lay_out(Table(head, [row]), 25).split("\n\n")
    assert [part.splitlines()[0] for part in (first, second)] == [
        "decoding steps tokens/s",
        "decoding speed-up",
    ]
    assert split([8, 5, 8, 8, 4, 4], 40) == [[0, 1, 2], [0, 3, 4, 5]]  # not all but one, and one
    row[0] = "NTP without repair"
    assert lay_out(Table(head, [row]), 22) == (
        "NTP without repair\n  steps     4,800\n  tokens/s  1,300\n  speed-up  1.0x"
    )


def test_a_table_is_text_alone_and_whole_on_any_kind_of_terminal(monkeypatch):
    head, row = [str(n) * 20 for n in range(9)], ["figures"] * 9
    plain = lay_out(Table(head, [row]), None)
    for kind in ("dumb", "xterm-256color"):
        monkeypatch.setenv("TERM", kind)
        monkeypatch.setenv("FORCE_COLOR", "1")
        assert lay_out(Table(head, [row]), None) == plain


def test_a_label_that_fills_the_line_has_a_block():
    label = "DiagD k=2 d=10, " + "n" * 44
    assert lay_out(Table(["decoding", "steps"], [[label, "156"]]), 60) == f"{label}\n  steps  156"


def test_texts_break_between_words_and_keep_their_indent():
    assert wrapped("  NLL 2.345, +1.2% (95%: +0.4% to +1.9%)", 24) == [
        "  NLL 2.345, +1.2% (95%:",
        "  +0.4% to +1.9%)",
    ]
    assert wrapped("a " + "b" * 30, 20) == ["a", "b" * 30]
    assert wrapped("", 20) == [] and wrapped("a" * 99, None) == ["a" * 99]


def test_lists_wrap_beside_their_names_or_below():
    about = "First-person walks through rooms, steered"
    assert listed(("freedoom", about), (12,), None) == ["freedoom    " + about]
    assert listed(("freedoom", about), (12,), 40)[1] == " " * 12 + "rooms, steered"
    assert listed(("freedoom", "/" + "x" * 40), (12,), 45) == ["freedoom", "  /" + "x" * 40]


def test_the_width_is_the_terminal_s_or_what_columns_says(monkeypatch):
    pty = pytest.importorskip("pty")
    fcntl, termios, struct = (pytest.importorskip(name) for name in ("fcntl", "termios", "struct"))
    monkeypatch.delenv("COLUMNS", raising=False)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 66, 0, 0))
    with os.fdopen(theirs, "w") as terminal, open(os.devnull, "w") as nothing:
        assert width_of(terminal) == 66 and width_of(nothing) is None
        monkeypatch.setenv("COLUMNS", "72")
        assert width_of(terminal) == width_of(nothing) == width_of(sys.stdout) == 72
    os.close(ours)
