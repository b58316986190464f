"""diagd play: how it begins and ends, and what it refuses. The room itself is tested in play/."""

import json
import os
import signal
import subprocess
import sys

import pytest
import uvicorn
from play.server import Client

from diagd_cli.cli import play
from diagd_cli.clip.read import read_clip


def test_it_serves_until_ctrl_c_and_leaves_what_was_played(tiny, tmp_path):
    record = tmp_path / "walk.mp4"
    command = [sys.executable, "-m", "diagd_cli", "play", tiny.clip, "-p", tiny.preset]
    command += ["--no-browser", "--seed", 3, "--record", record]
    with subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as process:
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:") and "token" not in address
        with Client(address.removeprefix("http://").strip("/")) as client:
            assert client.word("hello")["preset"] == "tiny"
            client.say(do="act", action="left", t=1.0)
            client.frame(lambda frame: frame.stamp == 1.0)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0 and f"What was played: {record}" in said, said
    facts = json.loads(record.with_suffix(".json").read_text())
    lines = record.with_suffix(".jsonl").read_text().splitlines()
    assert facts["seed"] == 3 and len(lines) == facts["new_frames"] > 0
    assert len(read_clip(record, facts["new_frames"]).frames) == facts["new_frames"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["-p", "cosmos-4b"], "cosmos-4b makes 8 frames at once, and cannot be played"),
        (["-p", "wham-200m"], "wham-200m has no clips of its own. Name one"),
        (["--sessions", "9"], "'--sessions': Input should be less than or equal to 8"),
        (["--record", "walk.gif"], "The recording is walk.gif. Give it the ending .mp4"),
        (["nowhere.mp4"], "nowhere.mp4"),
        (["--k", "40"], "k"),
        (["--host", "203.0.113.1"], "203.0.113.1:0 cannot be listened at"),
    ],
)
def test_it_refuses_in_one_line(diagd, options, told):
    done = diagd("play", "--no-browser", *options)
    assert done.code in (1, 2) and told in done.err and done.err.count("\n") == 1, done.err


def test_more_sessions_than_memory_has_room_for_are_refused_at_the_start(diagd, monkeypatch):
    monkeypatch.setattr("diagd_cli.weights.memory.free_memory", lambda device: 200_000_000)
    done = diagd("play", "--no-browser", "--sessions", 8)
    assert done.code == 1 and "freedoom-sliding needs about" in done.err, done.err
    assert "Use --sessions 1" in done.err and done.err.count("\n") == 1


def test_other_machines_need_a_token(diagd, monkeypatch, tiny):
    """It is made up where none is given, and part of the address."""
    opened = []
    monkeypatch.setattr(play.webbrowser, "open", opened.append)

    class Server:
        def __init__(self, config):
            pass

        def run(self, sockets):
            raise KeyboardInterrupt

    monkeypatch.setattr(uvicorn, "Server", Server)
    done = diagd("play", tiny.clip, "-p", tiny.preset, "--host", "0.0.0.0")
    assert done.code == 0 and done.out.strip() == opened[0]
    assert opened[0].startswith("http://0.0.0.0:") and len(opened[0].split("?token=")[1]) > 10
    assert "other machines can reach it at 0.0.0.0" in done.err
