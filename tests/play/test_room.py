"""A world that is served: what a client hears, what it may ask for, and who else is there."""

import asyncio
import io
import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from families.small import steer, write_small_models
from PIL import Image
from play.server import Client, served, serving, until
from tiny import moving, save_clip
from websockets.exceptions import ConnectionClosed, InvalidStatus

import diagd_cli
from benchmarks.visitors import come_and_go, malformed, vanish
from diagd_cli import load, load_preset, play_app
from diagd_cli.clip.image import stamped
from diagd_cli.clip.read import read_clip
from diagd_cli.errors import DiagdError, MissingExtra
from diagd_cli.pipeline import to_frames
from diagd_cli.play.app import room_app

pytest_plugins = ["play.rooms"]


@pytest.fixture
def address(room):
    with served(room) as address:
        yield address


@pytest.fixture
def player(address):
    with Client(address) as client:
        client.word("hello")
        yield client


def fetched(address):
    with urllib.request.urlopen(f"http://{address}", timeout=20) as answer:
        return answer.read(), answer.headers


# ---- playing -------------------------------------------------------------------------------------


def test_a_client_is_told_what_it_can_ask_for_and_sees_the_clip_before_the_world(address):
    with Client(address) as client:
        hello, state = client.word("hello"), client.word("state")
        assert hello["version"] == 1 and hello["role"] == "player"
        assert (hello["width"], hello["height"], hello["grid"]) == (24, 16, {"h": 2, "w": 3})
        assert hello["actions"] == ["idle", "left", "right", "none"] and hello["rest"] == "none"
        assert hello["clips"] == ["walk", "later"]
        assert [each["label"] for each in hello["decodings"]] == ["NTP", "DiagD k=1 d=2"]
        assert state["decoding"]["method"] == "diagd" and state["seed"] == 7
        frame = client.frame(lambda frame: not frame.of_clip)
        assert frame.number >= 2 and frame.steps > 0
        picture = Image.open(io.BytesIO(frame.picture))
        assert picture.size == (24, 16) and picture.format == "JPEG"


def test_what_is_held_steers_the_frames_that_begin_after_it(player):
    player.say(do="act", action="left", t=123.5)
    first = player.frame(lambda frame: frame.stamp == 123.5)
    assert first.action == 1 and 0 < first.waited < 5000
    assert player.frame().action == 1  # it is held
    player.say(do="act", action="right", t=124.0)
    assert player.frame(lambda frame: frame.stamp == 124.0).action == 2


def test_pictures_without_loss_are_had_for_the_asking(player, loaded, room):
    player.say(do="format", format="png")
    frame = player.frame(lambda frame: frame.picture.startswith(b"\x89PNG") and not frame.of_clip)
    pixels = np.asarray(Image.open(io.BytesIO(frame.picture)))
    codes = room.places[0].walk.take.codes[frame.number - 2]
    assert np.array_equal(pixels, to_frames(loaded, codes[None])[0])


def test_who_plays_for_hours_keeps_nothing_but_the_tokens(player, room):
    """100,000 frames of 15x20 are 120 MB: a view of what the session remembers would be ten times that."""
    player.frame(lambda frame: not frame.of_clip)
    codes = room.places[0].walk.take.codes[0]
    assert codes.base is None and codes.itemsize == 4


def test_the_decoding_is_another_from_one_frame_to_the_next(player, room):
    player.frame(lambda frame: not frame.of_clip)
    player.say(do="decode", method="ntp")
    assert player.word("state")["decoding"]["label"] == "NTP"
    assert player.frame(lambda frame: frame.steps == 6).number  # a step a token
    player.say(do="decode", method="diagd", k=2, d=3)
    assert player.word("state")["decoding"]["label"] == "DiagD k=2 d=3"
    player.frame(lambda frame: frame.steps == 3)
    assert [d.method for _, d in room.places[0].walk.take.begun] == ["diagd", "ntp", "diagd"]


def test_a_world_begins_anew(player, room):
    player.frame(lambda frame: frame.number > 4)
    player.say(do="reset", seed=9, clip="later")
    state = player.word("state")
    assert (state["seed"], state["clip"]) == (9, "later")
    assert player.frame(lambda frame: frame.of_clip)
    player.say(do="reset")
    assert player.word("state")["clip"] == "later" and room.places[0].walk.take.seed != 9


