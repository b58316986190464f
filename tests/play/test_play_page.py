"""The page in a real browser, served by a real room: keys walk, figures come, what is played is
saved.
"""

import io
import json
import re

import numpy as np
import pytest
from families.small import steer, write_small
from PIL import Image
from play.server import served, serving, until
from starlette.applications import Starlette
from starlette.routing import Mount
from tiny import moving, save_clip

from diagd_cli import Decoding, load, play_app
from diagd_cli.model.inverse import read_motion
from diagd_cli.play.protocol import HEADER
from diagd_cli.weights.load import load_inverse

pytest_plugins = ["browser", "play.rooms"]

LEFT = 3  # the number of the shipped preset's action


@pytest.fixture
def walk(page, room):
    """The page, with a frame of the world on it."""
    with served(room) as address:
        page.goto(f"http://{address}/")
        until(lambda: len(room.places[0].walk.take.codes) > 2)
        page.locator("#steps").filter(has_text=re.compile(r"\d")).wait_for()
        yield page
        page.close()


def test_keys_walk_and_nothing_is_asked_of_others(walk, room):
    walk.keyboard.down("ArrowLeft")
    walk.locator("#steered").filter(has_text="left").wait_for()
    assert room.places[0].walk.held.row[0] == room.holding.actions.hold(["left"])[0]
    walk.keyboard.up("ArrowLeft")
    until(lambda: room.places[0].walk.held.row[0] == room.holding.actions.hold(["idle"])[0])
    walk.locator("#median").filter(has_text=re.compile(r"\d")).wait_for()
    assert all(
        url.startswith(("http://127.0.0.1:", "ws://127.0.0.1:", "blob:")) for url in walk.requested
    )


def test_the_picture_is_the_worlds(walk, room):
    """It is drawn, and another one after a while."""
    drawn = "document.querySelector('#screen').toDataURL()"
    first = walk.evaluate(drawn)
    until(lambda: walk.evaluate(drawn) != first)


def test_next_token_prediction_is_a_key_away(walk, room):
    walk.keyboard.press("n")
    until(lambda: room.world.decoding.method == "ntp")
    walk.locator("#steps").filter(has_text=re.compile("^6")).wait_for()
    walk.keyboard.press("n")
    until(lambda: room.world.decoding.method == "diagd")


def test_what_was_played_is_had_as_files(walk, room):
    walk.click("#save")
    with walk.expect_download() as had:
        walk.locator("#saved a").nth(1).click()
    lines = had.value.path().read_text().splitlines()
    assert {json.loads(line)["action"] for line in lines} <= set(room.holding.names)


def test_the_pause_and_the_way_back_to_a_clip(walk, room):
    walk.keyboard.press("p")
    until(lambda: room.places[0].paused)
    walk.locator("#pause[aria-pressed=true]").wait_for()
    walk.keyboard.press("p")
    until(lambda: not room.places[0].paused)
    walk.get_by_role("button", name="later").click()
    until(lambda: room.places[0].clip == "later")


def test_a_narrow_page_has_no_sideways_scroll(walk):
    walk.set_viewport_size({"width": 360, "height": 740})
    assert walk.evaluate("document.documentElement.scrollWidth") <= 360


def test_two_play_and_a_third_watches_whom_he_likes(new_tab, shared):
    with served(shared) as address, new_tab() as one, new_tab() as two, new_tab() as third:
        for tab in (one, two, third):
            tab.goto(f"http://{address}/")
            tab.locator("#preset").filter(has_text="tiny").wait_for()
        one.locator("#presence").filter(has_text="You play, 2 play, 1 watches").wait_for()
        one.keyboard.down("ArrowLeft")
        two.keyboard.down("ArrowRight")
        third.locator("#steered").filter(has_text="left").wait_for()
        third.get_by_role("button", name="Player 2").click()
        third.locator("#steered").filter(has_text="right").wait_for()
        one.keyboard.press("n")
        two.locator("#status").filter(has_text="for all who play").wait_for()


