"""diagd generate with URLs in the place of paths: what a single machine makes of files, in a store of
objects (fsspec's memory) and in folders of another machine's (tests/shelf.py).
"""

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import fsspec
import pytest
import shelf
from tiny import save_walks

TIMES = {"seconds", "first_frame_seconds", "frame_seconds", "rates", "peak_memory_bytes", "batch"}


@pytest.fixture(scope="module")
def walks(tmp_path_factory):
    """Three clips, one of them with actions beside it."""
    return save_walks(tmp_path_factory.mktemp("walks"))


@pytest.fixture
def store(walks):
    """memory://bucket with the clips below clips/; a function that tells what is below a name."""
    memory = fsspec.filesystem("memory")
    for path in walks.iterdir():
        memory.pipe_file(f"memory://bucket/clips/{path.name}", path.read_bytes())

    def below(name):
        start = f"/bucket/{name}/"
        files = memory.store.items()
        return {key[len(start) :]: file.getvalue() for key, file in files if key.startswith(start)}

    yield below
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


@pytest.fixture
def generate(diagd, tiny, tmp_path, monkeypatch):
    """Runs with a folder for temporary files of its own, in which nothing is left."""
    own = tmp_path / "temporary"
    own.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(own))

    def run(*arguments):
        done = diagd("generate", *arguments, "-p", tiny.preset, "--dtype", "float32")
        assert not list(own.iterdir())
        return done

    return run


def rows(*told):
    data = "".join(json.dumps(row) + "\n" for row in told).encode()
    fsspec.filesystem("memory").pipe_file("memory://bucket/lists/rows.jsonl", data)
    return "memory://bucket/lists/rows.jsonl"


def told(text):
    """A sidecar without names and times."""
    found = {key: value for key, value in json.loads(text).items() if key not in TIMES}
    return {**found, "output": None, "input": {**found["input"], "path": None}}


def test_a_store_gets_what_a_folder_gets(generate, walks, store, tmp_path):
    """Byte for byte, from rows in the store, beside the clips' actions; none is made twice."""
    manifest = rows(
        {"clip": "../clips/0.mp4", "output": "deep/a.mp4", "seed": 3},
        {"clip": "memory://bucket/clips/1.mp4", "frames": 5},
        {"clip": str(walks / "2.mp4"), "actions": "memory://bucket/clips/0.jsonl"},
    )
    options = ("--seed", 7, "--batch", 2, "--save-tokens")
    out = "memory://bucket/out"
    done = generate("--manifest", manifest, "-o", out, *options)
    assert done.code == 0, done.err
    assert sorted(done.out.split()) == [f"{out}/1.mp4", f"{out}/2.mp4", f"{out}/deep/a.mp4"]
    (tmp_path / "rows.jsonl").write_text(
        f'{{"clip": "{walks}/0.mp4", "output": "deep/a.mp4", "seed": 3}}\n'
        f'{{"clip": "{walks}/1.mp4", "frames": 5}}\n'
        f'{{"clip": "{walks}/2.mp4", "actions": "{walks}/0.jsonl"}}\n'
    )
    here = tmp_path / "out"
    assert generate("--manifest", tmp_path / "rows.jsonl", "-o", here, *options).code == 0
    local = {str(p.relative_to(here)): p.read_bytes() for p in here.rglob("*") if p.is_file()}
    made = store("out")
    assert made.keys() == local.keys() and len(made) == 9
    for name, data in local.items():
        if name.endswith(".json"):
            one, other = told(made[name]), told(data)
            one["settings"]["actions"] = other["settings"]["actions"] = None  # as they were named
            assert one == other and one["steered_by"]
        else:
            assert made[name] == data, name
    assert json.loads(made["2.json"])["settings"]["actions"] == "memory://bucket/clips/0.jsonl"
    assert json.loads(made["deep/a.json"])["input"]["path"] == "memory://bucket/clips/0.mp4"

    again = generate("--manifest", manifest, "-o", out, *options, "--resume")
    assert again.code == 0 and again.err.count("is there already, with these settings") == 3
    assert store("out") == made
    fsspec.filesystem("memory").pipe_file(f"{out}/1.mp4", b"another's")
    again = generate("--manifest", manifest, "-o", out, *options, "--resume", "--json")
    assert again.code == 0 and again.err.count("is there already") == 2
    assert {name: data for name, data in store("out").items() if name != "1.json"} == {
        name: data for name, data in made.items() if name != "1.json"
    }
    assert sorted(one["output"] for one in again.objects)[0] == f"{out}/1.mp4"


def test_rows_that_fail_are_told_in_the_store(generate, store):
    """Then --resume makes what was missing, and the file of failures goes; shards have their own."""
    manifest = rows({"clip": "../clips/0.mp4"}, {"clip": "../none.mp4", "seed": 4})
    options = ("--manifest", manifest, "-o", "memory://bucket/out/", "--seed", 1)
    done = generate(*options)
    failures = "memory://bucket/out/failures.jsonl"
    assert done.code == 1 and done.err.endswith(f"1 of 2 clips failed: {failures}\n")
    [failure] = map(json.loads, store("out")["failures.jsonl"].splitlines())
    assert failure == {
        "clip": "memory://bucket/none.mp4",
        "output": "memory://bucket/out/none.mp4",
        "seed": 4,
        "error": "memory://bucket/none.mp4 does not exist. Check the bucket and the name",
    }
    assert "failures.jsonl exists already" in generate(*options).err
    memory = fsspec.filesystem("memory")
    memory.copy("memory://bucket/clips/1.mp4", "memory://bucket/none.mp4")
    parts = [generate(*options, "--resume", "--shard", f"{n}/2") for n in (1, 2)]
    assert [part.code for part in parts] == [0, 0] and generate(*options, "--resume").code == 0
    assert sorted(store("out")) == ["0.json", "0.mp4", "none.json", "none.mp4"]


