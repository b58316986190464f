"""The report in a real browser: it plays, fetches nothing, has the figures of the JSON, and fits on
small screens.
"""

import json
import shlex
from html.parser import HTMLParser

import pytest
from tiny import moving, save_clip

from diagd_cli.report.page import COLUMNS, listed, number

pytest_plugins = ["browser"]

SIZES = {"window": (1000, 700), "phone": (390, 844)}
PLAY = """video => new Promise((done, fail) => {
    video.onerror = () => fail(video.error.message);
    video.ontimeupdate = () => video.currentTime > 0.1 && done([video.readyState, video.currentTime, video.videoWidth]);
    video.play();
})"""
NASTY = "<img src=x onerror=alert(1)> & 'walk'"


@pytest.fixture(scope="module")
def report(diagd, tiny, tmp_path_factory):
    """The folder of a comparison of a clip whose name could do harm: out.html and what lies beside
    it.
    """
    folder = tmp_path_factory.mktemp("report")
    clip = save_clip(folder / "in" / f"{NASTY}.mp4", moving(8))
    options = [
        "-p",
        tiny.preset,
        "--seed",
        3,
        "--decodings",
        "ntp,spatial:2,diagd",
        "--heat",
        "--race",
        "--html",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diagd_cli.report.race.ABOUT", 2)  # seconds
        done = diagd("compare", clip, *options, "-o", folder / "out.mp4")
    assert done.code == 0, done.err
    return folder


@pytest.fixture(scope="module")
def opened(new_tab, report):
    """The report in a tab of 1000x700 pixels, for all who only look at it."""
    with new_tab() as tab:
        tab.goto((report / "out.html").as_uri())
        yield tab


def test_title_and_settings_are_text(opened, report):
    facts = json.loads((report / "out.json").read_text())
    title = f"{NASTY}.mp4, continued by NTP, spatial DiagD k=2 and DiagD k=1 d=2"
    assert opened.locator("h1").inner_text() == opened.title() == title
    assert opened.locator("img").count() == 1  # the contact sheet
    assert opened.locator("#command").inner_text() == facts["command"]
    assert f"{report}/in/{NASTY}.mp4" in shlex.split(facts["command"])
    settings = dict(
        zip(
            *(opened.locator(f"#settings {tag}").all_inner_texts() for tag in ("th", "td")),
            strict=True,
        )
    )
    assert settings["seed"] == "3" and settings["sampling top p"] == str(facts["sampling"]["top_p"])
    assert (
        settings["weights transformer"] == facts["weights"]["transformer"]
        and settings["versions diagd"]
    )
    assert settings["heat top"] == str(facts["heat"]["top"]) and settings["race speed"] == str(
        facts["race"]["speed"]
    )
    assert settings["DiagD k=1 d=2"].startswith("method=diagd, k=1, d=2, stand_in=previous-frame")
    assert json.loads(opened.locator("#json").text_content()) == facts


def test_figures_are_those_of_the_json(opened, report):
    rows = json.loads((report / "out.json").read_text())["decodings"]
    cells = [
        line.locator("th, td").all_inner_texts()
        for line in opened.locator("#figures tbody tr").all()
    ]
    assert opened.locator("#figures thead th").all_inner_texts() == ["decoding", *COLUMNS]
    assert [line[0] for line in cells] == [row["label"] for row in rows]
    for line, row in zip(cells, rows, strict=True):
        told = dict(zip(COLUMNS, line[1:], strict=True))
        assert (told["k"], told["d"], told["steps"]) == tuple(
            map(str, (*map(row["decoding"].get, "kd"), row["steps"]))
        )
        for column, value in {
            "decode s": row["seconds"]["decode"],
            "tokens/s": row["tokens_per_second"],
            "speed-up": row["speedup"],
            "PSNR dB": row["psnr"],
            "SSIM": row["ssim"],
            "same": row["token_agreement"],
        }.items():
            assert float(told[column].replace(",", "")) == pytest.approx(value, rel=1e-4)


def test_videos_play(opened):
    if not opened.evaluate(
        "document.createElement('video').canPlayType('video/mp4; codecs=\"avc1.42E01E\"')"
    ):
        pytest.skip("this browser plays no H.264")
    assert opened.locator("video").count() == 2
    for video in opened.locator("video").all():
        ready, moment, wide = video.evaluate(PLAY)
        # Of a busy machine the next picture may still be on its way (2, not 3).
        assert ready >= 2 and moment > 0.1 and wide > 600


def test_nothing_is_fetched(opened, report):
    address = (report / "out.html").as_uri()
    assert opened.requested[0] == address
    assert all(url.startswith("data:") for url in opened.requested[1:])


def test_drawings_are_there(opened):
    assert opened.locator(".curve svg").count() == 1 and opened.locator(".wide svg").count() == 3
    assert (
        opened.locator(".wide svg").last.get_attribute("aria-label")
        == "DiagD k=1 d=2: step of each token"
    )
    assert opened.evaluate("document.querySelector('img').naturalWidth") > 500


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_and_can_be_read(opened, size, scheme):
    width, height = SIZES[size]
    opened.set_viewport_size({"width": width, "height": height})
    opened.emulate_media(color_scheme=scheme)
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    if size == "window":  # the whole table, without a need to scroll
        assert (
            opened.evaluate(
                "(e => e.scrollWidth - "
                "e.clientWidth)(document.querySelector('#figures').parentElement)"
            )
            <= 0
        )
    shades = opened.evaluate(
        "['color', 'backgroundColor'].map(name => "
        "getComputedStyle(document.body)[name].match(/\\d+/g)[0])"
    )
    ink, paper = map(int, shades)
    assert ink - paper > 150 if scheme == "dark" else paper - ink > 150


def test_prints_dark_on_light(opened):
    opened.emulate_media(media="print", color_scheme="dark")
    ink, paper = opened.evaluate(
        "['color', 'backgroundColor'].map(name => getComputedStyle(document.body)[name])"
    )
    assert ink == "rgb(26, 29, 33)" and paper == "rgb(255, 255, 255)"


class Tags(HTMLParser):
    """Every tag with its attributes."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def test_nothing_in_it_runs_or_points_elsewhere(report):
    tags = Tags()
    tags.feed((report / "out.html").read_text())
    assert not {"script", "iframe", "object"} & {tag for tag, _ in tags.found}
    sources = [
        value
        for _, given in tags.found
        for name, value in given.items()
        if name in ("src", "href", "xlink:href")
    ]
    assert sources and all(source.startswith(("data:", "#")) for source in sources)
    assert not any(name.startswith("on") for _, given in tags.found for name in given)


def test_without_ground_truth_there_is_no_curve(diagd, tiny, tmp_path):
    clip = save_clip(tmp_path / "in" / "short.mp4", moving(2))
    done = diagd(
        "compare",
        clip,
        "-p",
        tiny.preset,
        "--decodings",
        "diagd",
        "--html",
        "-o",
        tmp_path / "out.mp4",
    )
    page = (tmp_path / "out.html").read_text()
    assert done.code == 0 and "there is no ground truth" in page and "class='curve'" not in page


def test_words():
    assert [listed(list(names)) for names in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]
    assert [number(v) for v in (None, 1200, 35.3964, 0.0041, 123456.7)] == [
        "-",
        "1,200",
        "35.3964",
        "0.0041",
        "123,457",
    ]
