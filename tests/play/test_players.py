"""Several play in one batch, each in a world of his own: who comes, goes and pauses, what each one
sees, and that what each played can be made again.
"""

import json
import urllib.request

import numpy as np
import pytest
from play.server import Client, served, until

pytest_plugins = ["play.rooms"]


@pytest.fixture
def address(shared):
    with served(shared) as address:
        yield address


@pytest.fixture
def players(address):
    """Two of them, each of whom sees frames of his own world."""
    with Client(address) as one, Client(address) as two:
        for client in (one, two):
            assert client.word("hello")["role"] == "player"
            client.frame(lambda frame: not frame.of_clip)
        yield one, two


def begin_together(shared, players, *begins):
    """Both begin anew in the same batch; nobody comes or goes from then on."""
    for client, (seed, clip) in zip(players, begins, strict=True):
        client.say(do="pause", on=True)
        client.say(do="reset", seed=seed, clip=clip)
    until(lambda: [place.walk.take.seed for place in shared.places] == [s for s, _ in begins])
    until(lambda: not shared.world.going)
    with shared.world.turn:
        for place in shared.places:
            place.paused = False
            place.wait(False)


def saved(client):
    """(sidecar, lines of actions) of what was played, and their bytes by kind."""
    client.say(do="save")
    paths = client.word("saved")["files"]
    files = {}
    for kind, path in paths.items():
        with urllib.request.urlopen(f"http://{client.address}{path}", timeout=20) as answer:
            files[kind] = answer.read()
    return json.loads(files["sidecar"]), files


def made_again(diagd, folder, facts, files):
    """Codes of the new frames by the command that is told, run in `folder`."""
    folder.mkdir()
    actions = folder / facts["output"].replace(".mp4", ".jsonl")
    actions.write_bytes(files["actions"])
    words = facts["again"].replace(actions.name, str(actions)).split()
    done = diagd(*words[1:], "-o", folder / "again.mp4")
    assert done.code == 0, done.err
    with np.load(folder / "again.npz") as arrays:
        return arrays["codes"][facts["input"]["context"] :]


def test_what_each_of_two_played_is_made_again_bit_for_bit(shared, players, diagd, tiny, tmp_path):
    begin_together(shared, players, (21, "walk"), (2**64 - 1, "later"))
    scripts = ["left", "right", "idle"], ["right", "right", "left"]
    for n in range(3):
        for client, script in zip(players, scripts, strict=True):
            client.say(do="act", action=script[n], t=float(n + 1))
        for client in players:
            client.frame(lambda frame, n=n: frame.stamp == n + 1)
    for n, (client, place) in enumerate(zip(players, shared.places, strict=True)):
        facts, files = saved(client)
        assert facts["again_frames"] == facts["new_frames"] >= 3
        codes = made_again(diagd, tmp_path / str(n), facts, files)
        played = np.stack(list(place.walk.take.codes))[: len(codes)]
        assert len(codes) == facts["new_frames"] and np.array_equal(codes, played)
        names = [json.loads(line)["action"] for line in files["actions"].splitlines()]
        assert set(scripts[n]) <= set(names)
    one, two = (place.walk.take.codes for place in shared.places)
    assert not np.array_equal(np.stack(one)[:3], np.stack(two)[:3])


def test_a_world_that_somebody_joined_tells_how_much_of_it_can_be_made_again(
    address, shared, diagd, tiny, tmp_path
):
    """From then on its tokens follow from the newest frames alone."""
    with Client(address) as one:
        one.frame(lambda frame: frame.number > 8)
        with Client(address) as two:
            two.frame(lambda frame: not frame.of_clip)
        facts, files = saved(one)
    assert 4 <= facts["again_frames"] < facts["new_frames"]
    starts = [each["from_frame"] for each in facts["decodings"]]
    assert starts[:2] == [0, facts["again_frames"]] and len({*starts}) == len(starts)
    codes = made_again(diagd, tmp_path / "again", facts, files)
    played = np.stack(list(shared.places[0].walk.take.codes))
    assert np.array_equal(codes, played[: facts["again_frames"]])


def test_each_sees_his_own_world_and_is_told_of_it(shared, players):
    one, two = players
    assert [client.words[0]["place"] for client in players] == [0, 1]
    begin_together(shared, players, (1, "walk"), (2, "walk"))
    for client, action in ((one, "left"), (two, "right")):
        client.say(do="act", action=action, t=5.0)
    assert one.frame(lambda frame: frame.stamp == 5.0).action == 1
    assert two.frame(lambda frame: frame.stamp == 5.0).action == 2
    two.say(do="reset", seed=str(2**60 + 1), clip="later")
    state = two.wait_for(lambda heard: isinstance(heard, dict) and heard.get("clip") == "later")
    assert state["seed"] == str(2**60 + 1) and state["players"] == [0, 1]
    assert shared.places[1].walk.take.seed == 2**60 + 1
    assert shared.places[0].clip == "walk" and shared.places[0].walk.take.seed == 1


def test_a_decoding_is_changed_for_all(players):
    one, two = players
    one.say(do="decode", method="ntp")
    two.wait_for(lambda heard: isinstance(heard, dict) and heard["decoding"]["method"] == "ntp")
    for client in players:
        client.frame(lambda frame: frame.steps == 6)


def test_who_pauses_keeps_nobody_waiting_and_goes_on_where_he_was(players, shared):
    one, two = players
    one.say(do="pause", on=True)
    until(lambda: shared.world.going == [(shared.places[1].walk, shared.places[1].walk.take)])
    there = shared.places[0].walk.take.made
    seen = two.frame().number
    two.frame(lambda frame: frame.number > seen + 5)
    assert shared.places[0].walk.take.made <= there + 1  # one may have been complete by then
    one.say(do="pause", on=False)
    one.frame(lambda frame: frame.number > there + 7)
    assert shared.world.failure is None


def test_the_first_who_waits_plays_when_a_place_is_free(address, players, shared):
    one, two = players
    with Client(address) as third, Client(address) as fourth:
        assert third.word("hello")["role"] == fourth.word("hello")["role"] == "watcher"
        third.say(do="act", action="left", t=1.0)
        assert third.word("error")["message"] == "somebody else plays"
        third.say(do="watch", place=1)
        third.wait_for(lambda heard: isinstance(heard, dict) and heard.get("place") == 1)
        third.say(do="watch", place=7)
        assert "nobody plays at place 7" in third.word("error")["message"]
        two.socket.close()
        assert third.word("role") == {"do": "role", "role": "player", "place": 1}
        third.say(do="act", action="left", t=2.0)
        third.frame(lambda frame: frame.stamp == 2.0)
        one.socket.close()
        assert fourth.word("role") == {"do": "role", "role": "player", "place": 0}
        fourth.frame()
    until(lambda: not shared.clients)
    assert shared.world.failure is None
