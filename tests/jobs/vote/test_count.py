"""Counting votes: what a choice means, intervals, the sign test, and files that are refused."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jobs.vote.ballots import make_key, make_votes, write_votes

from diagd_cli.jobs.vote.count import check_votes, count_votes, outcome, sign_test, wilson
from diagd_cli.jobs.vote.records import LARGEST, Key, VoteError, Votes, read_record


def test_a_choice_counts_for_the_folder_whose_video_was_there():
    assert [outcome("a", choice) for choice in ("left", "right", "equal")] == ["win", "lose", "tie"]
    assert [outcome("b", choice) for choice in ("left", "right", "equal")] == ["lose", "win", "tie"]


def test_counts_by_pair_and_overall():
    votes = [
        make_votes({"1": "left", "2": "right", "3": "equal"}),
        make_votes({"1": "right", "2": "right"}, 1),
    ]
    facts = count_votes(make_key("aba"), votes).facts()
    assert [facts[name] for name in ("a", "b", "question", "voters")] == [
        "ntp",
        "diagd",
        "Which?",
        2,
    ]
    counts = [
        [row[name]["count"] for name in ("win", "tie", "lose")]
        for row in (facts["overall"], *facts["pairs"])
    ]
    assert counts == [[3, 1, 1], [1, 0, 1], [2, 0, 0], [0, 1, 0]]
    assert facts["overall"]["votes"] == 5 and facts["overall"]["win"]["share"] == 0.6
    assert facts["overall"]["p"] == sign_test(3, 1) == 0.625
    assert facts["pairs"][0]["name"] == "1.mp4"


def test_a_pair_without_votes_has_no_shares():
    pair = count_votes(make_key("ab"), [make_votes({"1": "left"})]).facts()["pairs"][1]
    assert pair["votes"] == 0 and pair["win"] == {"count": 0, "share": None, "interval": None}


@pytest.mark.parametrize(
    "count, total, interval",
    [
        (0, 10, (0, 0.2775)),
        (1, 10, (0.0179, 0.4042)),
        (5, 10, (0.2366, 0.7634)),
        (81, 263, (0.2553, 0.3662)),
    ],
)
def test_wilson_interval(count, total, interval):
    """The last row is the example of Newcombe, Statistics in Medicine 17 (1998), table I,
    method 3.
    """
    assert wilson(count, total) == pytest.approx(interval, abs=5e-5)


@given(st.integers(1, 10**6), st.data())
def test_wilson_interval_holds_the_share_and_mirrors(total, data):
    count = data.draw(st.integers(0, total))
    low, high = wilson(count, total)
    assert 0 <= low <= count / total <= high <= 1
    assert wilson(total - count, total) == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize(
    "wins, losses, p",
    [(0, 0, 1), (1, 0, 1), (3, 3, 1), (5, 0, 2 / 32), (8, 2, 112 / 1024), (0, 1000, 2**-999)],
)
def test_sign_test(wins, losses, p):
    assert sign_test(wins, losses) == sign_test(losses, wins) == pytest.approx(p, rel=1e-12)


@pytest.mark.parametrize(
    "second, message",
    [
        (make_votes({"1": "left"}, 1, vote="4567"), "two.json is of another vote"),
        (
            make_votes({"9": "left"}, 1),
            "two.json has a choice for pair '9', which is not in the key",
        ),
        (make_votes({"1": "left"}, 0), "two.json and one.json are of the same voter"),
    ],
)
def test_foreign_and_repeated_votes(second, message):
    with pytest.raises(VoteError) as error:
        check_votes(
            make_key(), [(Path("one.json"), make_votes({"1": "left"})), (Path("two.json"), second)]
        )
    assert error.value.message == message and error.value.hint


@pytest.mark.parametrize(
    "content, reason",
    [
        ("", "Invalid JSON"),
        ("[1, 2]", "Input should be an object"),
        ("\N{SNOWMAN}", "Invalid JSON"),
        ("[" * 100_000, "Invalid JSON"),
        (" " * (LARGEST + 1), "it is larger than 8 MiB"),
    ],
)
def test_files_that_are_no_votes(tmp_path, content, reason):
    path = tmp_path / "votes.json"
    path.write_text(content)
    for kind in (Key, Votes):
        with pytest.raises(VoteError) as error:
            read_record(path, kind)
        assert reason in error.value.message and len(error.value.message) < len(str(path)) + 150


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"format": "diagd-vote-key"}, "format: Input should be 'diagd-votes'"),
        ({"choices": {}}, "choices: "),
        ({"choices": {"1": "both"}}, "choices.1: Input should be 'left', 'right' or 'equal'"),
        ({"choices": {"1": ["left"]}}, "choices.1: "),
        ({"ballot": "../../x"}, "ballot: "),
        ({"voter": "x" * 201}, "voter: "),
        ({"vote": 5}, "vote: "),
        ({"more": 1}, "unknown key 'more'"),
    ],
)
def test_votes_with_wrong_values(tmp_path, changes, reason):
    path = write_votes(tmp_path / "votes.json", make_votes({"1": "left"}), **changes)
    with pytest.raises(VoteError, match=r"votes.json is not a file of votes: ") as error:
        read_record(path, Votes)
    assert reason in error.value.message


def test_a_missing_file(tmp_path):
    with pytest.raises(VoteError, match=r"none.json cannot be read: no such file or directory"):
        read_record(tmp_path / "none.json", Key)
