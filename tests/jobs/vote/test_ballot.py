"""The page in a real browser: voting by keys and buttons, reloading, saving, and how it looks at
several sizes.
"""

import json

import pytest
from jobs.vote.ballots import make_folders

from diagd_cli.jobs.vote.count import check_votes, count_votes
from diagd_cli.jobs.vote.pack import pack_ballot
from diagd_cli.jobs.vote.records import Key, Votes, read_record

pytest_plugins = ["browser"]

QUESTION = "Which <b>video</b> & why?"
# a small window, a phone, one on its side, a large window
SIZES = ((1000, 700), (390, 844), (844, 390), (1920, 1080))


@pytest.fixture(scope="module")
def ballot(tmp_path_factory):
    root = tmp_path_factory.mktemp("ballot")
    pack_ballot(*make_folders(root), root / "ballot", 4, QUESTION)
    return root / "ballot"


@pytest.fixture
def voting(page, ballot):
    page.goto((ballot / "index.html").as_uri())
    return page


@pytest.fixture
def playing(voting):
    if not voting.evaluate(
        "document.createElement('video').canPlayType('video/mp4; codecs=\"avc1.42E01E\"')"
    ):
        pytest.skip("this browser plays no H.264")
    voting.wait_for_function("videos.every((video) => video.readyState === 4)")
    return voting


def choice(page) -> str | None:
    """The button that shows as chosen."""
    pressed = page.locator("[data-choice][aria-pressed=true]")
    return pressed.get_attribute("data-choice") if pressed.count() else None


def saved(page, folder):
    with page.expect_download() as download:
        page.get_by_role("button", name="Save answers").click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_a_vote_by_keyboard_survives_a_reload_and_is_counted(voting, ballot, tmp_path, diagd):
    count = voting.locator("#count")
    assert count.inner_text() == "Pair 1 of 3"
    voting.keyboard.press("ArrowLeft")
    voting.keyboard.press("ArrowRight")
    assert count.inner_text() == "Pair 3 of 3"
    voting.reload()
    assert (
        count.inner_text() == "Pair 3 of 3"
        and voting.locator("progress").get_attribute("value") == "2"
    )
    voting.keyboard.press("b")
    assert count.inner_text() == "Pair 2 of 3" and choice(voting) == "right"
    voting.keyboard.press("ArrowDown")  # changes it
    voting.keyboard.press("ArrowLeft")
    assert voting.locator("#end").is_visible() and not voting.locator("#ask").is_visible()
    assert voting.evaluate("document.activeElement.id") == "end-title"
    voting.get_by_label("A name for your votes").fill(" <i>Ö</i> ")
    voting.reload()
    path = saved(voting, tmp_path)
    assert path.name in voting.locator("#saved").inner_text()
    key, votes = read_record(ballot.with_name("ballot.key.json"), Key), read_record(path, Votes)
    assert votes.choices == {"1": "left", "2": "equal", "3": "left"} and votes.voter == "<i>Ö</i>"
    check_votes(key, [(path, votes)])
    counted = diagd("vote", "count", path, "--key", ballot.with_name("ballot.key.json"), "--json")
    assert counted.code == 0 and counted.objects == [
        json.loads(json.dumps(count_votes(key, [votes]).facts()))
    ]
    assert counted.objects[0]["overall"]["tie"]["count"] == 1


def test_a_vote_by_buttons(voting, tmp_path):
    assert voting.get_by_role("button", name="Back").is_disabled()
    assert voting.get_by_role("button", name="Next").is_disabled()
    for name in ("Right", "Equal"):
        voting.get_by_role("button", name=name, exact=True).click()
    voting.get_by_role("button", name="Back").click()
    assert choice(voting) == "equal"
    voting.get_by_role("button", name="Next").click()
    assert choice(voting) is None
    voting.get_by_role("button", name="Left", exact=True).click()
    first = read_record(saved(voting, tmp_path), Votes)
    assert first.choices == {"1": "right", "2": "equal", "3": "left"} and first.voter == ""
    voting.once("dialog", lambda dialog: dialog.accept())
    voting.get_by_role("button", name="Start again").click()
    assert voting.locator("#count").inner_text() == "Pair 1 of 3" and choice(voting) is None
    for _ in range(3):
        voting.keyboard.press("ArrowRight")
    assert read_record(saved(voting, tmp_path), Votes).ballot != first.ballot


def test_keys_that_must_not_vote(voting):
    for keys in ("Alt+ArrowDown", "Control+ArrowLeft", "n", "b", "Backspace", "x"):
        voting.keyboard.press(keys)
    assert (
        voting.locator("#count").inner_text() == "Pair 1 of 3"
        and voting.locator("#ask").is_visible()
    )
    voting.keyboard.down("ArrowLeft")
    voting.keyboard.down("ArrowLeft")  # a key that is held repeats
    assert voting.locator("#count").inner_text() == "Pair 2 of 3"
    voting.keyboard.up("ArrowLeft")
    voting.keyboard.press("ArrowLeft")
    voting.keyboard.press("ArrowLeft")
    voting.get_by_label("A name for your votes").press("b")  # types
    assert voting.locator("#end").is_visible() and voting.locator("#voter").input_value() == "b"


