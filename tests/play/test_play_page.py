"""The page in a real browser, served by a real room: keys walk, figures come, what is played is
saved.
"""

import json
import re

import pytest
from play.server import served, until

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
