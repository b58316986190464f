"""Prompts as models were trained on them that learned from cleaned captions of the web: plain
lower-case words, without what only a page has.

It does what is said of the routine of DeepFloyd and PixArt, which LlamaGen runs twice: lower case;
no addresses, handles, HTML, CJK characters and odd punctuation. What else that drops of
advertisements (product numbers, phrases of shops) is no prompt's, and stays.
"""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser

DROPPED = (
    r"(https?://|www\.)\S*",  # addresses
    r"(?<!\w)@\w+",  # handles
    r"[\u31c0-\u9fff]",  # CJK
)
SPACED = (
    r"[#\u00ae\u2022\u00a9\u2122&@\u00b7\u00ba\u00bd\u00be\u00bf\u00a1\u00a7~()\[\]{}|\\/*]+",
    r"\.{2,}",
    r"\s+\.\s+",
)
STRAIGHT = (
    (r"[\u2010-\u2015\u2212\ufe58\ufe63\uff0d\u2e3a\u2e3b]", "-"),  # dashes
    ("[`\u00b4\u00ab\u00bb\u201c\u201d\u00a8]", '"'),
    ("[\u2018\u2019]", "'"),
    (r"[\"']{2,}", '"'),
)


def clean(prompt: str) -> str:
    """The prompt, cleaned; "" where nothing is left."""
    return _once(_once(prompt))


def _once(prompt: str) -> str:
    words = _without_tags(unescape(prompt).lower())
    for pattern in DROPPED:
        words = re.sub(pattern, "", words)
    for pattern, plain in STRAIGHT:
        words = re.sub(pattern, plain, words)
    for pattern in SPACED:
        words = re.sub(pattern, " ", words)
    if len(re.findall("[-_]", words)) > 3:  # a file's name, rather than words with hyphens
        words = re.sub("[-_]", " ", words)
    words = " ".join(words.split())
    quoted = re.fullmatch(r"[\"'](.+)[\"']", words)
    words = quoted[1] if quoted else words
    return words.lstrip("'_,-:;").rstrip("'_,-:+").strip()


class _Text(HTMLParser):
    """What is to be read of HTML."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []

    def handle_data(self, data: str) -> None:
        self.parts.append(data)


def _without_tags(text: str) -> str:
    if "<" not in text:
        return text
    reader = _Text()
    reader.feed(text)
    reader.close()
    return "".join(reader.parts)
