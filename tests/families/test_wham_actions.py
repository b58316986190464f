"""Actions of WHAM from files, and what is said of values that cannot be."""

import json

import numpy as np
import pytest

from diagd_cli.errors import UsageError
from diagd_cli.families.wham.actions import (
    NEUTRAL,
    decode_actions,
    encode_actions,
    read_gamepad,
    read_npz,
    stick_bins,
)

ACTIONS = np.array([[1] + [0] * 11 + [0, 5, 10, 7], [0] * 11 + [1] + [5] * 4], dtype=np.float32)


def jsonl(path, *rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def refused(read, *args) -> str:
    with pytest.raises(UsageError) as caught:
        read(*args)
    assert caught.value.hint and "\n" not in str(caught.value)
    return caught.value.message


# ---- values --------------------------------------------------------------------------------------


def test_the_neutral_action_is_in_the_dead_zone():
    assert stick_bins(np.zeros(4)).tolist() == NEUTRAL[12:].tolist() and not NEUTRAL[:12].any()


@pytest.mark.parametrize("value", [1.05, -1.0501, 2.0, np.nan, np.inf])
def test_sticks_beyond_their_ends(value):
    assert f"A stick is at {value:g}" in refused(stick_bins, np.array([0.5, value]))


@pytest.mark.parametrize(
    "place, value, said",
    [
        (0, 2, "Button 0 of frame 1 is 2"),
        (11, -1, "Button 11 of frame 1 is -1"),
        (3, 0.5, "Button 3 of frame 1 is 0.5"),
        (12, 11, "Stick 0 of frame 1 is 11"),
        (15, 7.5, "Stick 3 of frame 1 is 7.5"),
        (14, np.nan, "Stick 2 of frame 1 is nan"),
    ],
)
def test_values_that_are_no_actions(place, value, said):
    actions = ACTIONS.copy()
    actions[1, place] = value
    assert said == refused(encode_actions, actions)


def test_rows_of_another_length():
    assert "has 15 values" in refused(encode_actions, ACTIONS[:, :15])


def test_tokens_out_of_place():
    with pytest.raises(ValueError, match="another one's place"):
        decode_actions(encode_actions(ACTIONS)[:, ::-1])


# ---- .npz ----------------------------------------------------------------------------------------


def save_npz(path, images=np.zeros((2, 3, 4, 6), np.uint8), actions=ACTIONS, **more):
    fields = {"images": images, "actions": actions, **more}
    np.savez(path, **{name: value for name, value in fields.items() if value is not None})
    return path


def test_an_official_recording(tmp_path):
    images = np.random.default_rng(0).integers(256, size=(2, 3, 4, 6), dtype=np.uint8)
    path = save_npz(tmp_path / "x_data.npz", images, states=np.zeros(5))
    episode = read_npz(path)
    assert np.array_equal(episode.images, images.transpose(0, 2, 3, 1))
    assert np.array_equal(episode.actions, ACTIONS) and episode.actions.dtype == np.float32
    assert np.array_equal(read_gamepad(path), ACTIONS)


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"actions": None}, "no field actions"),
        ({"images": None}, "no field images"),
        ({"actions": ACTIONS[:, :15]}, "actions are float32 [2, 15]"),
        ({"actions": ACTIONS.astype(str)}, "actions are <U32 [2, 16]"),
        ({"actions": ACTIONS * 3}, "Button 0 of frame 0 is 3"),
        ({"actions": ACTIONS[:1]}, "2 images and 1 actions"),
        ({"images": np.zeros((2, 4, 6, 3), np.uint8)}, "images are uint8 [2, 4, 6, 3]"),
        ({"images": np.zeros((2, 3, 4, 6), np.float32)}, "images are float32 [2, 3, 4, 6]"),
        ({"actions": np.array([{}], dtype=object)}, "no .npz of plain arrays"),
    ],
)
def test_recordings_of_another_form(tmp_path, fields, said):
    assert said in refused(read_npz, save_npz(tmp_path / "x.npz", **fields))


def test_recordings_that_are_none(tmp_path):
    path = tmp_path / "x.npz"
    assert "No such file" in refused(read_npz, path)
    whole = save_npz(path).read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2]):
        path.write_bytes(content)
        assert str(path) in refused(read_gamepad, path)
    np.save(tmp_path / "y.npy", ACTIONS)
    assert "no .npz" in refused(read_npz, tmp_path / "y.npy")


# ---- JSONL ---------------------------------------------------------------------------------------


def test_both_forms_of_a_line(tmp_path):
    buttons = [True] + [0] * 11
    path = jsonl(
        tmp_path / "x.jsonl",
        {"buttons": buttons, "sticks": [-1, 0, 1.0, 0.4]},
        {"action": ACTIONS[1].tolist()},
        "",
    )
    assert np.array_equal(read_gamepad(path), ACTIONS)


@pytest.mark.parametrize(
    "row, said",
    [
        ("forward", "not an action: forward"),
        ("[1, 2]", "not an action"),
        ({"action": "forward"}, 'action is "forward"'),
        ({"action": [0] * 15}, "action is [0, 0"),
        ({"action": ["0"] * 16}, 'action is ["0"'),
        ({"buttons": [0] * 12}, "not an action"),
        ({"buttons": [0] * 12, "sticks": [0] * 3}, "sticks is [0, 0, 0]"),
        ({"buttons": [0] * 12, "sticks": [0, 0, 0, 1.2]}, "A stick is at 1.2"),
        ({"buttons": [2] + [0] * 11, "sticks": [0] * 4}, "Button 0 is 2"),
        ({"action": [0] * 12 + [0.5, 0, 0, 0]}, "Stick 0 is 0.5"),
        ('{"action": [' + "0, " * 15 + "NaN]}", "Stick 3 is nan"),
        ({"action": [10**400] + [0] * 15}, "too large"),
        ("[" * 100_000, "not an action"),
    ],
)
def test_lines_that_are_no_actions(tmp_path, row, said):
    path = jsonl(tmp_path / "x.jsonl", {"action": [0] * 16}, row)
    message = refused(read_gamepad, path)
    assert f"{path}, line 2: " in message and said in message and len(message) < 300


def test_files_without_actions(tmp_path):
    assert "holds no action" in refused(read_gamepad, jsonl(tmp_path / "x.jsonl", "", ""))
    assert "No such file" in refused(read_gamepad, tmp_path / "y.jsonl")
