"""diagd generate: where what it makes goes, what it may replace, and what --resume does not do again."""

import json
import os
import shutil
import sys

import pytest

from cli.folders import names, twin
from diagd_cli.clip.read import read_clip
from diagd_cli.jobs import work

pytest_plugins = ["cli.continuing"]


def test_output_names(diagd, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.mp4").mkdir()
    for output, made in [
        ([], "walk-continued.mp4"),
        (["-o", "a.mp4"], "a.mp4"),
        (["-o", "B.MP4"], "B.MP4"),
        (["-o", "new/folder"], "new/folder/walk.mp4"),
        (["-o", "there.mp4"], "there.mp4/walk.mp4"),
    ]:
        done = diagd("generate", tiny.clip, "-p", tiny.preset, "--frames", 1, *output)
        assert done.out == made + "\n" and (tmp_path / made).is_file()


@pytest.mark.parametrize(
    "output, message",
    [
        (
            "out.avi",
            "-o out.avi does not end in .mp4. Name an .mp4 file or a folder, such as out.avi/",
        ),
        ("two.mp4", "-o two.mp4 is one file for 2 clips. Name a folder"),
        (
            "same",
            "in/walk.mp4 and walk.mp4 would both be written to same/walk.mp4. Rename one, or "
            "run them apart",
        ),
        (
            "in",
            "in/walk.mp4 and walk.mp4 would both be written to in/walk.mp4. Rename one, or run "
            "them apart",
        ),
    ],
)
def test_outputs_that_cannot_be_right(diagd, tiny, tmp_path, monkeypatch, output, message):
    monkeypatch.chdir(tmp_path)
    twin(tiny, tmp_path / "in", "walk.mp4"), twin(tiny, tmp_path, "walk.mp4")
    done = diagd("generate", "in/walk.mp4", "walk.mp4", "-p", tiny.preset, "-o", output, "--force")
    assert (done.code, done.err) == (2, f"error: {message}\n")
    assert names(tmp_path) == ["in", "walk.mp4"]


def test_output_may_not_replace_an_input(diagd, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    twin(tiny, tmp_path, "walk.mp4"), twin(tiny, tmp_path, "walk-continued.mp4")
    done = diagd("generate", "walk.mp4", "walk-continued.mp4", "-p", tiny.preset, "--force")
    assert done.code == 2 and "The output walk-continued.mp4 is an input too" in done.err


def test_existing_output_needs_force(generate, tiny, tmp_path):
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "walk.mp4"
    target.write_bytes(b"precious")
    done = generate(tiny.clip)
    assert done.code == 1 and target.read_bytes() == b"precious"
    assert (
        done.err
        == f"error: {target} exists already. Choose another name, or replace it with --force\n"
    )
    assert generate(tiny.clip, "--resume").code == 1 and target.read_bytes() == b"precious"
    assert generate(tiny.clip, "--force").code == 0 and target.read_bytes() != b"precious"


def test_resume_skips_what_is_there(generate, tiny, tmp_path):
    other = twin(tiny, tmp_path / "in", "other.mp4")
    assert generate(tiny.clip).code == 0
    before = (tmp_path / "out" / "walk.mp4").stat()
    done = generate(tiny.clip, other, "--resume", "--json")
    assert done.code == 0 and "walk.mp4 is there already, with these settings" in done.err
    assert [made["new_frames"] for made in done.objects] == [3, 3]  # the first from its sidecar
    assert (tmp_path / "out" / "walk.mp4").stat().st_mtime_ns == before.st_mtime_ns


@pytest.fixture(scope="module")
def before_it(diagd, tiny, tmp_path_factory):
    """A folder with what the command makes of the tiny clip by seed 1."""
    out = tmp_path_factory.mktemp("before") / "out"
    assert diagd("generate", tiny.clip, "-p", tiny.preset, "--seed", 1, "-o", out).code == 0
    return out


@pytest.mark.parametrize(
    "change",
    [["--frames", 2], ["--seed", 2], ["--k", 2], ["--no-repair"], ["--temperature", 0.5], ["--start", 1],
     ["--actions", "idle"], ["--save-tokens"]],
)  # fmt: skip
def test_resume_makes_what_differs(generate, tiny, tmp_path, before_it, change):
    shutil.copytree(before_it, tmp_path / "out")
    assert "is there already" in generate(tiny.clip, "--seed", 1, "--resume").err
    sidecar = tmp_path / "out" / "walk.json"
    before = json.loads(sidecar.read_text())
    done = generate(tiny.clip, "--seed", 1, *change, "--resume")
    assert done.code == 0 and "is there already" not in done.err
    after = json.loads(sidecar.read_text())
    assert after["seconds"] != before["seconds"]


def test_what_is_there_is_known_without_its_frames(generate, tiny, tmp_path, monkeypatch):
    """The clip's digest, and where its context was asked to begin, tell as much."""
    asked = (tiny.clip, "--seed", 1, "--start", 6)
    assert generate(*asked).code == 0
    reads = []
    monkeypatch.setattr(
        work, "read_clip", lambda *told, **_: reads.append(told) or read_clip(*told)
    )
    assert "is there already" in generate(*asked, "--resume").err and not reads
    # the last frames are those, too: it has to be looked at
    assert "is there already" in generate(*asked[:3], "--resume").err and len(reads) == 1
    assert "is there already" not in generate(*asked[:4], 5, "--resume").err and len(reads) == 2


def test_resume_notices_another_mp4_or_other_recorded_actions(generate, tiny, tmp_path):
    clip = twin(tiny, tmp_path / "in", "walk.mp4")
    generate(clip)
    (tmp_path / "out" / "walk.mp4").write_bytes(b"cut short")
    assert "is there already" not in generate(clip, "--resume").err
    assert "is there already" in generate(clip, "--resume").err
    (tmp_path / "in" / "walk.jsonl").write_text('{"action": "left"}\n' * 8)
    assert "is there already" not in generate(clip, "--resume").err


def test_dry_run_shows_plan_and_paths(generate, tiny, tmp_path):
    done = generate(tiny.clip, "--dry-run")
    assert (
        done.out
        == f"{tiny.clip} -> {tmp_path}/out/walk.mp4: DiagD k=1 d=2, 8 steps for 18 tokens\n"
    )
    [told] = generate(tiny.clip, "--dry-run", "--json", "--frames", 1).objects
    assert told["plan"]["steps"] == 4 and told["settings"]["frames"] == 1
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["[bold]a[.mp4", ":smile:.mp4", "a b;é.mp4", "-a.mp4"])
def test_file_names_are_only_names(diagd, tiny, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    twin(tiny, tmp_path, name)
    done = diagd("generate", "-p", tiny.preset, "-o", "out", "--", name)
    assert (done.code, done.out) == (0, f"out/{name}\n") and done.err.startswith(
        f"out/{name}: 3 new frames"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems refuse such names")
def test_a_file_name_that_is_not_utf8(start, diagd, tiny, tmp_path, monkeypatch):
    """On stdout it is what it is; in JSON, which must be UTF-8, nearly."""
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(b"caf\xe9.mp4")
    twin(tiny, tmp_path, name)
    options = ("generate", name, "-p", tiny.preset, "-o", "out", "-q")
    out, err = start(*options, "--dry-run", text=False).communicate(timeout=60)
    plan = b"caf\xe9.mp4 -> out/caf\xe9.mp4: DiagD k=1 d=2, 8 steps for 18 tokens\n"
    assert (out, err) == (plan, b"")
    [told] = diagd(*options, "--json").objects
    assert told == json.loads((tmp_path / "out" / name).with_suffix(".json").read_text())
    assert told["output"] == "out/caf\ufffd.mp4" and (tmp_path / "out" / name).exists()
