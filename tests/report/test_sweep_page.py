"""The page in a real browser: a table that can be sorted, the chart, settings; nothing is fetched,
nothing is code.
"""

from dataclasses import replace

import pytest
from jobs.sweeping.small import ntp, report, row

from diagd_cli.clip.image import write_png
from diagd_cli.jobs.sweeping.front import ranked
from diagd_cli.report.sweep import Recommendation
from diagd_cli.report.sweep_page import write_page

pytest_plugins = ["browser"]

EVIL = "<img src=x onerror=alert(1)>'{{ title }}"


@pytest.fixture
def opened(page, tmp_path):
    import numpy as np

    write_png(tmp_path / "sweep.png", np.full((60, 90, 3), 200, np.uint8))
    rows = ranked([ntp(), row(2, 10, 9, 0.1), row(4, 20, 5, 0.12), row(1, 1, 20, 0.4, fd_inv=None)])
    rows[1] = replace(rows[1], label=EVIL)
    advice = Recommendation([], "x", True, "x", ["DiagD is the fastest", "  NLL +1%"])
    about = {"skipped": {"diagd k=9 d=9": EVIL}, "command": f"diagd sweep {EVIL}", "notes": [EVIL]}
    whole = report(rows, (EVIL,), **about, recommended=advice)
    write_page(tmp_path / "sweep.html", whole, EVIL, tmp_path / "sweep.png")
    page.goto((tmp_path / "sweep.html").as_uri())
    return page


def shown(page, column):
    return page.locator(f"#figures tbody tr > :nth-child({column})").all_inner_texts()


def sort(page, name):
    page.get_by_role("button", name=name, exact=True).click()


def test_sorting(opened):
    steps = ["2,400", "480", "267", "120"]
    assert shown(opened, 3) == steps
    sort(opened, "steps")
    # as numbers: by their digits 2,400 would come before 480
    assert shown(opened, 3) == steps[::-1]
    sort(opened, "steps")
    assert shown(opened, 3) == steps
    sort(opened, "over NTP")
    assert [text.split()[0] for text in shown(opened, 8)] == ["+0.100", "+0.120", "+0.400", "-"]
    sort(opened, "FD-inv")
    assert shown(opened, opened.locator("#figures th[scope=col]").count())[-1] == "-"
    sort(opened, "decoding")
    assert sorted(shown(opened, 1), key=str.casefold)[1:] == shown(opened, 1)[1:]
    sort(opened, "front")
    assert shown(opened, 2) == ["•", "•", "•", ""]
    assert opened.locator("th[aria-sort]").count() == 1


def test_by_keyboard(opened):
    opened.get_by_role("button", name="steps", exact=True).focus()
    opened.keyboard.press("Enter")
    assert shown(opened, 3)[0] == "120"


def test_all_that_is_told_is_text(opened):
    assert opened.title() == opened.locator("h1").inner_text() == EVIL
    assert EVIL in shown(opened, 1) and EVIL in opened.locator("#skipped").inner_text()
    assert (
        EVIL in opened.locator("#command").inner_text()
        and EVIL in opened.locator("#settings").inner_text()
    )
    assert opened.locator("#recommended").inner_text() == "DiagD is the fastest\n  NLL +1%"
    assert opened.locator("img").count() == 1


def test_the_chart_is_in_it_and_nothing_is_fetched(opened):
    assert opened.evaluate("document.images[0].complete && document.images[0].naturalWidth") == 90
    assert [url for url in opened.requested if not url.startswith(("data:", "file:"))] == []
    assert len([url for url in opened.requested if url.startswith("file:")]) == 1


@pytest.mark.parametrize("width", [390, 1400])
def test_nothing_but_the_table_scrolls_sideways(opened, width):
    opened.set_viewport_size({"width": width, "height": 800})
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
