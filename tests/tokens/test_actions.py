"""Actions: as text, as a file, and which one steers which frame."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagd_cli.errors import UsageError
from diagd_cli.families.freedoom.actions import NamedActions
from diagd_cli.families.mineworld.actions import MinecraftActions
from diagd_cli.families.wham.actions import GamepadActions
from diagd_cli.tokens.actions import steering

NAMES = ("idle", "forward", "left", "forward+left", "none")
ACTIONS = NamedActions(offset=100, names=NAMES)
SPELT = {
    "names": '{"action": "left"}',
    "minecraft": '{"mouse": {"dx": 1, "dy": 0, "buttons": []}, "keyboard": {"keys": []}}',
    "gamepad": json.dumps({"action": [0] * 16}),
}


def parse(text):
    """The names that --actions TEXT means."""
    return ACTIONS.describe(ACTIONS.parse(str(text)))


@pytest.mark.parametrize(
    "text, actions",
    [
        ("left", ["left"]),
        ("forward*3,left", ["forward"] * 3 + ["left"]),
        (" forward * 2 , forward+left*1 ", ["forward", "forward", "forward+left"]),
    ],
)
def test_inline(text, actions):
    assert parse(text) == actions


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.integers(1, 99)), min_size=1, max_size=80))
def test_inline_of_any_length(runs):
    """A list longer than any file name may be is still a list."""
    text = ",".join(f"{name}*{count}" for name, count in runs)
    assert parse(text) == [name for name, count in runs for _ in range(count)]


def test_file(tmp_path):
    path = tmp_path / "steer.jsonl"
    path.write_text(
        '\ufeff{"frame": 0, "action": "left"}\n{"action": "idle"}\n\n', encoding="utf-8"
    )  # as editors leave it
    assert parse(path) == ["left", "idle"]
    assert ACTIONS.read(path).tolist() == [[102], [100]]


@pytest.mark.parametrize(
    "text", ["up", "left*", "left*-1", "left*0", "left*1000000", "", "left;idle", "*3", "x.jsonl"]
)
def test_refused(text):
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert caught.value.hint


@pytest.mark.parametrize(
    "kind", [ACTIONS, MinecraftActions(), GamepadActions()], ids=lambda kind: kind.kind
)
def test_a_blank_line_would_move_the_actions_after_it(tmp_path, kind):
    path = tmp_path / "a.jsonl"
    path.write_text("\n\n".join(2 * [SPELT[kind.kind]]))
    with pytest.raises(UsageError, match=r"a\.jsonl, line 2: it is blank"):
        kind.read(path)
    path.write_text("\n".join(2 * [SPELT[kind.kind]]) + "\n \n")
    assert len(kind.read(path)) == 2


@pytest.mark.parametrize(
    "data", [b"[]", b'"left"', b'{"action": ["left"]}', b'{"action": null}', b"\xff", b"[" * 10_000]
)
def test_bad_files(tmp_path, data):
    (tmp_path / "a.jsonl").write_bytes(data)
    with pytest.raises(UsageError, match=r"a\.jsonl"):
        ACTIONS.read(tmp_path / "a.jsonl")


RECORDED = ["forward", "left", "idle", "forward+left"]


@pytest.mark.parametrize(
    "asked, recorded, first, expected",
    [
        # context of 2 frames, 3 new ones: the action at index 1 leads to the first new frame, the
        # last is never read
        (None, None, 0, ["none", "none", "none", "none", "none"]),
        (["left"], None, 0, ["none", "left", "left", "left", "left"]),
        (["left", "idle"], None, 0, ["none", "left", "idle", "idle", "idle"]),
        (None, RECORDED, 0, ["forward", "left", "idle", "forward+left", "forward+left"]),
        (
            None,
            RECORDED,
            2,
            ["idle", "forward+left", "forward+left", "forward+left", "forward+left"],
        ),
        (["left"], RECORDED, 0, ["forward", "left", "left", "left", "left"]),
        (None, RECORDED, 9, ["none", "none", "none", "none", "none"]),
        (["idle"] * 9, None, 0, ["none", "idle", "idle", "idle", "idle"]),
    ],
)
def test_steering(asked, recorded, first, expected):
    rows = [None if names is None else ACTIONS.encode(names) for names in (asked, recorded)]
    steered = steering(*rows, first, context=2, frames=3, rest=ACTIONS.rest)
    assert ACTIONS.describe(steered) == expected


def test_tokens_of_names():
    assert ACTIONS.encode(["idle", "none"]).tolist() == [[100], [104]]
    assert (ACTIONS.size, ACTIONS.vocabulary, ACTIONS.rest.tolist()) == (1, 5, [104])
    with pytest.raises(ValueError, match="not among names"):
        NamedActions(offset=0, names=("idle",))


def test_rows_of_several_tokens_steer_alike():
    """An action may take several tokens, as Minecraft's 11 and a gamepad's 16 do."""
    asked, recorded, rest = np.array([[7, 8]]), np.array([[1, 2], [3, 4]]), np.array([0, 0])
    rows = steering(asked, recorded, 1, context=2, frames=2, rest=rest)
    assert rows.tolist() == [[3, 4], [7, 8], [7, 8], [7, 8]]
