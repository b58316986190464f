"""A film of the page of `diagd play`, as it runs here: a script walks by DiagD, shows what
next-token prediction is like, and comes back.

The page is shown by a headless Chromium, on the same cores as the world. Pictures are taken as
often as it gives them, and each is shown for as long as it stood.
"""

from __future__ import annotations

import argparse
import io
import itertools
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from benchmarks.visitors import serving

BROWSERS = "chromium", "chromium-browser", "google-chrome", "microsoft-edge"
# keys held, and for how many seconds; "n" alone is pressed: NTP and back
WALK = (
    (("ArrowUp",), 1.5),
    (("ArrowRight",), 2.0),
    (("ArrowUp",), 2.0),
    (("ArrowLeft",), 2.0),
    (("n",), 4.0),
    (("n",), 1.0),
    (("ArrowLeft",), 2.0),
    (("ArrowUp", "ArrowLeft"), 2.0),
)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("film", type=Path, help="where to write it, a .webp")
    parser.add_argument("--still", type=Path, help="where to write one picture of it, a .png")
    parser.add_argument("--size", default="720x640", help="of the page, in pixels")
    parser.add_argument("--clip", help="where to begin")
    parser.add_argument("--dtype", default="auto", help="of the Transformer")
    args = parser.parse_args(argv)
    width, height = map(int, args.size.split("x"))
    words = ["--k", 1, "--d", 10, "--fps", 0, "--seed", 1, "--dtype", args.dtype]
    clips = [args.clip] if args.clip else []
    with serving(*clips, *words) as address, page(address, width, height) as tab:
        shots = list(filmed(tab))
    write(args.film, shots)
    if args.still:
        Image.open(io.BytesIO(shots[len(shots) // 4][1])).save(args.still, optimize=True)


@contextmanager
def page(address: str, width: int, height: int):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, BROWSERS)), playwright.chromium.executable_path)
        if not os.path.exists(path):
            sys.exit("a browser is needed: install chromium")
        browser = playwright.chromium.launch(executable_path=path)
        tab = browser.new_page(viewport={"width": width, "height": height})
        tab.goto(address)
        tab.wait_for_timeout(2000)
        yield tab
        browser.close()


def filmed(tab) -> Iterator[tuple[float, bytes]]:
    """(time, JPEG) of each picture of the walk."""
    for keys, seconds in WALK:
        for key in keys:
            tab.keyboard.down(key)
        if keys == ("n",):
            tab.keyboard.up("n")
        ends = time.perf_counter() + seconds
        while time.perf_counter() < ends:
            taken = time.perf_counter()
            yield taken, tab.screenshot(type="jpeg", quality=90)
            tab.wait_for_timeout(max(1.0, 1000 * (taken + 0.1 - time.perf_counter())))
        for key in keys:
            tab.keyboard.up(key)


def write(path: Path, shots: list[tuple[float, bytes]]) -> None:
    times = [taken for taken, _ in shots]
    lasted = [round(1000 * (b - a)) for a, b in itertools.pairwise(times)] + [500]
    images = [Image.open(io.BytesIO(shot)).convert("RGB") for _, shot in shots]
    images[0].save(
        path, save_all=True, append_images=images[1:], duration=lasted, loop=0, quality=45, method=4
    )
    print(f"{path}: {len(images)} pictures, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
