"""Rows of a manifest: the same from every kind of file, and what is wrong with one in a line."""

import csv
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagd_cli.errors import UsageError
from diagd_cli.jobs.manifest import read_manifest
from diagd_cli.jobs.targets import Row, Shard, continuations, parse_shard

ROWS = [
    {"clip": "a.mp4", "seed": 7, "frames": 3, "output": "one/a.mp4"},
    {"clip": "/else/b.mp4", "actions": "left*2", "prompt": "two, doors"},
    {"clip": "c.mp4", "actions": "walks/c.jsonl"},
]


def write(folder: Path, kind: str, rows: list[dict]) -> Path:
    path = folder / f"rows{kind}"
    names = list(dict.fromkeys(name for row in rows for name in row))
    if kind == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8")
    elif kind == ".csv":
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)
    else:
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(
            pyarrow.Table.from_pylist([{name: row.get(name) for name in names} for row in rows]),
            path,
        )
    return path


@pytest.mark.parametrize("kind", [".jsonl", ".csv", ".parquet"])
def test_every_kind_holds_the_same_rows(tmp_path, kind):
    """Also by the key that decides a row's shard; paths lead from here to where they are."""
    path = write(tmp_path, kind, ROWS)
    rows = read_manifest(path, "out/", ".mp4")
    first = Row(tmp_path / "a.mp4", seed=7, frames=3, output=Path("out/one/a.mp4"))
    second = Row(Path("/else/b.mp4"), actions="left*2", prompt="two, doors")
    third = Row(tmp_path / "c.mp4", actions=str(tmp_path / "walks/c.jsonl"))
    keys = [json.dumps(row, sort_keys=True, separators=(",", ":")) for row in ROWS]
    assert [row.key for row in rows] == keys
    assert [Row(**{**vars(row), "key": ""}) for row in rows] == [first, second, third]


def test_without_a_folder_outputs_lie_beside_the_manifest(tmp_path):
    path = write(tmp_path, ".jsonl", ROWS[:1])
    [row] = read_manifest(path, None, ".mp4")
    assert row.output == tmp_path / "one" / "a.mp4"
    with pytest.raises(UsageError, match=r"line 2: no output\. Give -o FOLDER, or a column"):
        read_manifest(write(tmp_path, ".jsonl", ROWS), None, ".mp4")


@pytest.mark.parametrize(
    "row, told",
    [
        ({"clip": "a.mp4", "prmpt": "x"}, "unknown column 'prmpt'. Did you mean prompt? Columns are clip, actions,"),
        ({"clip": "a.mp4", "xyz": 1}, "unknown column 'xyz'. Columns are clip, actions, prompt, seed, frames, output"),
        ({"seed": 1}, "no clip. Columns are clip,"),
        ({"clip": ""}, "no clip"),
        ({"clip": "a.mp4", "seed": -1}, "seed is -1: input should be greater than or equal to 0"),
        ({"clip": "a.mp4", "seed": "x"}, "seed is 'x': input should be a valid integer"),
        ({"clip": "a.mp4", "frames": 0}, "frames is 0: "),
        ({"clip": "a\0.mp4"}, "clip is 'a\\x00.mp4': "),
        ({"clip": "a.mp4", "output": "a.avi"}, "the output a.avi does not end in .mp4. Name an .mp4 file"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_its_line(tmp_path, row, told):
    with pytest.raises(UsageError, match=f"rows.jsonl, line 2: {re.escape(told)}"):
        read_manifest(write(tmp_path, ".jsonl", [{"clip": "a.mp4"}, row]), "out", ".mp4")


@pytest.mark.parametrize(
    "name, text, told",
    [
        ("a.jsonl", '{"clip": "a.mp4"}\n[1]', "a.jsonl, line 2: not a JSON object. Write lines of"),
        ("a.jsonl", "\n", "a.jsonl holds no row"),
        ("a.csv", "clip,seed\na.mp4,1,2", "a.csv, line 2: more values than columns"),
        ("a.csv", ",clip\n0,a.mp4", "a.csv, line 2: unknown column ''"),
        ("a.csv", b"clip\n\xff.mp4", "a.csv cannot be read: it is not text"),
        ("a.txt", "a.mp4", "a.txt is no .jsonl, .csv, .parquet file"),
    ],
)
def test_files_that_are_no_manifest(tmp_path, name, text, told):
    (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(UsageError, match=told):
        read_manifest(tmp_path / name, "out", ".mp4")


def test_parquet_that_is_none(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_text("clip")
    with pytest.raises(UsageError, match=r"a\.parquet is not a Parquet file: "):
        read_manifest(tmp_path / "a.parquet", "out", ".mp4")
    rows = write(tmp_path, ".parquet", [{"clip": "a.mp4", "prmpt": "x"}])
    with pytest.raises(UsageError, match=r"rows\.parquet: unknown column 'prmpt'\. Did you mean"):
        read_manifest(rows, "out", ".mp4")


@given(st.lists(st.text(min_size=1), unique=True), st.text(), st.integers(1, 9))
def test_shards_are_apart_and_stable(names, another, count):
    """Every row is in one shard, and one that is added moves none of the others."""
    shards = [Shard(n + 1, count) for n in range(count)]
    rows = [Row(Path("x"), key=name) for name in names]
    parts = [[row for row in rows if shard.holds(row)] for shard in shards]
    assert sorted(row.key for part in parts for row in part) == sorted(names)
    more = [Row(Path("x"), key=another), *rows]
    for shard, part in zip(shards, parts, strict=True):
        assert [row for row in more if shard.holds(row) and row.key != another] == [
            row for row in part if row.key != another
        ]


HELD = [[0, 0, 0, 0, 1, 1, 0, 0], [0, 1, 0, 0, 0, 0, 1, 0], [1, 0, 1, 1, 0, 0, 0, 1]]  # by shard


def test_a_clip_is_in_the_shard_it_has_always_been_in():
    """By SHA-256 of {"clip":"0.mp4"}, ...: whoever splits a job over weeks relies on it."""
    clips = [Path(f"{n}.mp4") for n in range(8)]
    held = [[int(Shard(n, 3).holds(Row(clip))) for clip in clips] for n in (1, 2, 3)]
    assert held == HELD
    made = continuations(clips, "out", samples=2, shard=Shard(1, 3))
    assert [target.clip for target in made[::2]] == [
        clip for clip, mine in zip(clips, HELD[0], strict=True) if mine
    ]
    assert [target.output.name[-6:] for target in made[:2]] == ["-1.mp4", "-2.mp4"]


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3", "1/3/5"])
def test_what_is_no_shard(text):
    with pytest.raises(
        UsageError, match=r"is not I/N with I in 1\.\.N\. The first of eight is 1/8"
    ):
        parse_shard(text)
