"""Where a model's weights come from: the entry of a preset. Torch-free, so that presets are checked without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from diagd_cli.model.config import Strict

Format = Literal["diagd", "cosmos", "mineworld", "wham"]
FORMAT_OF: dict[str, Format] = {  # by the kind of the preset's tokenizer, where no entry says it
    "fsq-image": "diagd",
    "cosmos-dv": "cosmos",
    "vq-image": "mineworld",
    "vit-vq": "wham",
}


class WeightsFile(Strict):
    """A file, its path within the repository or relative to the preset, and its checksum where one is known."""

    file: str = Field(min_length=1, max_length=1000)
    sha256: str = Field(default="", pattern="^([0-9a-f]{64})?$")
    md5: str = Field(default="", pattern="^([0-9a-f]{32})?$")

    @property
    def checksum(self) -> tuple[str, str]:
        """Name of the hash and its hexadecimal value; two empty strings where none is known."""
        return ("sha256", self.sha256) if self.sha256 else ("md5", self.md5) if self.md5 else ("", "")


class Source(Strict):
    """Files that together hold one model, and the Hugging Face repository that has them ("" for none)."""

    repo: str = Field(default="", pattern=r"^([\w.-]+/[\w.-]+)?$")
    files: tuple[WeightsFile, ...] = Field(min_length=1)


class Weights(Strict):
    """The weights of one model. `format` says whose names they bear; any one of `sources` will do, the first is fetched.

    In YAML a single local file may be written as {file: mine.safetensors, sha256: ...}.
    """

    format: Format = "diagd"
    sources: tuple[Source, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _single(cls, given):
        if not isinstance(given, dict) or "file" not in given:
            return given
        alone = {key: given[key] for key in WeightsFile.model_fields if key in given}
        rest = {key: value for key, value in given.items() if key not in alone}
        return {**rest, "sources": [{"files": [alone]}]}

    @classmethod
    def single(cls, file: str, sha256: str = "", format: Format = "diagd") -> Weights:
        """The entry for one local file."""
        return cls(format=format, sources=(Source(files=(WeightsFile(file=file, sha256=sha256),)),))

    @property
    def key(self) -> str:
        """What tells these weights from others, for caches and sidecars: the first checksum, or the first file's name."""
        first = self.sources[0].files[0]
        return first.checksum[1] or first.file
