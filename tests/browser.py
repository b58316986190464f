"""A real browser for tests of pages; a module that says `pytest_plugins = ["browser"]` has these
fixtures.

They skip where Playwright or a Chromium is missing: `pip install playwright`, and Debian's
`chromium`, Chrome, Edge, or what `playwright install chromium` fetches (which plays no H.264).
"""

import os
import shutil
from contextlib import contextmanager
from functools import partial

import pytest

COMMANDS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "microsoft-edge",
)


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium."""
    reason = "a browser is needed: pip install playwright, and install chromium"
    api = pytest.importorskip("playwright.sync_api", reason=reason)
    with api.sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, COMMANDS)), playwright.chromium.executable_path)
        if not os.path.exists(path):
            pytest.skip(reason)
        chromium = playwright.chromium.launch(executable_path=path)
        yield chromium
        chromium.close()


@contextmanager
def opened_tab(browser):
    """An empty tab of 1000x700 pixels with storage of its own; it fails at its end where a page's
    script did.

    `page.requested` lists the addresses that were asked for.
    """
    context = browser.new_context(viewport={"width": 1000, "height": 700})
    tab = context.new_page()
    failures, tab.requested = [], []
    tab.on("pageerror", lambda error: failures.append(str(error)))
    tab.on(
        "console",
        lambda message: failures.append(message.text) if message.type == "error" else None,
    )
    tab.on("request", lambda request: tab.requested.append(request.url))
    tab.set_default_timeout(10_000)
    yield tab
    context.close()
    assert not failures


@pytest.fixture(scope="session")
def new_tab(browser):
    """Opens a tab for as long as it is needed: `with new_tab() as tab`."""
    return partial(opened_tab, browser)


@pytest.fixture
def page(new_tab):
    """A tab of the test's own."""
    with new_tab() as tab:
        yield tab