def test_by_tab_and_enter_alone(voting):
    for _ in range(2):
        voting.keyboard.press("Tab")
    assert voting.evaluate("document.activeElement.dataset.choice") == "equal"
    voting.keyboard.press("Enter")
    assert voting.locator("#count").inner_text() == "Pair 2 of 3"


def test_without_storage_the_page_works_and_warns(page, ballot):
    page.add_init_script(
        "Storage.prototype.setItem = Storage.prototype.getItem = () => { throw "
        "new Error('denied') }"
    )
    page.goto((ballot / "index.html").as_uri())
    assert page.locator("#forgets").is_visible()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#count").inner_text() == "Pair 2 of 3"


def test_both_videos_play_together_and_again(playing):
    """A second of video is played for 2.5 s: once through, and on."""
    playing.evaluate(
        """() => {
            window.gaps = [];
            window.rounds = 0;
            videos[0].addEventListener("ended", () => window.rounds++);
            setInterval(() => {
                if (!videos.some((video) => video.ended || video.seeking))
                    window.gaps.push(Math.abs(videos[0].currentTime - videos[1].currentTime));
            }, 20);
        }"""
    )
    playing.wait_for_function("window.rounds >= 2")
    gaps = sorted(playing.evaluate("window.gaps"))
    assert len(gaps) > 20 and gaps[len(gaps) * 9 // 10] < 0.1  # seconds
    assert playing.evaluate("videos.every((video) => video.muted)")
    playing.keyboard.press("p")
    assert playing.evaluate("videos.every((video) => video.paused || video.ended)")
    assert playing.get_by_role("button", name="Play").is_visible()
    playing.keyboard.press("p")
    playing.wait_for_function("window.rounds >= 3")


def test_a_video_that_drifts_is_brought_back(playing):
    playing.keyboard.press("p")
    playing.evaluate("videos[0].currentTime = 0; videos[1].currentTime = 0.6")
    playing.keyboard.press("p")
    playing.wait_for_function("Math.abs(videos[0].currentTime - videos[1].currentTime) < 0.1")


def test_reduced_motion_waits_for_play(page, ballot):
    page.emulate_media(reduced_motion="reduce")
    page.goto((ballot / "index.html").as_uri())
    page.wait_for_function("videos.every((video) => video.readyState === 4 || video.error)")
    assert page.evaluate("videos.every((video) => video.paused)")
    assert page.get_by_role("button", name="Play").is_visible()


def test_everything_fits(playing):
    for width, height in SIZES:
        playing.set_viewport_size({"width": width, "height": height})
        playing.wait_for_timeout(100)
        assert_fits(playing, width, height)


def assert_fits(playing, width, height):
    scrolls = (
        "document.documentElement.scrollWidth > innerWidth || "
        "document.documentElement.scrollHeight > innerHeight"
    )
    assert not playing.evaluate(scrolls)
    left, right = (playing.locator(f"#{side}-video").bounding_box() for side in ("left", "right"))
    assert (left["width"], left["height"], left["y"]) == (
        right["width"],
        right["height"],
        right["y"],
    )
    # whole pixels
    assert left["width"] % 64 == 0 and left["height"] % 48 == 0 and left["width"] >= 128
    assert left["x"] + left["width"] <= right["x"] and right["x"] + right["width"] <= width
    assert playing.evaluate("getComputedStyle(videos[0]).imageRendering") == "pixelated"
    for button in playing.locator("#ask button").all():
        box = button.bounding_box()
        assert (
            box["height"] >= 44
            and box["y"] + box["height"] <= height
            and box["x"] + box["width"] <= width
        )


def test_the_question_is_text_and_nothing_is_fetched_from_elsewhere(voting, ballot):
    assert voting.locator("#question").inner_text() == voting.title() == QUESTION
    folder = ballot.as_uri()
    assert (
        all(url.startswith((folder, "data:", "blob:")) for url in voting.requested)
        and voting.requested
    )


def test_a_video_that_is_missing_is_said(page, tmp_path):
    root = tmp_path
    pack_ballot(*make_folders(root, ["a.mp4"]), root / "ballot", 0, QUESTION)
    (root / "ballot" / "videos" / "1-right.mp4").write_bytes(b"no video")
    page.goto((root / "ballot" / "index.html").as_uri())
    page.locator("#broken").wait_for()
    page.keyboard.press("ArrowDown")
    assert page.locator("#end").is_visible()
