"""What has been measured so far, a line a sample in DIR/results.jsonl: a second start does only
what is missing.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from diagd_cli.files.atomic import write_failure, write_npz

LINES = "results.jsonl"


@dataclass(frozen=True, eq=False)
class Record:
    """One sample.

    about: what tells it from others.
    figures: as JSON can hold them, see `measure`.
    arrays: by name: `codes` int32 [T, h, w], `features` float32 [F, D] and `copied_features`.
    """

    about: dict
    figures: dict
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


def files(folder: Path) -> list[tuple[Path, str]]:
    """What a store writes, and what that is; of the samples' arrays one stands for all."""
    return [
        (folder / LINES, "the record of results"),
        (folder / "samples" / f"{_hash({})}.npz", "a sample"),
    ]


class Store:
    """Records of one evaluation, in memory, and in `folder` where there is one.

    Lines that are cut off, or of other settings, are left alone. `whole` are the settings;
    `decodings` are the facts of those that the folder had samples of, each once.

    folder: where they are kept; None keeps them in memory alone.
    written: whether those that are added go there, too.
    settings: all that decides a figure and is the same for every sample. Their hash is part of a
        record's name, so that a folder may hold the samples of several evaluations.
    """

    def __init__(self, folder: Path | None, settings: dict, written: bool = True):
        self.folder, self.written = folder, written
        self.whole, self.settings = settings, _hash(settings)
        self.records: dict[str, Record] = {}
        self.figures: dict[str, dict] = {}
        self.decodings: list[dict] = []
        if folder and (folder / LINES).exists():
            for line in (folder / LINES).read_text(encoding="utf-8", errors="replace").splitlines():
                self._read(line)

    def find(self, about: dict) -> Record | None:
        """The record of a sample, None where it is still to be made."""
        name = self._name(about)
        if name in self.records or name not in self.figures:
            return self.records.get(name)
        try:
            with np.load(self._arrays(name), allow_pickle=False) as file:
                arrays = dict(file)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            return None  # it is made again
        self.records[name] = Record(about, self.figures[name], arrays)
        return self.records[name]

    def taken(self) -> list[Record]:
        """What has been added, and is not in the folder; it is here no more."""
        fresh = [one for name, one in self.records.items() if name not in self.figures]
        self.records.clear()
        return fresh

    def known(self, about: dict) -> Record:
        """The record of a sample that has been made. Raises KeyError where it is not to be had."""
        found = self.find(about)
        if found is None:
            raise KeyError(f"no record of {about}")
        return found

    def add(self, *records: Record) -> None:
        """Keep records: their arrays first, then their lines, so that a line stands for all of it.

        Raises OutputError.

        The lines go out in one piece, so that a run that is killed leaves all clips of a batch or
        none: one that was decoded again without the others would have another speed.
        """
        names = [self._name(record.about) for record in records]
        self.records |= dict(zip(names, records, strict=True))
        if not (self.folder and self.written):
            return
        lines = []
        for name, record in zip(names, records, strict=True):
            write_npz(self._arrays(name), **record.arrays)
            line = {
                "id": name,
                "settings": self.settings,
                **record.about,
                "figures": record.figures,
            }
            lines.append(json.dumps(line) + "\n")
        path = self.folder / LINES
        try:
            torn = path.exists() and not path.read_bytes().endswith(b"\n")
            with path.open("ab") as file:
                file.write(("\n" * torn + "".join(lines)).encode())
        except OSError as error:
            raise write_failure(path, error.strerror or str(error)) from None

    def _read(self, line: str) -> None:
        try:
            value = json.loads(line)
            if value["settings"] == self.settings:
                self.figures[str(value["id"])] = value["figures"]
                decoding = value.get("decoding")  # the truth has none
                if decoding and decoding not in self.decodings:
                    self.decodings.append(decoding)
        except (ValueError, KeyError, TypeError):
            pass  # a line that a killed run has cut off

    def _name(self, about: dict) -> str:
        return _hash({"settings": self.settings, **about})

    def _arrays(self, name: str) -> Path:
        assert self.folder is not None  # without one nothing is written, and nothing read
        return self.folder / "samples" / f"{name}.npz"


def _hash(value: dict) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
