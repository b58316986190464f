"""Files behind URLs, by fsspec's own memory, which is a store of objects, and by a shelf of folders,
where files grow and are renamed.
"""

import sys
import tempfile
from pathlib import Path

import fsspec
import pytest
import shelf

from diagd_cli.errors import ClipError, MissingExtra, OutputError, UsageError
from diagd_cli.files import landing, remote
from diagd_cli.files.outputs import check_free, check_outputs
from diagd_cli.files.url import place


@pytest.fixture(autouse=True)
def stage(tmp_path, monkeypatch):
    """Where copies lie, which nothing may be left in."""
    folder = tmp_path / "stage"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert not list(folder.iterdir())


@pytest.fixture
def memory():
    """The files of memory://, by name."""
    store = fsspec.filesystem("memory")
    yield store.store
    store.store.clear()
    store.pseudo_dirs[:] = [""]


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """The folder of shelf://."""
    fsspec.register_implementation("shelf", shelf.Shelf, clobber=True)
    monkeypatch.setenv("SHELF", str(tmp_path / "shelf"))
    return tmp_path / "shelf"


def keep(url, data=b"data"):
    fsspec.filesystem("memory").pipe_file(url, data)
    return place(url)


def contents(store):
    return {name: bytes(file.getvalue()) for name, file in store.items()}


def write(path, **files):
    """A video of these files, the sidecar first."""
    for suffix in sorted(files):
        path.with_suffix(f".{suffix}").write_text(files[suffix])


def test_a_copy_is_read_and_goes(memory, stage):
    """With the first of the files beside it that is there. A path is used as it is."""
    url = keep("memory://b/a.mp4")
    keep("memory://b/a.jsonl", b"beside"), keep("memory://b/a.npz", b"not asked for")
    with remote.local(url, beside=(".mp4", ".txt", ".jsonl", ".npz")) as path:
        assert path.parent.parent == stage and path.name == "a.mp4"
        assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == {
            "a.mp4": b"data",
            "a.jsonl": b"beside",
        }
        assert stage.stat().st_mode & 0o700 and not path.parent.stat().st_mode & 0o077
    assert not path.exists()
    with remote.local(Path("x")) as path:
        assert path == Path("x")


def test_what_is_wrong_with_a_copy_is_told_of_the_url(memory):
    with pytest.raises(ClipError) as told, remote.local(keep("memory://b/a.mp4")) as path:
        raise ClipError(f"{path} is cut short", f"Copy {path} again")
    assert str(told.value) == "memory://b/a.mp4 is cut short. Copy memory://b/a.mp4 again"


@pytest.mark.parametrize(
    "url, error, told",
    [
        ("memory://b/none.mp4", ClipError, "memory://b/none.mp4 does not exist. Check the bucket"),
        ("memory://b/deep", ClipError, "memory://b/deep is a folder. Name one file"),
        ("memory://b/..", ClipError, "memory://b/.. names no file. Name one file"),
        ("s4://b/a.mp4", UsageError, "s4://b/a.mp4: s4:// is not known, or no store of files. Use"),
        ("reference://b/a.mp4", UsageError, "reference:// is not known, or no store of files"),
        ("zip://b/a.mp4", UsageError, "zip:// is not known, or no store of files. Use s3://"),
        ("local://b/a.mp4", UsageError, "local:// is not known, or no store of files. Use s3://"),
    ],
)
def test_what_cannot_be_read(memory, url, error, told):
    keep("memory://b/deep/a.mp4")
    with pytest.raises(error) as found, remote.local(place(url)):
        pass
    assert told in str(found.value)


def test_a_library_that_is_missing_is_told(monkeypatch):
    fsspec.register_implementation("nolib", "no_such_library.FileSystem", clobber=True)
    with pytest.raises(ClipError) as told, remote.local(place("nolib://me:secret@b/a.mp4")):
        pass
    assert str(told.value) == (
        "nolib://***@b/a.mp4 cannot be opened: no_such_library.FileSystem import failed for "
        "protocol nolib. Install that where diagd is"
    )
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingExtra, match=r"pip install 'diagd\[url\]'"):
        remote.check_readable([place("s3://b/a.mp4")])


def test_a_failure_never_tells_of_credentials(monkeypatch, folders):
    def refuse(self, path, **_):
        raise ConnectionError(f"no way to {path}")

    monkeypatch.setattr(shelf.Shelf, "info", refuse)
    for text, reason in (
        ("shelf://b/a.mp4", f"no way to {folders}/b/a.mp4. Check the URL, the credentials and"),
        ("shelf://me:secret@b/a.mp4", "ConnectionError. Give credentials by the settings of"),
    ):
        url = place(text)
        with pytest.raises(ClipError) as told, remote.local(url):
            pass
        assert str(told.value).startswith(f"{url} cannot be read: {reason}")
        assert "secret" not in str(told.value) and bool(told.value.__cause__) != bool(url.secrets)


