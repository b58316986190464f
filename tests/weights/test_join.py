"""A file that is published in pieces of a tar within gzip is made whole, and nothing else is
written.
"""

import io
import random
import tarfile

import pytest

from diagd_cli.errors import WeightsError
from diagd_cli.weights.join import join

# which gzip cannot make smaller, as it cannot weights
MODEL = random.Random(0).randbytes(300_000)


def packed(*members: tuple[str, bytes]) -> bytes:
    """A tar within gzip."""
    whole = io.BytesIO()
    with tarfile.open(mode="w:gz", fileobj=whole) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return whole.getvalue()


def pieces(folder, whole: bytes, size: int = 130_000):
    """Its parts as files."""
    found = []
    for start in range(0, len(whole), size):
        found.append(folder / f"big.tar.gz.part_{start:06}")
        found[-1].write_bytes(whole[start : start + size])
    return found


def failure(parts, target) -> str:
    with pytest.raises(WeightsError) as caught:
        join(parts, target)
    assert not target.exists() and sorted(target.parent.iterdir()) == sorted(parts)
    return str(caught.value)


def test_parts_are_joined_whatever_the_archive_calls_the_file(tmp_path):
    """Though it would lie elsewhere, and with what is packed besides."""
    beside = ("._model.pt", b"of macOS"), ("notes.txt", b"read me")
    parts = pieces(tmp_path, packed(*beside, ("../../runs/last.pt", MODEL)))
    assert len(parts) == 3
    join(parts, tmp_path / "own" / "model.pt")
    assert (tmp_path / "own" / "model.pt").read_bytes() == MODEL
    assert sorted(tmp_path.iterdir()) == [*parts, tmp_path / "own"]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda parts: parts[:-1], "damaged, or not parts of one archive"),
        (lambda parts: parts[::-1], "damaged, or not parts of one archive: not a gzip file"),
        (lambda parts: [parts[0], parts[2]], "damaged, or not parts of one archive"),
    ],
    ids=["one too few", "the wrong order", "one left out"],
)
def test_parts_that_do_not_belong_together(tmp_path, spoil, told):
    parts = pieces(tmp_path, packed(("model.pt", MODEL)))
    chosen = spoil(parts)
    for part in set(parts) - set(chosen):
        part.unlink()
    assert told in failure(chosen, tmp_path / "model.pt")


@pytest.mark.parametrize("names", [(), ("a.pt", "b.pt")])
def test_an_archive_of_something_else(tmp_path, names):
    parts = pieces(tmp_path, packed(("a.txt", b""), *((name, MODEL) for name in names)))
    told = failure(parts, tmp_path / "model.pt")
    assert f"hold {len(names) or 'no'} files of the kind .pt, not one" in told


def test_a_link_is_no_file(tmp_path):
    whole = io.BytesIO()
    with tarfile.open(mode="w:gz", fileobj=whole) as archive:
        link = tarfile.TarInfo("model.pt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
    told = failure(pieces(tmp_path, whole.getvalue()), tmp_path / "model.pt")
    assert "hold no files of the kind .pt" in told


def test_there_must_be_room(tmp_path, monkeypatch):
    parts = pieces(tmp_path, packed(("model.pt", MODEL)))
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    assert "1.0 kB free, what is joined takes 300.0 kB" in failure(parts, tmp_path / "model.pt")
