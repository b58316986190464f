"""Ctrl-C, at any time, leaves nothing half-written."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from tiny import moving, save_clip

from diagd_cli import pipeline
from diagd_cli.cli.console import Follow
from diagd_cli.clip import read
from diagd_cli.clip.write import VideoWriter
from diagd_cli.errors import Exit

INTERRUPTED = "error: interrupted; nothing half-written was left\n"
STAGES = {
    "read": (read, "_select"),
    "load": (pipeline, "load_transformer"),
    "encode": (pipeline, "encode"),
    "decode": (Follow, "on_steps"),
    "pixels": (pipeline, "to_frames"),
    "write": (VideoWriter, "write"),
    "finish": (VideoWriter, "_finish"),
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("before", [None, b"precious"])
def test_ctrl_c_at_every_stage(diagd, tiny, tmp_path, monkeypatch, stage, before):
    """A real SIGINT right after something real was done in the stage."""
    owner, name = STAGES[stage]
    work = getattr(owner, name)

    def interrupted(*arguments, **options):
        work(*arguments, **options)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(owner, name, interrupted)
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "walk.mp4"
    if before:
        target.write_bytes(before)
    done = diagd("generate", tiny.clip, "-p", tiny.preset, "-o", target, "--force")
    assert (done.code, done.out, done.err) == (Exit.INTERRUPTED, "", INTERRUPTED)
    assert [p.read_bytes() for p in target.parent.iterdir()] == ([before] if before else [])


@pytest.mark.parametrize("delay", [0.02, 0.5, 1.2, 4.0])
def test_ctrl_c_at_any_time(tiny, tmp_path, delay):
    """From the first argument that is read, while torch is imported, until a decoding of minutes is under way."""
    target = tmp_path / "walk.mp4"
    target.write_bytes(b"precious")
    code = "import sys\nfrom diagd_cli.__main__ import main\nprint('ready', flush=True)\nmain()"
    options = ["generate", tiny.clip, "-p", tiny.preset, "-o", target, "--force", "--frames", 20000]
    command = [sys.executable, "-c", code, *map(str, options)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, start_new_session=True, **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", INTERRUPTED)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"precious"]


@pytest.mark.parametrize("module", ["diagd_cli.errors", "rich", "typer"])
def test_ctrl_c_while_modules_are_imported(module):
    code = f"""
import signal, sys
class Interrupts:
    def find_spec(self, name, *_):
        if name == {module!r}:
            sys.meta_path.remove(self)
            signal.raise_signal(signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupts())
from diagd_cli.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code, "presets", "list"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", INTERRUPTED)


def test_ctrl_c_in_a_batch_keeps_what_is_done(diagd, tiny, tmp_path, monkeypatch):
    second = save_clip(tmp_path / "second.mp4", moving(4))
    work = pipeline.encode

    def encode(loaded, clip):
        if clip.path == second:
            signal.raise_signal(signal.SIGINT)
        return work(loaded, clip)

    monkeypatch.setattr(pipeline, "encode", encode)
    done = diagd("generate", tiny.clip, second, "-p", tiny.preset, "-o", tmp_path / "out", "--json")
    assert done.code == 130 and [made["input"]["path"] for made in done.objects] == [str(tiny.clip)]
    assert sorted(os.listdir(tmp_path / "out")) == ["walk.json", "walk.mp4"]
    assert json.loads((tmp_path / "out" / "walk.json").read_text())["new_frames"] == 3