def test_a_file_that_came_in_part_is_not_read(monkeypatch, folders):
    (folders / "b").mkdir(parents=True)
    (folders / "b" / "a.mp4").write_bytes(b"whole")
    monkeypatch.setattr(shelf.Shelf, "get_file", lambda self, a, b: Path(b).write_bytes(b"who"))
    with (
        pytest.raises(ClipError, match="3 of 5 bytes came"),
        remote.local(place("shelf://b/a.mp4")),
    ):
        pass


@pytest.mark.parametrize("scheme", ["memory", "shelf"])
def test_outputs_come_first_and_their_sidecar_last(memory, folders, monkeypatch, scheme):
    """Before them it says that they are not all there; nothing has its name before it is whole."""
    url, seen = place(f"{scheme}://b/new/a.mp4"), []
    work = landing.put

    def put(path, target):
        work(path, target)
        seen.append((target.name, remote.read_text(target)))

    monkeypatch.setattr(landing, "put", put)
    with landing.landed(url, lambda: {"unfinished": "1"}) as path:
        write(path, json="{}", mp4="video", npz="tokens")
    told = '{\n  "unfinished": "1"\n}'
    assert seen == [("a.json", told), ("a.mp4", "video"), ("a.npz", "tokens"), ("a.json", "{}")]
    if scheme == "shelf":
        names = ["a.json", "a.mp4", "a.npz", "a.json"]
        parts = [("put", f"part{Path(name).suffix}") for name in names]
        moved = [("move", name) for name in names]
        assert shelf.journal() == [line for pair in zip(parts, moved, strict=True) for line in pair]


@pytest.mark.parametrize("suffix", [".json", ".mp4", ".npz"])
def test_a_failure_leaves_nothing_where_nothing_was(folders, monkeypatch, suffix):
    monkeypatch.setenv("SHELF_FULL", suffix)
    url = place("shelf://b/a.mp4")
    with (
        pytest.raises(OutputError, match=r"cannot be written: .*No space left on device"),
        landing.landed(url, dict) as path,
    ):
        write(path, json="{}", mp4="video", npz="tokens")
    assert not [file for file in folders.rglob("*") if file.is_file()]


def test_a_failure_leaves_what_was_there_told_as_unfinished(folders, monkeypatch):
    """A complete sidecar never stands beside what it does not tell of."""
    url = place("shelf://b/a.mp4")
    with landing.landed(url, dict) as path:
        write(path, json="old", mp4="old", npz="old")
    monkeypatch.setenv("SHELF_FULL", ".npz")
    with pytest.raises(OutputError), landing.landed(url, lambda: {"unfinished": 1}) as path:
        write(path, json="new", mp4="new", npz="new")
    left = {file.name: file.read_text() for file in (folders / "b").iterdir()}
    assert left == {"a.json": '{\n  "unfinished": 1\n}', "a.mp4": "new", "a.npz": "old"}


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_what_is_not_written_is_not_put(memory, failure):
    with pytest.raises(failure), landing.landed(place("memory://b/a.mp4"), dict) as path:
        write(path, json="{}", mp4="half")
        raise failure
    assert not memory


def test_outputs_are_looked_at_before_the_work(memory, folders):
    """Each bucket is tried once, and left as it was; the same rules hold as for paths."""
    a, b = place("memory://b/a.mp4"), place("shelf://b/new/b.mp4")
    check_outputs([(a, "the output"), (b, "the output")], [(place("memory://b/c.mp4"), "the clip")])
    assert not memory and shelf.journal() == [("remove", "part")]
    assert not [path for path in folders.rglob("*") if path.is_file() or path.name == "new"]
    with pytest.raises(UsageError, match=r"The output memory://b/a\.mp4 is an input too"):
        check_outputs([(a, "the output")], [(a, "the clip")])
    with pytest.raises(UsageError, match=r"would be both the output and the tokens"):
        check_outputs([(a, "the output"), (a, "the tokens")])
    with pytest.raises(UsageError, match=r"https:// is for reading\. Name another output"):
        check_outputs([(place("https://host/a.mp4"), "the output")])
    keep("memory://b/a.mp4")
    check_free(a, force=True), check_free(b, force=False)
    with pytest.raises(OutputError, match=r"memory://b/a\.mp4 exists already\. Choose another"):
        check_free(a, force=False)


def test_a_bucket_that_may_not_be_written_to_is_told_before_the_work(folders):
    folders.mkdir()
    (folders / "b").write_text("a file")
    with pytest.raises(OutputError, match=r"shelf://b/new/a\.mp4 cannot be written: .*directory"):
        check_outputs([(place("shelf://b/new/a.mp4"), "the output")])
