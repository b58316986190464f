"""diagd vote: from two folders to a table."""

import json

import pytest
from jobs.vote.ballots import make_folders, make_votes, write_votes


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make_folders(tmp_path_factory.mktemp("clips"))


def votes_for_a(key: dict, pairs: int, path, ballot: int = 0):
    """A file of a voter who likes folder a's video in the first `pairs` pairs, and finds the others
    equal.
    """
    side = {"a": "left", "b": "right"}
    choices = {
        pair: side[entry["left"]] if n < pairs else "equal"
        for n, (pair, entry) in enumerate(key["pairs"].items())
    }
    return write_votes(path, make_votes(choices, ballot, vote=key["vote"]))


def test_pack_and_count(diagd, folders, tmp_path):
    done = diagd(
        "vote", "pack", *folders, "-o", tmp_path / "ballot", "--question", "Which is sharper?"
    )
    assert done.code == 0 and done.out == f"{tmp_path / 'ballot'}\n"
    assert f"{tmp_path / 'ballot.key.json'} tells the sides" in done.err
    key = json.loads((tmp_path / "ballot.key.json").read_text())
    files = [votes_for_a(key, n, tmp_path / f"votes-{n}.json", n) for n in (3, 2)]
    done = diagd("vote", "count", *files, "--key", tmp_path / "ballot.key.json")
    lines = done.out.splitlines()
    assert done.code == 0 and all(len(line) <= 80 for line in lines[1:])
    assert lines[0] == f"Which is sharper? 2 voters; win: {folders[0]} over {folders[1]}"
    assert lines[4].split() == [
        "all",
        "6",
        "5",
        "83%",
        "(44-97)",
        "1",
        "17%",
        "(3-56)",
        "0",
        "0%",
        "(0-39)",
    ]
    assert lines[5].split()[:4] == ["1", "2", "2", "100%"] and lines[5].endswith(
        key["pairs"]["1"]["name"]
    )
    assert lines[-1].startswith("Sign test, ties left out: p = 0.062.")


def test_json(diagd, folders, tmp_path):
    done = diagd("vote", "pack", *folders, "-o", tmp_path / "ballot", "--seed", 7, "--json", "-q")
    facts = {
        "folder": str(tmp_path / "ballot"),
        "key": str(tmp_path / "ballot.key.json"),
        "pairs": 3,
        "seed": 7,
    }
    assert done.objects == [facts] and done.err == ""
    key = json.loads((tmp_path / "ballot.key.json").read_text())
    votes = votes_for_a(key, 1, tmp_path / "votes.json")
    [facts] = diagd("vote", "count", votes, "--key", tmp_path / "ballot.key.json", "--json").objects
    assert (facts["voters"], facts["overall"]["votes"], facts["overall"]["p"]) == (1, 3, 1)
    assert facts["overall"]["win"]["interval"] == pytest.approx([0.0615, 0.7923], abs=1e-4)
    assert [pair["win"]["count"] for pair in facts["pairs"]] == [1, 0, 0]


def test_a_seed_is_drawn_where_none_is_given(diagd, folders, tmp_path):
    seeds = [
        diagd("vote", "pack", *folders, "-o", tmp_path / n, "--json").objects[0]["seed"]
        for n in ("one", "two")
    ]
    assert seeds[0] != seeds[1]


def test_failures_are_one_line(diagd, folders, tmp_path):
    (tmp_path / "bad.json").write_text("{}")
    (tmp_path / "taken").mkdir()
    pack, count = (
        ["vote", "pack", *folders, "-o"],
        ["vote", "count", tmp_path / "bad.json", "--key"],
    )
    for arguments, code, message in [
        ([*pack, tmp_path / "taken"], 1, "exists already. Choose another name"),
        ([*pack, "."], 2, ". is no folder to make. Name a new one"),
        (
            [*pack, tmp_path / "new", "--question", ""],
            2,
            "The question has 0 characters. Write 1 to 300",
        ),
        (
            ["vote", "pack", folders[0], folders[0], "-o", tmp_path / "new"],
            2,
            "are the same folder",
        ),
        (
            [*count, tmp_path / "none.json"],
            1,
            "none.json cannot be read: no such file or directory. Give the FOLDER.key",
        ),
        ([*count, tmp_path / "bad.json"], 1, "bad.json is not a vote's key: vote: Field required"),
    ]:
        done = diagd(*arguments)
        assert done.code == code and message in done.err and len(done.err.splitlines()) == 1, (
            done.err
        )


def test_names_cannot_steer_a_terminal(diagd, tmp_path):
    pair = {"1": {"name": "\x1b[31mred\n[bold]", "left": "a"}}
    key = {
        "format": "diagd-vote-key",
        "vote": "0123",
        "question": "Q?\x07",
        "seed": 1,
        "a": "a\x1b",
        "b": "b",
        "pairs": pair,
    }
    (tmp_path / "key.json").write_text(json.dumps(key))
    votes = write_votes(tmp_path / "votes.json", make_votes({"1": "left"}))
    done = diagd("vote", "count", votes, "--key", tmp_path / "key.json")
    assert (
        done.code == 0
        and "\x1b" not in done.out
        and "\x07" not in done.out
        and "[bold]" in done.out
    )
