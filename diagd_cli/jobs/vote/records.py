"""What the files of a vote hold: the key of whoever asks, and a voter's choices.

They are parsed as data, never run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, ValidationError

from diagd_cli.errors import DiagdError
from diagd_cli.model.config import Strict
from diagd_cli.preset_files import describe

LARGEST = 8 << 20  # bytes of a file that is read

Choice = Literal["left", "right", "equal"]


class VoteError(DiagdError):
    """Clips that make no pairs, or a file of votes or a key that is malformed or of another
    vote.
    """


class Pair(Strict):
    """One clip in both decodings: its name, and which folder's video is shown on the left."""

    name: str
    left: Literal["a", "b"]


class Key(Strict):
    """What voters must not know. `a` and `b` are the two folders; `pairs` has the page's ids in the
    page's order.
    """

    format: Literal["diagd-vote-key"] = "diagd-vote-key"
    vote: str
    question: str
    seed: int
    a: str
    b: str
    pairs: dict[str, Pair] = Field(min_length=1)


class Votes(Strict):
    """What the page saves: one voter's choices by pair id; `ballot` is drawn at random in the
    voter's browser.
    """

    format: Literal["diagd-votes"]
    vote: str
    ballot: str = Field(pattern="^[0-9a-f]{16}$")
    voter: str = Field("", max_length=200)
    choices: dict[str, Choice] = Field(min_length=1)


Record = TypeVar("Record", Key, Votes)


def read_record(path: Path, kind: type[Record]) -> Record:
    """Read and check a key or a file of votes. Raises VoteError."""
    what, hint = {
        Key: ("a vote's key", "Give the FOLDER.key.json that diagd vote pack wrote"),
        Votes: ("a file of votes", "Give the file that the voter's page saved"),
    }[kind]
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise VoteError(
            f"{path} cannot be read: {(error.strerror or str(error)).lower()}", hint
        ) from None
    if len(data) > LARGEST:
        raise VoteError(f"{path} is not {what}: it is larger than {LARGEST >> 20} MiB", hint)
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise VoteError(f"{path} is not {what}: {describe(error, kind)}", hint) from None
