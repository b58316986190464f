"""Why weights were not fetched: what went wrong on the way, in one line that says what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diagd_cli.errors import WeightsError
from diagd_cli.weights.wanted import Wanted

REFUSED, FORBIDDEN, GONE = 401, 403, (404, 410)
ELSEWHERE = "fetch the files elsewhere and name their folder with --weights-dir"


@contextmanager
def explained(wanted: Wanted, target: Path, has_token: bool) -> Iterator[None]:
    """Turn what huggingface_hub raises, or urllib, into one line that says what to do."""
    from huggingface_hub.errors import HTTPError  # of the HTTP library that it uses

    try:
        yield
    except WeightsError:
        raise
    # RuntimeError: from its compiled transfer
    except (OSError, HTTPError, ValueError, RuntimeError) as error:
        raise _explain(error, wanted, target, has_token) from None


def _explain(error: Exception, wanted: Wanted, target: Path, has_token: bool) -> WeightsError:
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    reason = re.sub(
        r"^\[Errno -?\d+\] ", "", next(iter(str(error).strip().splitlines()), type(error).__name__)
    )
    response = getattr(error, "response", None)
    status = getattr(error, "code", None) if response is None else response.status_code
    if wanted.tag and status is not None:
        return _not_released(wanted, status, reason)
    if isinstance(error, GatedRepoError):
        return _gated(wanted, has_token)
    if isinstance(error, RepositoryNotFoundError) or (
        status in GONE and not isinstance(error, EntryNotFoundError)
    ):
        hint = (
            f"If it was withdrawn, {ELSEWHERE}; if it is private, set HF_TOKEN to a token that may "
            "read it"
        )
        return WeightsError(
            f"The repository {wanted.repo} is not on the hub, or not for everyone", hint
        )
    if status in GONE:
        return WeightsError(f"There is no {wanted}", f"It was withdrawn or renamed; {ELSEWHERE}")
    if status == REFUSED:
        hint = "Set HF_TOKEN to a valid one, or run: hf auth login"
        return WeightsError(f"The hub does not know the token that was sent for {wanted}", hint)
    if status == FORBIDDEN:
        return WeightsError(
            f"The hub does not give {wanted} to everyone: {reason}", f"See {wanted.page}"
        )
    if status is not None:
        return WeightsError(
            f"The hub cannot give {wanted} now: {reason}", f"Try again later, or {ELSEWHERE}"
        )
    if isinstance(error, OfflineModeIsEnabled):
        return WeightsError(
            f"{wanted} is not fetched, as HF_HUB_OFFLINE is set", f"Unset it, or {ELSEWHERE}"
        )
    if "No space left" in str(error) or "quota exceeded" in str(error):
        hint = (
            "Free some space, or name another folder with --weights-dir; what is complete is kept"
        )
        return WeightsError(f"No room for {wanted} in {target}", hint)
    if isinstance(error, OSError) and error.filename:
        why = (error.strerror or str(error)).lower()
        return WeightsError(
            f"{error.filename} cannot be written: {why}", "Name another folder with --weights-dir"
        )
    hint = (
        "Check the connection and run the same command again, which keeps what is complete; or "
        f"{ELSEWHERE}"
    )
    return WeightsError(f"{wanted} was not fetched: {reason}", hint)


def _not_released(wanted: Wanted, status: int, reason: str) -> WeightsError:
    """What GitHub answers where it does not give a file."""
    if status in GONE:
        hint = f"It was withdrawn or renamed, see {wanted.page}; {ELSEWHERE}"
        return WeightsError(f"There is no {wanted}", hint)
    return WeightsError(
        f"GitHub cannot give {wanted} now: {reason}", f"Try again later, or {ELSEWHERE}"
    )


def _gated(wanted: Wanted, has_token: bool) -> WeightsError:
    """A licence must be accepted first, by the account whose token is sent."""
    from huggingface_hub import get_token

    with_token = "by the account of the token that is sent"
    first = "then set HF_TOKEN to your token, or run: hf auth login"
    hint = (
        f"Accept the licence at {wanted.page}, {with_token if has_token or get_token() else first}"
    )
    return WeightsError(f"{wanted.repo} is given only to those who accept its licence", hint)
