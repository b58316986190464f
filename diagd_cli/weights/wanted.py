"""A file of weights that is to be fetched: of a repository of the Hugging Face hub, or of a release
on GitHub.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from urllib.parse import quote

from diagd_cli.sources import WeightsFile

HUB, GITHUB = "https://huggingface.co", "https://github.com"
GITHUB_VARIABLE = "GITHUB_SERVER_URL"  # as GitHub's own tools call it


@dataclass(frozen=True)
class Wanted:
    """A file that is not here yet.

    tag: of the release on GitHub; "" for the hub.
    """

    repo: str
    file: WeightsFile
    tag: str = ""

    @property
    def parts(self) -> list[Wanted]:
        """The files that hold it, where it is published in parts."""
        return [replace(self, file=WeightsFile(file=part)) for part in self.file.parts]

    @property
    def folder(self) -> str:
        """Where it is put, and found, below the folder of all weights: its repository's name."""
        return self.repo.split("/")[1]

    @property
    def page(self) -> str:
        """Where somebody finds it."""
        if self.tag:
            return f"{_github()}/{self.repo}/releases/tag/{quote(self.tag)}"
        return f"{endpoint() or HUB}/{self.repo}"

    @property
    def address(self) -> str:
        """Of the file of a release."""
        path = f"{quote(self.tag)}/{quote(self.file.file)}"
        return f"{_github()}/{self.repo}/releases/download/{path}"

    def __str__(self) -> str:
        return f"{self.file.file} of {self.repo}" + (f" {self.tag}" if self.tag else "")


def endpoint() -> str | None:
    """Where the hub is, if not at its own address: read now, where huggingface_hub has read it when
    it was imported.
    """
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


def _github() -> str:
    return os.environ.get(GITHUB_VARIABLE, "").rstrip("/") or GITHUB
