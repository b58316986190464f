"""HTML pages that need nothing else: jinja2 templates beside this file, in which whatever is put in
is text.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, **values: object) -> str:
    """The page that `template`, such as `vote.html`, makes of `values`.

    Values are escaped, but for those that a template marks as safe: drawings that are made here.
    """
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    # every file's values are escaped, whatever its name ends in; a value that a page lacks is a
    # mistake
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
