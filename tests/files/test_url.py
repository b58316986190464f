"""Names of files on other machines: what they lead to, what is refused, and what is never shown."""

import os
import pickle
from pathlib import Path

import pytest

from diagd_cli.errors import UsageError
from diagd_cli.files.url import Url, address, below, masked, place


@pytest.mark.parametrize(
    "text, path",
    [
        ("a.mp4", "a.mp4"),
        ("file:///x/b c.mp4", "/x/b c.mp4"),
        ("FILE:///x/b%20.mp4", "/x/b%20.mp4"),  # as fsspec reads it
        ("odd::name.mp4", "odd::name.mp4"),
        ("folder/s3://a", "folder/s3:/a"),
        ("c:/x.mp4", "c:/x.mp4"),
    ],
)
def test_paths_stay_paths(text, path):
    assert place(text) == Path(path)


@pytest.mark.skipif(os.name != "nt", reason="drives are of Windows")
def test_a_drive_is_a_path():
    assert place("file:///c:/x.mp4") == Path("c:/x.mp4")


def test_a_url_has_the_members_of_a_path():
    url = place("S3://bucket/deep//a.b.mp4")
    assert (url.scheme, url.root, url.name) == ("s3", "s3://bucket", "a.b.mp4")
    assert (url.stem, url.suffix) == ("a.b", ".mp4")
    assert str(url.with_suffix(".json")) == "s3://bucket/deep//a.b.json"
    assert str(url.with_name("c")) == "s3://bucket/deep//c"
    assert str(place("s3://bucket/deep/") / "x/../y.mp4") == "s3://bucket/deep/y.mp4"
    up = url.parent.parent.parent.parent
    assert str(up) == "s3://bucket" == str(url / ("../" * 9)) and up.is_root
    assert place("s3://my.bucket").suffix == "" and place("s3://my.bucket/") / "a" == Url(
        "s3://my.bucket/a"
    )
    assert str(place("hdfs:///a.mp4").with_suffix(".json")) == "hdfs:///a.json"
    assert pickle.loads(pickle.dumps(url)) == url == place(address(url)) and hash(url)
    with pytest.raises(TypeError):  # no function of the system takes one for a path
        os.path.isfile(url)


def test_what_a_manifest_names():
    """A text is relative to the folder, unless it is a URL or an absolute path."""
    folder = place("s3://bucket/lists")
    assert below(folder, "../clips/a.mp4") == Url("s3://bucket/clips/a.mp4")
    assert below(folder, "gs://other/a.mp4") == Url("gs://other/a.mp4")
    assert below(folder, "/x/a.mp4") == below(Path("y"), "file:///x/a.mp4") == Path("/x/a.mp4")
    assert below(Path("y"), "a.mp4") == Path("y/a.mp4")


@pytest.mark.parametrize(
    "text",
    [
        "simplecache::s3://bucket/a.mp4",
        "zip://a.mp4::s3://me:secret@bucket/a.zip",
        "reference::/tmp/x.json://",
        "s3://bucket/a::b",
        "FILECACHE::file:///x",
    ],
)
def test_chains_are_refused(text):
    with pytest.raises(UsageError, match=r"is a chain of URLs\. Name the file by one") as told:
        place(text)
    assert "secret" not in str(told.value)


@pytest.mark.parametrize(
    "text, told",
    [
        ("s3://", "s3:// names no bucket or machine. Write s3://BUCKET/NAME"),
        ("file://a.mp4", "file://a.mp4 is not file:///FOLDER/NAME. Three slashes, then the path"),
    ],
)
def test_what_leads_nowhere(text, told):
    with pytest.raises(UsageError) as error:
        place(text)
    assert str(error.value) == told


@pytest.mark.parametrize(
    "text, shown",
    [
        ("s3://AKIA:se/cret@bucket/a.mp4", "s3://***@bucket/a.mp4"),
        ("sftp://me:secret@host:22/a.mp4", "sftp://***@host:22/a.mp4"),
        ("https://secret@host/a.mp4?sig=secret", "https://***@host/a.mp4?***"),
        ("sftp://host:22/me@home/a.mp4", "sftp://host:22/me@home/a.mp4"),
        ("abfs://box@account.net/a.mp4", "abfs://box@account.net/a.mp4"),
        ("s3://bucket/a@b:c.mp4", "s3://bucket/a@b:c.mp4"),
    ],
)
def test_credentials_are_not_shown(text, shown):
    url = place(text)
    assert str(url) == shown == masked(text) and url.address == text
    assert "secret" not in f"{url!r} {url.parent} {url.as_posix()} {url.with_suffix('.json')}"
    assert url.suffix == ".mp4"


def test_what_tells_of_credentials():
    """Libraries repeat parts of a name, quoted or cut."""
    url = place("s3://AKIAXYZ:se/cret word@bucket/a.mp4")
    for text in 'no bucket "AKIAXYZ:se"', "in cret word", "in cret%20word", "AKIAXYZ:se/cret word":
        assert url.is_told_by(text)
    assert not url.is_told_by("no bucket se, or no network")
    assert not place("s3://bucket/a.mp4").is_told_by("bucket/a.mp4")
