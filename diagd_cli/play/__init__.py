"""A world that is played live: tokens as actions come, pictures as they are made, in a browser."""

from pathlib import Path

LOOPBACK = "127.0.0.1", "localhost", "::1"  # names of this machine
# of the files of what was played, beside each other
ENDINGS = {"mp4": ".mp4", "actions": ".jsonl", "sidecar": ".json"}
MOST_SESSIONS = 8
LARGEST_MESSAGE = 4096  # characters that a client may send at once


def recording(record: Path, place: int) -> Path:
    """The MP4 of what was played at a place: of the first it is `record`, of others WALK-2.mp4 and
    so on.
    """
    return record.with_stem(f"{record.stem}-{place + 1}") if place else record


def nothing() -> None:
    """What is done after a step of a world unless something is."""