def test_the_page_works_under_a_path(page, tiny, loaded, diagd, tmp_path, monkeypatch):
    """Mounted in another application, its socket and its files are found below its own address;
    what is saved there can be made again.
    """
    world = play_app(loaded, [tiny.clip], seed=2**60 + 1)
    with serving(Starlette(routes=[Mount("/world", world)])) as address:
        page.goto(f"http://{address}/world")
        page.locator("#from").filter(has_text=str(2**60 + 1)).wait_for()
        page.locator("#steps").filter(has_text=re.compile(r"\d")).wait_for()
        walk = world.state.room.places[0].walk
        first = walk.take
        page.click("#again")  # with the same seed, whose digits a number would lose
        until(lambda: walk.take is not first and len(walk.take.codes) > 1)
        page.locator("#from").filter(has_text=str(2**60 + 1)).wait_for()
        page.click("#save")
        page.locator("#saved a").nth(2).wait_for()
        for link in page.locator("#saved a").all():
            with page.expect_download() as had:
                link.click()
            had.value.save_as(tmp_path / had.value.suggested_filename)
        page.close()
    [sidecar] = tmp_path.glob("*.json")
    facts = json.loads(sidecar.read_text())
    assert facts["seed"] == 2**60 + 1
    monkeypatch.chdir(tmp_path)
    again = facts["again"].split()
    assert diagd(*again[1:], "-o", "again.mp4").code == 0
    with np.load("again.npz") as arrays:
        codes = arrays["codes"][facts["input"]["context"] :]
    played = np.stack(list(world.state.room.places[0].walk.take.codes))
    assert len(codes) == facts["again_frames"] and np.array_equal(codes, played[: len(codes)])


def test_keys_are_held_together_where_the_actions_can_be(page, tmp_path):
    preset = write_small("mineworld-300m", tmp_path)
    clip = save_clip(tmp_path / "walk.mp4", moving(8, 32, 48))
    steer(clip, "mineworld")
    app = play_app(load(preset, random=0), [clip])
    with serving(app) as address:
        page.goto(f"http://{address}/")
        page.locator("#steps").filter(has_text=re.compile(r"\d")).wait_for()
        for key in ("w", " ", "ArrowLeft"):
            page.keyboard.down(key)
        page.locator("#steered").filter(has_text="forward, jump, look left").wait_for()
        assert page.get_by_role("button", name="jump").get_attribute("aria-pressed") == "true"
        page.keyboard.up(" ")
        page.locator("#held").filter(has_text=re.compile("^forward, look left$")).wait_for()
        page.close()


def test_the_key_that_is_held_is_read_back_from_the_frames_that_come(page):
    """By the model that judges steering, of a world that is switched to NTP and back before."""
    world = load("freedoom")
    diagonal = Decoding("diagd", k=1, d=10, window="slide")
    app, came = play_app(world, decoding=diagonal, seed=1, pace=0), []
    take = lambda message: came.append(message)  # noqa: E731  (the driver takes no method of a list)
    page.on("websocket", lambda socket: socket.on("framereceived", take))
    with serving(app) as address:
        page.goto(f"http://{address}/")
        page.locator("#preset").filter(has_text="freedoom").wait_for()
        page.check("#lossless")
        page.uncheck("#mapped")  # whose animation takes the world's processor
        for method in ("ntp", "diagd"):
            page.keyboard.press("n")
            page.wait_for_function("method => state.decoding.method === method", arg=method)
            assert app.state.room.world.decoding.method == method
        page.keyboard.down("ArrowLeft")
        # only while the page is at work are its frames handed over
        until(lambda: page.wait_for_timeout(200) or len(turned(came)) > 4, patience=120)
        page.close()
    inverse = load_inverse(world.preset, world.device, None)
    names, frames = world.preset.actions.names, turned(came)
    read, _ = read_motion(inverse, np.stack(frames))
    hits = [names[n] == "left" for n in read.tolist()]
    assert np.mean(hits) > 0.5  # of seven; how many of many frames is measured, by benchmarks.play


def turned(came):
    """Pixels of the newest frames, all of which were steered to the left."""
    frames = [message for message in came if isinstance(message, bytes)]
    left = [HEADER.unpack_from(message)[8] == LEFT for message in frames]
    count = left[::-1].index(False) if False in left else 0
    pictures = [message[HEADER.size :] for message in frames[len(frames) - count :]]
    return [np.asarray(Image.open(io.BytesIO(picture))) for picture in pictures]
