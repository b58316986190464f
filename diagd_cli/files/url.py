"""Names of files on other machines: s3://bucket/clips/a.mp4, or any that fsspec knows.

Nothing is opened here. A name that is shown never tells the credentials in it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from urllib.parse import quote, unquote

from diagd_cli.errors import UsageError

_URL = re.compile(r"([a-z][a-z0-9+.-]+)(::|://)(.*)", re.IGNORECASE | re.DOTALL)
_FILE = "file"
_WEB = ("http", "https")  # whose names end in a question that may be a key
_PORT = re.compile(r"[^@]*:\d*")
HIDDEN = "***"
SHORTEST = 3  # letters of a part of a password that messages may hold by chance


@dataclass(frozen=True, repr=False)
class Url:
    """The name of a file, with the members of `pathlib.Path` that names have; it is no path, and no
    file of this machine is ever taken for it.

    address: the whole, for the library that opens it. `str` is for people and files: credentials
        are masked in it.
    """

    address: str

    def __str__(self) -> str:
        if not self.secrets:
            return self.address
        user, question = self._user, self._question
        rest = self._rest[len(user) :]
        return f"{self.scheme}://{HIDDEN if user else ''}{rest}{f'?{HIDDEN}' if question else ''}"

    def is_told_by(self, text: str) -> bool:
        """Whether what somebody says of this file tells of its credentials, whole or in part."""
        parts = [part for secret in self.secrets for part in re.split("[:/@&=]", secret)]
        known = [part for part in parts if len(part) > SHORTEST] + self.secrets
        return any(form in text for one in known for form in (one, quote(one), unquote(one)))

    def __repr__(self) -> str:
        return f"Url({str(self)!r})"

    @property
    def scheme(self) -> str:
        """What stands before ://, in lower case."""
        return self.address.partition("://")[0]

    @property
    def _rest(self) -> str:
        """What follows ://, without the question of a web page."""
        rest = self.address.partition("://")[2]
        return rest.partition("?")[0] if self.scheme in _WEB else rest

    @property
    def secrets(self) -> list[str]:
        """What of the address is nobody's business: user and password, the question of a signed
        web address.
        """
        return [secret for secret in (self._user, self._question) if secret]

    @property
    def _user(self) -> str:
        first = self._rest.partition("/")[0]  # a password may hold a slash
        named = ":" in first and not _PORT.fullmatch(first)
        known = named or (self.scheme in _WEB and "@" in first)
        return self._rest.rpartition("@")[0] if known else ""

    @property
    def _question(self) -> str:
        return self.address.partition("?")[2] if self.scheme in _WEB else ""

    @property
    def name(self) -> str:
        """The last part of the path; "" where there is a bucket or a machine alone."""
        return "" if self.is_root else self._rest.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """What the name ends in, with the dot."""
        return PurePosixPath(self.name).suffix

    @property
    def is_root(self) -> bool:
        """Whether it names a bucket or a machine, and nothing in it."""
        return "/" not in self._rest.rstrip("/")

    @property
    def root(self) -> str:
        """The bucket or machine."""
        return f"{self.scheme}://{self._rest.partition('/')[0]}"

    @property
    def parent(self) -> Url:
        """The folder, which of a bucket is itself."""
        return self if self.is_root else Url(f"{self.scheme}://{self._folder}")

    @property
    def _folder(self) -> str:
        return self._rest if self.is_root else self._rest.rpartition("/")[0]

    def with_name(self, name: str) -> Url:
        """Another file of the same folder."""
        return Url(f"{self.scheme}://{self._folder}/{name}")

    def with_suffix(self, suffix: str) -> Url:
        """A file beside it."""
        return self.with_name(self.stem + suffix)

    def as_posix(self) -> str:
        """As `str`."""
        return str(self)

    def __truediv__(self, below: str | PurePath) -> Url:
        """A file below this folder; .. leads up, as far as the bucket."""
        bucket, *parts = self._rest.rstrip("/").split("/")
        for part in PurePath(below).as_posix().split("/"):
            if part == "..":
                parts = parts[:-1]
            elif part not in ("", "."):
                parts = [*parts, part]
        return Url(f"{self.scheme}://{'/'.join((bucket, *parts))}")


Place = Path | Url


def place(text: str | Place) -> Place:
    """The path or URL that a text names. `file://` is a path as any other.

    Raises UsageError for a URL that leads through several file systems, whose parts fsspec would
    take for settings, and for one that leads nowhere.
    """
    if not isinstance(text, str):
        return text
    match = _URL.fullmatch(text)
    if not match or ("://" not in text):
        return Path(text)
    scheme, rest = match[1].lower(), match[3]
    url = Url(f"{scheme}://{rest}")
    if match[2] == "::" or "::" in rest:
        raise UsageError(
            f"{masked(text)} is a chain of URLs", "Name the file by one URL without ::"
        )
    if scheme == _FILE:
        if not rest.startswith("/"):
            raise UsageError(f"{text} is not file:///FOLDER/NAME", "Three slashes, then the path")
        drive = os.name == "nt" and re.match("/[a-z]:", rest, re.IGNORECASE)
        return Path(rest[1:] if drive else rest)
    if rest.strip("/"):
        return url
    raise UsageError(f"{url} names no bucket or machine", f"Write {scheme}://BUCKET/NAME")


def masked(text: str) -> str:
    """A text that may be a URL, or a chain of them, as it may be shown."""
    if "://" not in text:
        return text
    return "::".join(str(Url(part)) if _URL.fullmatch(part) else part for part in text.split("::"))


def below(folder: Place, text: str) -> Place:
    """What a text names that is relative to a folder, unless it is a URL or an absolute path."""
    found = place(text)
    if isinstance(found, Url) or found.is_absolute():
        return found
    return folder / found


def address(where: Place) -> str:
    """The text that `place` makes this of, with its credentials: for other processes alone."""
    return where.address if isinstance(where, Url) else str(where)