def test_a_pause_lasts_until_it_is_over(player):
    player.frame(lambda frame: not frame.of_clip)
    player.say(do="pause", on=True)
    assert player.word("state")["paused"]
    while player.hear(0.5) is not None:  # frames in flight
        pass
    player.say(do="pause", on=False)
    player.frame()


def test_no_more_than_two_frames_are_on_their_way_and_then_comes_the_newest(address):
    with Client(address, acknowledges=False) as client:
        client.word("hello")
        while client.hear(0.5) is not None:
            pass
        assert len(client.frames) == 2
        client.say(do="ack", frame=client.frames[0].number)
        assert client.frame().number > client.frames[1].number + 1


def test_what_was_played_is_made_again_by_the_command_that_is_told(
    player, address, room, diagd, tiny, tmp_path, monkeypatch
):
    """Bit for bit: the seed, and each action at the frame that it steered."""
    for n, action in enumerate(["left", "right", "idle", "left"]):
        player.say(do="act", action=action, t=float(n + 1))
        player.frame(lambda frame, n=n: frame.stamp == n + 1)
    player.say(do="save")
    saved = player.word("saved")
    files = {kind: fetched(address + path)[0] for kind, path in saved["files"].items()}
    facts = json.loads(files["sidecar"])
    (tmp_path / facts["output"]).with_suffix(".jsonl").write_bytes(files["actions"])
    again = facts["again"].split()
    monkeypatch.chdir(tmp_path)
    done = diagd(*again[1:], "-o", "again.mp4")
    assert done.code == 0, done.err
    with np.load(tmp_path / "again.npz") as arrays:
        made = arrays["codes"][2:]
    assert len(made) == facts["new_frames"] >= 4
    assert np.array_equal(made, np.stack(list(room.places[0].walk.take.codes))[: len(made)])
    names = [json.loads(line)["action"] for line in files["actions"].splitlines()]
    assert {"left", "right", "idle"} <= set(names) and len(names) == len(made)
    assert read_clip(_file(tmp_path / "saved.mp4", files["mp4"]), len(made)).frames.shape[1:] == (
        16,
        24,
        3,
    )


def _file(path, content):
    path.write_bytes(content)
    return path


def test_of_several_decodings_the_command_makes_the_frames_of_the_first(player, room):
    player.frame(lambda frame: not frame.of_clip)
    player.say(do="decode", method="ntp")
    player.frame(lambda frame: frame.steps == 6)
    player.say(do="save")
    path = player.word("saved")["files"]["sidecar"]
    facts = json.loads(fetched(player.address + path)[0])
    ends = [each["from_frame"] for each in facts["decodings"]]
    assert ends == [0, facts["again_frames"]] and facts["again_frames"] < facts["new_frames"]
    assert f"--frames {facts['again_frames']} --decoding diagd" in facts["again"]


def example(about, forward="forward", **names):
    """What the docs' example leaves, of the one that names something."""
    page = (Path(__file__).parents[2] / "docs" / "play.md").read_text()
    [code] = [block for block in page.split("```python\n")[1:] if about in block.split("```")[0]]
    code = code.split("```")[0].replace("forward", forward)
    exec(compile(code, "play.md", "exec"), names)
    return names


def test_the_client_of_the_docs_walks(address):
    names = example("websockets", address=address, forward="left")
    assert len(names["seen"]) == 10 and names["seen"][-1][1] == 1.0
    assert Image.open(io.BytesIO(names["seen"][-1][2])).size == (24, 16)


def test_the_application_of_the_docs_is_mounted_under_a_path(tiny, monkeypatch):
    """Its lifespan is not called there: it begins when it is first asked for."""
    monkeypatch.chdir(tiny.folder)  # where walk.mp4 is
    monkeypatch.setattr(diagd_cli, "load", lambda name: load(str(tiny.preset)))
    app = example("Mount")["app"]
    with (
        serving(app) as address,
        Client(f"{address}/world") as one,
        Client(f"{address}/world") as two,
    ):
        assert one.word("hello")["sessions"] == 2 and two.word("hello")["role"] == "player"
        two.frame(lambda frame: not frame.of_clip)
        two.say(do="save")
        path = two.word("saved")["files"]["actions"]
        assert fetched(f"{address}/world{path}")[0].startswith(b'{"action": ')
        assert fetched(f"{address}/world")[0].startswith(b"<!doctype html>")


