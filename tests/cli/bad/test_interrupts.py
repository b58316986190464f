"""Ctrl-C, SIGTERM and SIGHUP, at any time, leave nothing half-written; what SIGKILL leaves is known
and made anew.
"""

import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
import torch
from conftest import hear
from tiny import moving, save_clip

from diagd_cli import loading, pipeline
from diagd_cli.cli import signals
from diagd_cli.cli.console import Follow
from diagd_cli.cli.guard import TRAINING_INTERRUPTED
from diagd_cli.clip import read
from diagd_cli.clip.read import read_clip
from diagd_cli.clip.write import VideoWriter
from diagd_cli.errors import Exit
from diagd_cli.train.loop import Run

INTERRUPTED = "error: interrupted; nothing half-written was left\n"
STAGES = {
    "read": (read, "_select"),
    "load": (loading, "load_transformer"),
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


@pytest.mark.parametrize("delay", [0.02, 0.7, 3.0])
def test_ctrl_c_at_any_time(tiny, tmp_path, delay):
    """From the first argument that is read, while torch is imported, until a decoding of minutes is
    under way.
    """
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
    done = subprocess.run(
        [sys.executable, "-c", code, "presets", "list"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", INTERRUPTED)


def test_ctrl_c_where_an_exception_would_be_ignored():
    """In a callback of the import system, of a lock that nobody holds any more."""
    code = """
import signal, weakref
from diagd_cli.cli.signals import listen
listen()
class Lock: pass
where = compile("def callback(_): signal.raise_signal(signal.SIGINT)", "<frozen importlib._bootstrap>", "exec")
exec(where)
lock = Lock()
watched = weakref.ref(lock, callback)
del lock
import time
try:
    time.sleep(20)
except KeyboardInterrupt:
    print("heard")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "heard\n", "")


def begun(start, tiny, target, *options, **more):
    """A long generation, once a temporary file or a stream is there."""
    command = (
        "generate",
        tiny.clip,
        "-p",
        tiny.preset,
        "--frames",
        20000,
        "-o",
        target,
        "--stream",
        "-q",
        *options,
    )
    process, deadline = start(*command, **more), time.monotonic() + 60
    while not (target.exists() and target.stat().st_size > 100) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def children_of(process):
    """Processes that it has started."""
    return set(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_sigterm_ends_a_stream_as_ctrl_c_does_and_under_nohup_sighup_does_not(
    start, tiny, tmp_path
):
    """It is kept, and takes the place of what was there; no ffmpeg goes on; the exit code tells the
    signal.
    """
    target = tmp_path / "walk.mp4"
    target.write_bytes(b"precious")
    target.with_suffix(".json").write_text("{}")
    nohup = lambda: (hear(), signal.signal(signal.SIGHUP, signal.SIG_IGN))  # noqa: E731
    process = begun(start, tiny, target, "--force", preexec_fn=nohup)
    ffmpeg = children_of(process)
    assert ffmpeg and json.loads(target.with_suffix(".json").read_text())["unfinished"]
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None
    process.terminate()
    process.terminate()  # as when a machine is shut down
    out, err = process.communicate(timeout=60)
    told = json.loads(target.with_suffix(".json").read_text())
    made = f"{told['new_frames']} of 20000 new frames were made, and {target} holds them"
    assert (process.returncode, out, err) == (143, f"{target}\n", f"error: interrupted; {made}\n")
    assert told["stopped"] and sorted(os.listdir(tmp_path)) == ["walk.json", "walk.mp4"]
    assert read_clip(target, told["new_frames"] + 2).first == 0
    assert not any(os.path.exists(f"/proc/{child}") for child in ffmpeg)


@pytest.fixture
def listening(monkeypatch):
    """This process hears the signals that the command's own does, and as it does."""
    for heard in ("_heard", "_terminals"):
        monkeypatch.setattr(signals, heard, [])
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
    before = {number: signal.getsignal(number) for number in numbers}
    signals.listen()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("moment", ["update", "log", "save"])
def test_a_training_that_is_ended_keeps_its_checkpoint(
    diagd, tiny, tmp_path, monkeypatch, listening, moment
):
    """A real SIGTERM in the fifth step, as soon as that was done."""
    for split in ("train", "val"):
        save_clip(tmp_path / "data" / split / "a.mp4", moving(6))
    work, run = getattr(Run, moment), tmp_path / "run"

    def ended(self, *arguments, **figures):
        work(self, *arguments, **figures)
        if self.step >= 5:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Run, moment, ended)
    options = ("--steps", 100, "--every", 5, "--no-samples", "-q", "--precision", "fp32")
    done = diagd("train", "tokenizer", tmp_path / "data", "-p", tiny.preset, "-o", run, *options)
    assert (done.code, done.out, done.err) == (143, "", f"error: {TRAINING_INTERRUPTED}\n")
    assert os.listdir(run) == ["tokenizer"]
    assert torch.load(run / "tokenizer" / "checkpoint.pt", weights_only=True)["step"] == 5


def test_a_terminal_that_is_closed(start, tiny, tmp_path):
    """SIGHUP: nothing can be said any more, and all is put in order nevertheless: what was made by
    then is kept.
    """
    master, slave = pty.openpty()

    def own_terminal():
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    streams = {"stdin": slave, "stdout": slave, "stderr": slave, "preexec_fn": own_terminal}
    process = begun(start, tiny, tmp_path / "walk.mp4", **streams)
    os.close(slave), os.close(master)
    assert process.wait(60) == 129
    if os.listdir(tmp_path):  # a frame was complete
        told = json.loads((tmp_path / "walk.json").read_text())
        assert told["stopped"] and read_clip(tmp_path / "walk.mp4", told["new_frames"] + 2)
        assert sorted(os.listdir(tmp_path)) == ["walk.json", "walk.mp4"]


@pytest.mark.parametrize("when", ["before", "torch"])
def test_sigterm_while_modules_are_imported(when):
    module = {"before": "diagd_cli.cli.app", "torch": "torch._C"}[when]
    code = f"""
import signal, sys
class Ends:
    def find_spec(self, name, *_):
        if name == {module!r}:
            sys.meta_path.remove(self)
            signal.raise_signal(signal.SIGTERM)
sys.meta_path.insert(0, Ends())
from diagd_cli.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code, "info"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (143, "", INTERRUPTED)


def test_the_library_leaves_signals_alone():
    code = (
        "import signal, diagd_cli.cli.app, diagd_cli.clip.write; "
        "print(signal.getsignal(signal.SIGTERM).name)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "SIG_DFL\n"


@pytest.mark.skipif(sys.platform != "linux", reason="needs to know processes that have ended")
def test_what_a_kill_leaves_is_made_anew(start, diagd, tiny, tmp_path):
    """A stream under its final name by --resume; hidden files by the next run that writes there."""
    process = begun(start, tiny, tmp_path / "walk.mp4")
    options = ("-p", tiny.preset, "--seed", 1, "-o", tmp_path / "walk.mp4")
    # it is being made
    assert "walk.mp4 exists already" in diagd("generate", tiny.clip, *options, "--resume").err
    process.kill()
    process.wait()
    assert "walk.mp4 exists already" in diagd("generate", tiny.clip, *options).err
    (
        tmp_path
        / f".diagd-{json.loads((tmp_path / 'walk.json').read_text())['unfinished']}-00000000.npz"
    ).touch()
    done = diagd("generate", tiny.clip, *options, "--resume")
    assert done.code == 0 and sorted(os.listdir(tmp_path)) == ["walk.json", "walk.mp4"]
    assert "is there already" in diagd("generate", tiny.clip, *options, "--resume").err


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
