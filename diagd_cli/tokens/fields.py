"""Types of the numbers in a tokenizer's section of a preset: within these bounds a stranger's
preset cannot ask too much.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Levels = Annotated[
    tuple[Annotated[int, Field(ge=2, le=1 << 16)], ...], Field(min_length=1, max_length=16)
]
Side = Annotated[int, Field(gt=0, le=1 << 10)]  # of a patch or a token, in pixels
MOST_LEVELS = 12  # of resolution: a token of 2048x2048 pixels