def test_the_application_says_what_is_not_installed(loaded, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingExtra, match=r"play_app needs the package uvicorn. Install .*play"):
        play_app(loaded)


def test_it_is_imported_without_a_server():
    code = "import sys, diagd_cli; diagd_cli.play_app; assert 'starlette' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- others --------------------------------------------------------------------------------------


def test_others_watch_until_the_player_leaves(player, address):
    with Client(address) as watcher:
        assert watcher.word("hello")["role"] == "watcher"
        player.wait_for(lambda heard: isinstance(heard, dict) and heard.get("watchers") == 1)
        watcher.frame()
        watcher.say(do="act", action="left", t=1.0)
        assert watcher.word("error")["message"] == "somebody else plays"
        player.socket.close()
        assert watcher.word("role")["role"] == "player"
        watcher.say(do="act", action="left", t=2.0)
        watcher.frame(lambda frame: frame.stamp == 2.0)


def test_the_world_waits_where_nobody_plays(room, address):
    with Client(address) as client:
        client.frame(lambda frame: not frame.of_clip)
    until(lambda: room.places[0].unwatched)
    with Client(address) as client:
        client.frame(lambda frame: not frame.of_clip)
    assert room.world.failure is None


def test_a_world_that_fails_says_why(player, room, monkeypatch):
    def fails(codes):
        raise DiagdError("the tokenizer is gone", "Find it")

    player.frame()
    monkeypatch.setattr(room.loaded.tokenizer, "decode", fails)
    assert player.word("error")["message"] == "the world has ended: the tokenizer is gone. Find it"
    assert isinstance(room.world.failure, DiagdError)


