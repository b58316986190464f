"""The page in a real browser, served by a real room: keys walk, figures come, what is played is
saved.
"""

import json
import re

import pytest
from families.small import steer, write_small
from play.server import served, serving, until
from starlette.applications import Starlette
from starlette.routing import Mount
from tiny import moving, save_clip

from diagd_cli import load, play_app

pytest_plugins = ["browser", "play.rooms"]


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


def test_the_page_works_under_a_path(page, tiny, loaded):
    """Mounted in another application, its socket and its files are found below its own address."""
    app = Starlette(routes=[Mount("/world", play_app(loaded, [tiny.clip], seed=2**60 + 1))])
    with serving(app) as address:
        page.goto(f"http://{address}/world")
        page.locator("#from").filter(has_text=str(2**60 + 1)).wait_for()
        page.locator("#steps").filter(has_text=re.compile(r"\d")).wait_for()
        page.click("#again")  # with the same seed, whose digits a number would lose
        page.locator("#from").filter(has_text=str(2**60 + 1)).wait_for()
        page.locator("#steps").filter(has_text=re.compile(r"\d")).wait_for()
        page.click("#save")
        with page.expect_download() as had:
            page.locator("#saved a").nth(2).click()
        assert json.loads(had.value.path().read_text())["seed"] == 2**60 + 1


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
