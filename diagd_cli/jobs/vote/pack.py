"""Making the folder that voters get: shuffled pairs of videos, one page that shows them, and a key
that stays outside.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diagd_cli.clip.write import start_ffmpeg
from diagd_cli.errors import ClipError, OutputError, UsageError
from diagd_cli.files.atomic import is_full, make_folders, remove_folders, write_failure, write_json
from diagd_cli.files.hidden import hidden_name
from diagd_cli.files.outputs import check_outputs
from diagd_cli.jobs.vote.records import Key, Pair, VoteError
from diagd_cli.report.pages import render

QUESTION = "Which video looks better?"
LONGEST_QUESTION = 300  # characters
SHOWN = 10  # names that a message lists of each folder


def key_path(folder: Path) -> Path:
    """Where the key of a pack lies: beside its folder."""
    return folder.with_name(f"{folder.name}.key.json")


def pack_ballot(a: Path, b: Path, folder: Path, seed: int, question: str = QUESTION) -> Key:
    """Write a folder (videos/ and index.html) for voters and its key, from two folders that hold
    MP4s of the same names.

    Both appear when they are complete. Raises UsageError, VoteError, ClipError or OutputError.

    a, b: the folders that are compared.
    folder: the one to make; the key lies beside it, see `key_path`.
    seed: decides the pairs' order and their sides; nothing in the folder depends on it otherwise.
    question: what voters are asked.
    """
    question = _text(question.strip())
    if not 0 < len(question) <= LONGEST_QUESTION:
        raise UsageError(
            f"The question has {len(question)} characters", f"Write 1 to {LONGEST_QUESTION}"
        )
    if not folder.name:
        raise UsageError(f"{folder} is no folder to make", "Name a new one, such as -o ballot")
    drawn = draw_pairs(paired_names(a, b), seed)
    for path in (folder, key_path(folder)):
        if os.path.lexists(path):
            raise OutputError(
                f"{path} exists already",
                "Choose another name: an older page's votes need its own key",
            )
    for source in (a, b):
        if os.path.realpath(folder).startswith(os.path.join(os.path.realpath(source), "")):
            raise UsageError(
                f"{folder} lies in {source}, whose videos are read", "Choose another folder with -o"
            )
    reads = [(source / name, "a video") for source in (a, b) for name, _ in drawn.values()]
    writes = [(key_path(folder), "the key"), (folder / "index.html", "the page")]
    check_outputs(writes, reads, force=False)
    with _new_folder(folder) as temporary:
        digest = hashlib.sha256(question.encode())
        (temporary / "videos").mkdir()
        for pair, (name, left) in drawn.items():
            for side, source in zip(
                ("left", "right"), (a, b) if left == "a" else (b, a), strict=True
            ):
                target = temporary / "videos" / f"{pair}-{side}.mp4"
                copy_video(source / name, target)
                digest.update(hashlib.sha256(target.read_bytes()).digest())
        # Made of nothing but what voters see anyway, so that it tells nothing about the sides.
        vote = digest.hexdigest()[:16]
        (temporary / "index.html").write_text(page(vote, question, list(drawn)), encoding="utf-8")
        pairs = {pair: Pair(name=_text(name), left=left) for pair, (name, left) in drawn.items()}
        key = Key(vote=vote, question=question, seed=seed, a=_text(a), b=_text(b), pairs=pairs)
        write_json(key_path(folder), key.model_dump())
    return key


def paired_names(a: Path, b: Path) -> list[str]:
    """File names of the MP4s that both folders hold. Raises UsageError or VoteError."""
    first, second = _videos(a), _videos(b)
    if a.samefile(b):
        raise UsageError(f"{a} and {b} are the same folder", "Give the folders of two decodings")
    alone = [f"only {a} has {_listed(first - second)}"] if first - second else []
    alone += [f"only {b} has {_listed(second - first)}"] if second - first else []
    if alone:
        raise VoteError("; ".join(alone), "Every clip must be in both folders under the same name")
    if not first:
        raise VoteError(
            f"{a} and {b} hold no MP4s", "Make them with: diagd generate CLIPS -o FOLDER/"
        )
    return sorted(first)


def draw_pairs(names: list[str], seed: int) -> dict[str, tuple[str, str]]:
    """(name, the folder on the left: a or b) of each pair by its id 1, 2, ...; a is on the left in
    half of them.
    """
    draw = random.Random(seed)
    order = draw.sample(names, len(names))
    lefts = ["a", "b"] * (len(order) // 2) + draw.sample(["a", "b"], len(order) % 2)
    draw.shuffle(lefts)
    digits = len(str(len(order)))
    return {f"{n:0{digits}}": drawn for n, drawn in enumerate(zip(order, lefts, strict=True), 1)}


def copy_video(source: Path, target: Path) -> None:
    """Copy a video's pictures as they are coded, without sound, names, dates or other tags.

    Raises ClipError, or an OSError where the disk of the target is full.
    """
    read = ["-protocol_whitelist", "file", "-f", "mov", "-i", "file:" + os.path.abspath(source)]
    bare = [
        "-map",
        "0:V:0",
        "-c",
        "copy",
        "-map_metadata",
        "-1",
        "-map_metadata:s:v",
        "-1",
        "-map_chapters",
        "-1",
    ]
    written = ["-fflags", "+bitexact", "-movflags", "+faststart", "-f", "mp4", f"file:{target}"]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    pipes["restore_signals"] = False  # as VideoWriter's: a file size limit is then reported
    process = start_ffmpeg(["-loglevel", "error", *read, *bare, *written], ClipError, **pipes)
    try:
        log = process.communicate()[1].decode("utf-8", "replace")
    finally:
        process.kill()
        process.wait()
    if process.returncode and is_full(log):
        raise OSError(log)
    if process.returncode:
        reason = textwrap.shorten(log.replace(f"{target}", "the copy"), 200, placeholder=" ...")
        raise ClipError(
            f"{source} cannot be copied as an MP4: {reason}",
            "Make the video again, or leave it out",
        )


def page(vote: str, question: str, pairs: list[str]) -> str:
    """The HTML of the page, with what it asks as JSON in it; the page's script puts the question in
    as plain text.
    """
    return render("vote.html", pack={"vote": vote, "question": question, "pairs": pairs})


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its name when the block ends well; else it and
    the key vanish.
    """
    parent, folders = Path(os.path.abspath(folder)).parent, []
    temporary = None
    try:
        folders = make_folders(parent)
        temporary = hidden_name(parent / "pack")
        temporary.mkdir()
        yield temporary
        temporary.rename(folder)
    except BaseException as error:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)
            key_path(folder).unlink(missing_ok=True)
        remove_folders(folders)
        if isinstance(error, OSError):
            raise write_failure(folder, error.strerror or str(error)) from error
        raise


def _videos(folder: Path) -> set[str]:
    """Names of the MP4s in a folder, hidden ones aside. Raises UsageError."""
    try:
        return {
            path.name
            for path in folder.iterdir()
            if path.suffix.lower() == ".mp4" and path.is_file() and not path.name.startswith(".")
        }
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be read: {(error.strerror or str(error)).lower()}",
            "Give a folder of MP4s",
        ) from None


def _listed(names: set[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(sorted(names)[:SHOWN]) + more


def _text(name: str | Path) -> str:
    """A name or a question as JSON can hold it: bytes that are not UTF-8 are replaced."""
    return os.fsencode(name).decode("utf-8", "replace")
