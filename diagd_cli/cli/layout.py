"""Tables, lists and lines of text within the columns of a terminal. Nothing in them is cut: what
does not fit goes below.

A `width` is that of a terminal, in columns; None is as many as it takes, for what is no terminal.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from typing import TextIO

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from diagd_cli.report.table import Row, Table

MOST_TABLES = 3  # that are easier to read than a block for each row
GAP = 1  # columns of the terminal between those of a table
INDENT = 2
LEAST = 20  # columns of the terminal in which it is worth while to wrap a text beside others


def width_of(stream: TextIO) -> int | None:
    """The width of what a stream is shown on: $COLUMNS where that is set, else of its terminal;
    None where there is none.
    """
    told = os.environ.get("COLUMNS", "")
    if told.isdecimal() and int(told):
        return int(told)
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError, AttributeError):  # no terminal, closed, or nothing of the system's
        return None


def lay_out(table: Table, width: int | None) -> str:
    """A table as text; its title and notes wrap by words.

    Where it is too wide, the columns are split into tables that each begin with the label; where
    even that does not fit, or there would be too many tables, each row becomes a block of lines.
    """
    head, rows = table.head, table.rows
    groups = split([max(map(cell_len, cells)) for cells in zip(head, *rows, strict=True)], width)
    parts = [_drawn(head, rows, group, table.left) for group in groups] or [
        _block(head, row, width) for row in rows
    ]
    above, below = (
        wrapped(table.title, width),
        [line for note in table.notes for line in wrapped(note, width)],
    )
    return "\n".join([*above, *[""][: len(above)], "\n\n".join(parts), *[""][: len(below)], *below])


def split(widths: Sequence[int], width: int | None) -> list[list[int]]:
    """Which columns go into each table, the first one into all of them; none where tables would not
    fit or be too many.

    No more tables than needed, and these of about the same width.
    """
    groups = _filled(widths, width)
    while (
        width is not None
        and len(groups) > 1
        and len(even := _filled(widths, width - 1)) == len(groups)
    ):
        groups, width = even, width - 1
    return groups


def _filled(widths: Sequence[int], width: int | None) -> list[list[int]]:
    """The same, each table as full as it can be."""
    room = sum(widths) + GAP * len(widths) if width is None else width
    groups, used = [[0]], widths[0]
    for n, wide in enumerate(widths[1:], 1):
        if used + GAP + wide > room and len(groups[-1]) > 1:
            groups.append([0])
            used = widths[0]
        groups[-1].append(n)
        used += GAP + wide
        if used > room:
            return []
    return groups if len(groups) <= MOST_TABLES and widths[0] <= room else []


def _drawn(head: Row, rows: Sequence[Row], group: list[int], left: Collection[str]) -> str:
    grid = Grid(box=box.SIMPLE_HEAD, show_edge=False, padding=0, pad_edge=False)
    for n in group:
        grid.add_column(
            Text(head[n]), justify="left" if n == 0 or head[n] in left else "right", no_wrap=True
        )
    for row in rows:
        grid.add_row(*(Text(row[n]) for n in group))
    console = Console(
        width=1 << 16, height=1, force_terminal=False, no_color=True, highlight=False, emoji=False
    )
    with console.capture() as drawn:
        console.print(grid)
    return "\n".join(line.rstrip() for line in drawn.get().strip("\n").splitlines())


def _block(head: Row, row: Row, width: int | None) -> str:
    names = max(map(cell_len, head[1:]), default=0)
    lines = wrapped(row[0], width) or [head[0]]
    for cells in zip(head[1:], row[1:], strict=True):
        lines += [
            " " * INDENT + line
            for line in listed(cells, [names + INDENT], width and width - INDENT)
        ]
    return "\n".join(lines)


def listed(cells: Row, stops: Sequence[int], width: int | None) -> list[str]:
    """A line of cells, each as wide as its stop says and the last one free: that is wrapped beside
    the others, or below.
    """
    lead = ""
    for cell, stop in zip(cells, stops, strict=False):
        lead += cell + " " * max(1, stop - cell_len(cell))
    text = cells[-1]
    if width is None:
        return [(lead + text).rstrip()]
    room = width and width - cell_len(lead)
    if cell_len(text) <= room:
        return [(lead + text).rstrip()]
    longest = max(map(cell_len, text.split(" ")))
    if room >= max(LEAST, longest):
        first, *others = wrapped(text, room)
        return [lead + first, *(" " * cell_len(lead) + line for line in others)]
    return [
        *wrapped(lead.rstrip(), width),
        *(" " * INDENT + line for line in wrapped(text, width - INDENT)),
    ]


def wrapped(text: str, width: int | None) -> list[str]:
    """Lines of a text, broken between words only; what it is indented by is kept. A word that is
    too long stays whole.
    """
    if width is None or cell_len(text) <= width:
        return [text] if text else []
    indent = " " * (len(text) - len(text.lstrip(" ")))
    lines = [""]
    for word in re.findall(r"[^ ]+ *", text):
        if lines[-1] and cell_len(indent + lines[-1] + word.rstrip(" ")) > width:
            lines.append("")
        lines[-1] += word
    return [indent + line.rstrip(" ") for line in lines]
