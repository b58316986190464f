"""Where a model's weights come from: the entry of a preset. Torch-free, so that presets are checked
without torch.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from diagd_cli import families
from diagd_cli.errors import UsageError
from diagd_cli.files.url import Url, masked, place
from diagd_cli.model.config import MOST_CODES, Strict


def _known_format(name: str) -> str:
    if name not in families.formats():
        raise ValueError(f"must be one of {', '.join(families.formats())}")
    return name


Format = Annotated[str, AfterValidator(_known_format)]


def _a_place(name: str) -> str:
    try:
        place(name)
    except UsageError as error:
        raise ValueError(str(error)) from None
    return name


class WeightsFile(Strict):
    """A file, its path within the repository or relative to the preset, or its URL; and its
    checksum where one is known. `parts`: the files of the release that hold it instead, in order:
    pieces of a tar within gzip.
    """

    file: Annotated[str, AfterValidator(_a_place)] = Field(min_length=1, max_length=1000)
    parts: tuple[Annotated[str, Field(min_length=1, max_length=1000)], ...] = Field(
        default=(), max_length=1000
    )
    sha256: str = Field(default="", pattern="^([0-9a-f]{64})?$")
    md5: str = Field(default="", pattern="^([0-9a-f]{32})?$")

    @property
    def url(self) -> Url | None:
        """Where it is, if not in a folder or repository."""
        where = place(self.file)
        return where if isinstance(where, Url) else None

    @property
    def name(self) -> str:
        """What it is called in a folder of weights."""
        return self.url.name if self.url else str(place(self.file))

    @property
    def checksum(self) -> tuple[str, str]:
        """Name of the hash and its hexadecimal value; two empty strings where none is known."""
        return (
            ("sha256", self.sha256) if self.sha256 else ("md5", self.md5) if self.md5 else ("", "")
        )

    def at(self, path: str) -> WeightsFile:
        """The same file, whole, elsewhere."""
        return self.model_copy(update={"file": path, "parts": ()})


class Source(Strict):
    """Files that together hold one model, and the Hugging Face repository that has them ("" for
    none). `release`: OWNER/NAME@TAG of a release on GitHub that has them. `where`: in words, for
    people, where else they are. `gated`: whether the repository gives them only to who has accepted
    their licence there. `withdrawn`: since when it no longer has them, in words.
    """

    repo: str = Field(default="", pattern=r"^([\w.-]+/[\w.-]+)?$")
    release: str = Field(default="", pattern=r"^([\w.-]+/[\w.-]+@[\w.-]+)?$", max_length=200)
    where: str = Field(default="", max_length=300)
    gated: bool = False
    withdrawn: str = Field(default="", max_length=100)
    files: tuple[WeightsFile, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_place(self) -> Source:
        if self.repo and self.release:
            raise ValueError(
                f"repo ({self.repo}) and release ({self.release}) are two sources: name one"
            )
        if not self.release and (apart := next((f for f in self.files if f.parts), None)):
            raise ValueError(f"{apart.file} has parts, which are a release's: name the release")
        return self

    @property
    def project(self) -> str:
        """OWNER/NAME of the repository or release, "" for neither."""
        return self.repo or self.release.partition("@")[0]


class Weights(Strict):
    """The weights of one model. `format` says whose names they bear; any one of `sources` will do,
    the first is fetched.

    `offset`: where the files' vocabulary has its first code, if not in front. Its ids go round:
    our id n is theirs n + offset, less their number where it is too large.

    In YAML a single local file may be written as {file: mine.safetensors, sha256: ...}.
    """

    format: Format = families.OWN_FORMAT
    offset: int = Field(default=0, ge=0, le=MOST_CODES)
    sources: tuple[Source, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _has_offset(self) -> Weights:
        if self.offset and self.format not in families.formats(offsets=True):
            raise ValueError(f"format {self.format} has its codes in front, offset must be 0")
        return self

    @model_validator(mode="before")
    @classmethod
    def _single(cls, given: Any) -> Any:
        if not isinstance(given, dict) or "file" not in given:
            return given
        alone = {key: given[key] for key in WeightsFile.model_fields if key in given}
        rest = {key: value for key, value in given.items() if key not in alone}
        return {**rest, "sources": [{"files": [alone]}]}

    @classmethod
    def single(cls, file: str, sha256: str = "", format: Format = families.OWN_FORMAT) -> Weights:
        """The entry for one local file."""
        return cls(format=format, sources=(Source(files=(WeightsFile(file=file, sha256=sha256),)),))

    @property
    def key(self) -> str:
        """What tells these weights from others, for caches and sidecars: the first checksum, or the
        first file's name.
        """
        first = self.sources[0].files[0]
        return first.checksum[1] or masked(first.file)