def test_a_clip_that_is_damaged_is_told_by_its_url(generate, store):
    fsspec.filesystem("memory").pipe_file("memory://bucket/clips/9.mp4", b"no video")
    done = generate("memory://bucket/clips/9.mp4", "-o", "memory://bucket/out/")
    assert done.code == 1 and not store("out")
    assert done.err.startswith("error: memory://bucket/clips/9.mp4 ") and ".diagd" not in done.err


@pytest.mark.parametrize(
    "row, told",
    [
        (
            {"clip": "zip://a::s3://k:secret@b/x.zip"},
            "zip://a::s3://***@b/x.zip is a chain of URLs",
        ),
        ({"clip": "a.mp4", "output": "s3://"}, "s3:// names no bucket or machine. Write s3://BUC"),
        ({"clip": "a.mp4", "actions": "s3://b/a::b.jsonl"}, "s3://b/a::b.jsonl is a chain of URLs"),
        ({"clip": "a.mp4", "output": "s3://k:secret@b/a.avi"}, "s3://***@b/a.avi does not end in"),
    ],
)
def test_rows_that_lead_elsewhere_are_refused(generate, store, row, told):
    done = generate("--manifest", rows({"clip": "b.mp4"}, row), "-o", "memory://bucket/out/")
    assert done.code == 2 and not store("out") and "secret" not in done.err
    where = "error: memory://bucket/lists/rows.jsonl, line 2: "
    assert done.err.startswith(where) and told in done.err


@pytest.mark.parametrize(
    "arguments, code, told",
    [
        (["memory://bucket/clips/none.mp4"], 1, "memory://bucket/clips/none.mp4 does not exist"),
        (["memory://bucket/clips/0.mp4", "--stream"], 2, "--stream grows a file under its own"),
        (["--manifest", "memory://bucket/no.csv"], 2, "memory://bucket/no.csv does not exist"),
        (["reference://bucket/a.mp4"], 2, "reference:// is not known, or no store of files"),
        (["memory://bucket/clips/0.mp4", "-o", "https://host/"], 2, "https:// is for reading"),
        (["memory://bucket/clips/0.mp4", "-o", "memory://bucket/clips", "-f"], 2, "an input too"),
    ],
)
def test_what_cannot_be(generate, store, arguments, code, told):
    output = [] if "-o" in arguments else ["-o", "memory://bucket/out/"]
    done = generate(*arguments, *output)
    assert done.code == code and told in done.err and done.err.count("\n") == 1
    assert not store("out")


def test_file_urls_are_paths(generate, tiny, tmp_path):
    """Also where one would destroy what it reads by another name."""
    clip, out = f"file://{tiny.clip}", f"file://{tmp_path}/out/"
    done = generate(clip, "-o", out, "--seed", 1)
    assert (done.code, done.out) == (0, f"{tmp_path}/out/walk.mp4\n")
    assert generate(tiny.clip, "-o", tmp_path / "same", "--seed", 1).code == 0
    assert (tmp_path / "out/walk.mp4").read_bytes() == (tmp_path / "same/walk.mp4").read_bytes()
    assert "is there already" in generate(clip, "-o", out, "--seed", 1, "--resume").err
    done = generate(clip, "-o", tiny.folder, "--force")
    assert done.code == 2 and "is an input too" in done.err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("sent, code", [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_what_is_interrupted_is_not_there_and_is_made_by_resume(
    start, diagd, tiny, tmp_path, monkeypatch, sent, code
):
    """Half of the video is on its way: its name is free, and the sidecar tells that it is not
    finished.
    """
    bucket, own = tmp_path / "shelf" / "bucket", tmp_path / "temporary"
    bucket.mkdir(parents=True), own.mkdir()
    shelf.register(tmp_path / "installed")
    path = [tmp_path / "installed", Path(shelf.__file__).parent, os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("SHELF", str(bucket.parent))
    monkeypatch.setenv("TMPDIR", str(own))
    seen = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "SHELF_HALTS": ".mp4"}
    options = (
        "generate",
        f"file://{tiny.clip}",
        "-p",
        tiny.preset,
        "-o",
        "shelf://bucket",
        "--seed",
        1,
    )
    process = start(*options, env=seen)
    for _ in range(3000):
        if ("halted", "part.mp4") in shelf.journal():
            break
        time.sleep(0.1)
    process.send_signal(sent)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == code, err
    assert json.loads((bucket / "walk.json").read_text())["unfinished"]
    assert not (bucket / "walk.mp4").exists() and bool(list(own.iterdir())) == (code < 0)
    if code > 0:
        assert sorted(path.name for path in bucket.iterdir()) == ["walk.json"]

    fsspec.register_implementation("shelf", shelf.Shelf, clobber=True)
    monkeypatch.setattr(tempfile, "tempdir", str(own))
    from diagd_cli.files import remote

    remote._tidy.cache_clear()
    done = diagd(*options, "--resume")
    assert done.code == 0, done.err
    assert "output_sha256" in json.loads((bucket / "walk.json").read_text())
    assert (bucket / "walk.mp4").stat().st_size and not list(own.iterdir())