# ---- what should not be ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ('{"do": "dance"}', "dance"),
        ("{", "JSON"),
        ('["act"]', "object"),
        ('{"do": "act", "action": "fly"}', "no action 'fly'. Use idle, left, right, none"),
        ('{"do": "act", "action": "left", "more": 1}', "more"),
        ('{"do": "act", "action": "left", "t": Infinity}', "t"),
        ('{"do": "decode", "method": "diagd", "k": 0}', "k"),
        ('{"do": "decode", "method": "diagd", "k": 2, "d": 99}', "d"),
        ('{"do": "reset", "seed": -1}', "seed"),
        ('{"do": "reset", "clip": "../walk"}', "no clip"),
        ('{"do": "pause", "on": "yes"}', "on"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(player, words, told):
    player.socket.send(words)
    message = player.word("error")["message"]
    assert told in message and "\n" not in message
    player.frame()


def test_a_client_that_floods_is_shut_out_and_harms_nobody(room, address, player):
    with Client(address) as other:
        with pytest.raises(ConnectionClosed):
            for _ in range(2000):
                other.socket.send('{"do": "dance"}')
            while True:
                other.socket.recv(timeout=5)
        assert other.socket.close_code == 1008
    player.frame()


@pytest.mark.parametrize("limit", [4096, 1 << 24])
def test_a_message_that_is_too_long_ends_its_own_connection(room, limit):
    """Also where the server that the room is mounted in would let it through."""
    with (
        serving(room_app(room), limit) as address,
        Client(address) as player,
        Client(address) as other,
    ):
        other.word("hello")
        other.socket.send("x" * 10_000)
        with pytest.raises(ConnectionClosed):
            while True:
                other.socket.recv(timeout=5)
        assert other.socket.close_code == 1009
        player.frame()


def test_garbage_and_abrupt_ends_leave_nothing_behind(room, address, player):
    """A thousand messages that cannot be read, a hundred who vanish, fifty who come and go."""
    player.frame(lambda frame: not frame.of_clip)  # what is only made once is there now
    tasks, threads = len(asyncio.all_tasks(room.loop)), threading.active_count()
    assert malformed(address, 1000) == 1000
    vanish(address, 100)
    come_and_go(address, 50)
    until(lambda: len(room.clients) == 1)
    until(lambda: len(asyncio.all_tasks(room.loop)) <= tasks)
    until(lambda: threading.active_count() <= threads)
    number = room.places[0].frame.number
    assert player.frame(lambda frame: frame.number > number) and room.world.failure is None


def test_pages_of_other_hosts_are_shut_out(address):
    elsewhere = {"Origin": "http://elsewhere.example"}
    with pytest.raises(InvalidStatus) as refused, Client(address, headers=elsewhere):
        pass
    assert refused.value.response.status_code == 403


def test_a_name_that_is_not_this_machines_is_not_answered_to(address):
    """A page elsewhere could have its own name lead here."""
    asked = urllib.request.Request(f"http://{address}/", headers={"Host": "elsewhere.example"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(asked, timeout=20)


def test_a_page_of_its_own_is_let_in(address):
    with Client(address, headers={"Origin": f"http://{address}"}) as client:
        client.word("hello")


def test_without_the_token_nothing_is_served(room):
    with served(room, token="secret", loopback=False) as address:
        for query in ("", "?token=wrong"):
            with pytest.raises(InvalidStatus), Client(address, query=query):
                pass
            with pytest.raises(urllib.error.HTTPError, match="403"):
                fetched(f"{address}/{query}")
        with Client(address, query="?token=secret") as client:
            client.word("hello")
        assert fetched(f"{address}/?token=secret")


def test_nothing_but_the_page_is_served(address):
    content, headers = fetched(f"{address}/")
    assert content.startswith(b"<!doctype html>") and b"{{nonce}}" not in content
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    for path in ("/page.html", "/saved/x/y.mp4", "/../pyproject.toml", "/live"):
        with pytest.raises(urllib.error.HTTPError):
            fetched(address + path)


# ---- other families' actions ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "held", "row"),
    [
        (
            "mineworld-300m",
            ["forward", "jump", "look left", "left", "right"],
            {"forward": 1, "jump": 1, "camera": [0.0, pytest.approx(-15, abs=3)]},
        ),
        ("wham-200m", ["forward", "button 0", "look up"], [1] + [0] * 11 + [5, 10, 5, 10]),
    ],
)
def test_presets_whose_keys_are_held_together_are_played_and_made_again(
    name, held, row, diagd, tmp_path, monkeypatch
):
    """Where the window cannot slide it rolls. What is opposed cancels out."""
    path = write_small_models(name, tmp_path)
    preset = load_preset(path)
    clip = save_clip(tmp_path / "walk.mp4", moving(12, preset.clip.height, preset.clip.width))
    steer(clip, name)
    app = play_app(load(preset), [clip], seed=3)
    with serving(app) as address, Client(address) as client:
        hello = client.word("hello")
        assert hello["several"] and hello["rest"] == "" and hello["keys"]["Space"] in held
        client.say(do="act", actions=held, t=1.0)
        frame = client.frame(lambda frame: frame.stamp == 1.0)
        assert {hello["actions"][n] for n in range(32) if frame.names >> n & 1} == set(held)
        client.say(do="act", actions=[], t=2.0)
        assert client.frame(lambda frame: frame.stamp == 2.0).names == 0
        client.say(do="act", actions=["fly"])
        assert client.word("error")["message"].startswith("no action 'fly'. Use forward, back")
        client.say(do="save")
        saved = client.word("saved")
        files = {kind: fetched(address + where)[0] for kind, where in saved["files"].items()}
    facts = json.loads(files["sidecar"])
    actions = _file((tmp_path / facts["output"]).with_suffix(".jsonl"), files["actions"])
    assert row in preset.actions.describe(preset.actions.read(actions))
    monkeypatch.chdir(tmp_path)
    again = facts["again"].replace(f"-p {preset.name}", f"-p {path}").split()
    done = diagd(*again[1:], "-o", "again.mp4")
    assert done.code == 0, done.err
    with np.load("again.npz") as arrays:
        codes = arrays["codes"][facts["input"]["context"] :]
    [place] = app.state.room.places
    assert len(codes) == facts["new_frames"] == facts["again_frames"] >= 2
    assert np.array_equal(codes, np.stack(list(place.walk.take.codes))[: len(codes)])
    assert np.array_equal(place.frame.pixels, shown(place))


def shown(place):
    """Pixels of its newest frame, with the preset's stamp."""
    loaded, take = place.room.loaded, place.walk.take
    codes = take.codes[place.frame.number - len(take.clip.frames)]
    return stamped(to_frames(loaded, codes[None]), loaded.preset.stamp)[0]
