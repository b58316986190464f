"""Which videos of many could not be made, and why: a line of JSON for each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from diagd_cli.files.atomic import write_text
from diagd_cli.files.landing import landed, remove
from diagd_cli.files.paths import path_text
from diagd_cli.files.url import Place, masked
from diagd_cli.jobs.generation import Made
from diagd_cli.jobs.targets import Target


@contextmanager
def failures_of(made: Made, path: Place | None) -> Iterator[None]:
    """Write what has failed when the block ends, however it ends; where it ends well and nothing
    has, no file is left, also none of an earlier run. Raises OutputError.
    """
    try:
        yield
    finally:
        if path and made.failures:
            lines = (failure(target, reason) for target, reason in made.failures.items())
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            with landed(path) as here:
                write_text(here, text)
    if path and not made.failures:
        remove(path)


def failure(target: Target, reason: str) -> dict:
    """A video that was not made, with what was asked of it alone, and its one-line reason."""
    own = {
        "frames": target.frames,
        "actions": target.actions and masked(target.actions),
        "prompt": target.prompt,
    }
    return {
        "clip": path_text(target.clip),
        "output": path_text(target.output),
        "seed": target.seed,
        **{name: value for name, value in own.items() if value is not None},
        "error": path_text(" ".join(reason.split())),
    }
