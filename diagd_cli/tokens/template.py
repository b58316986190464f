"""Prompts as ids: a template says what stands around the text, and a `tokenizer.json` of Hugging
Face's `tokenizers` library what the text is. That file is data; nothing in it is run.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diagd_cli.errors import MissingExtra, UsageError, WeightsError, one_line
from diagd_cli.files.bounded import read_bounded

if TYPE_CHECKING:
    from diagd_cli.sections import Prompt

LARGEST_FILE = 1 << 26  # bytes
ID = re.compile(r"<(\d{1,7})>")
TEXT = "{text}"

Words = Callable[[str], list[int]]  # text -> ids


def parts_of(template: str) -> list[int | str]:
    """The ids and the texts of a template, in turn; no text is empty.

    A text is what stands between ids, in which {text} is the prompt. Raises ValueError unless the
    prompt has one place.
    """
    pieces = ID.split(template)
    parts: list[int | str] = [int(p) if n % 2 else p for n, p in enumerate(pieces) if p]
    if template.count(TEXT) != 1:
        raise ValueError(f"{template!r} must have one {TEXT}, where the prompt stands")
    return parts


def read_words(path: Path) -> Words:
    """What makes ids of text, by a `tokenizer.json`: no ids of its own are added, and what looks
    like a special token in a text is text.

    Raises WeightsError for a file that is none, MissingExtra without `tokenizers`.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise MissingExtra("tokenizers", "text", "A prompt in words") from None
    try:
        words: Any = Tokenizer.from_buffer(read_bounded(path, LARGEST_FILE))
    except Exception as error:  # the library has no class of its own for what it cannot read
        told = f"{path} is no tokenizer.json: {one_line(error)}"
        raise WeightsError(told, "Fetch it again") from None
    words.no_padding()
    words.no_truncation()
    words.encode_special_tokens = True
    return lambda text: list(words.encode(text, add_special_tokens=False).ids)


def prompt_ids(prompt: Prompt, text: str | None, vocab: int, words: Words | None) -> np.ndarray:
    """Our ids int64 [n] of a prompt, at most `prompt.length`.

    text: None leaves all text out, for which no `words` are needed.
    vocab: ids that the Transformer has.

    Raises UsageError for a prompt that is too long, WeightsError for words that the model has not.
    """
    ids: list[int] = []
    for part in parts_of(prompt.template):
        if isinstance(part, int):
            ids.append(part)
        elif text is not None:
            assert words is not None  # whoever has a text has them
            ids += words(part.replace(TEXT, text))
    if len(ids) > prompt.length:
        told = f"The prompt makes {len(ids)} tokens, with what stands around it"
        raise UsageError(told, f"The preset takes {prompt.length}: shorten it")
    if beyond := [each for each in ids if each >= vocab]:
        told = f"The prompt has the id {beyond[0]}, and the model {vocab} ids"
        raise WeightsError(told, "Give the tokenizer.json that belongs to the model")
    return (np.array(ids, dtype=np.int64) - prompt.offset) % vocab
