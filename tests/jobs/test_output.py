"""diagd generate --stream: a video that can be watched while it is made, as a file or on stdout."""

import json
import os
import signal
import sys

import numpy as np
import pytest
from tiny import moving, save_clip

from diagd_cli.cli.console import Follow
from diagd_cli.clip.read import read_clip
from diagd_cli.clip.write import VideoWriter
from diagd_cli.jobs.output import Output
from diagd_cli.pipeline import load, to_frames


@pytest.fixture
def generate(diagd, tiny, tmp_path):
    def run(*arguments, output=tmp_path / "out"):
        return diagd("generate", *arguments, "-p", tiny.preset, "-o", output)

    return run


def frames(path, count):
    """All frames of a video that has `count` of them, as int."""
    clip = read_clip(path, count)
    assert clip.first == 0
    return clip.frames.astype(int)


def test_a_stream_is_the_same_video(generate, tiny, tmp_path):
    """Compressed in another way, so nearly the same pixels; its sidecar and tokens are as ever."""
    generate(tiny.clip, "--frames", 9, "--seed", 1, "--save-tokens", output=tmp_path / "a.mp4")
    done = generate(
        tiny.clip,
        "--frames",
        9,
        "--seed",
        1,
        "--save-tokens",
        "--stream",
        output=tmp_path / "b.mp4",
    )
    assert (done.code, done.out) == (0, f"{tmp_path}/b.mp4\n") and "first frame after" in done.err
    usual, streamed = (frames(tmp_path / f"{name}.mp4", 11)[2:] for name in "ab")
    apart = np.abs(usual[:, None] - streamed).mean((2, 3, 4))  # of every new frame from every other
    assert (
        apart.argmin(1).tolist() == list(range(9)) and np.diag(apart).mean() < np.median(apart) / 3
    )
    usual, streamed = (np.load(tmp_path / f"{name}.npz")["codes"] for name in "ab")
    assert (usual == streamed).all()
    usual, streamed = (json.loads((tmp_path / f"{name}.json").read_text()) for name in "ab")
    assert usual["settings"] == streamed["settings"] and usual["tokens"] == streamed["tokens"]


def test_streams_of_a_batch(generate, tiny, tmp_path):
    done = generate(tiny.clip, "--samples", 3, "--batch", 3, "--stream", "--seed", 0)
    assert done.code == 0 and len(done.out.splitlines()) == 3
    assert not (
        frames(tmp_path / "out" / "walk-1.mp4", 5) == frames(tmp_path / "out" / "walk-2.mp4", 5)
    ).all()


def test_one_stream_that_cannot_be_written_is_dropped_alone(generate, tmp_path, monkeypatch):
    """What was written of it goes; the other clip of its batch is made."""
    clips = [save_clip(tmp_path / "in" / name, moving(3)) for name in ("bad.mp4", "good.mp4")]
    work = VideoWriter.write

    def write(self, frames):
        if self.path.name == "bad.mp4" and self.count:
            self._process.kill()
            self._process.wait()
        work(self, frames)

    monkeypatch.setattr(VideoWriter, "write", write)
    done = generate(*clips, "--batch", 2, "--stream")
    assert done.code == 1 and done.out == f"{tmp_path}/out/good.mp4\n"
    assert "bad.mp4 cannot be written" in done.err and "1 of 2 clips failed" in done.err
    assert sorted(os.listdir(tmp_path / "out")) == ["good.json", "good.mp4"]


@pytest.mark.parametrize("when", ["decode", "pixels", "close"])
def test_ctrl_c_leaves_nothing_of_a_stream(generate, tiny, tmp_path, monkeypatch, when):
    owner, name = {
        "decode": (Follow, "on_steps"),
        "pixels": (Follow, "stage"),
        "close": (Output, "close"),
    }[when]
    work = getattr(owner, name)

    def interrupted(self, *arguments):
        result = work(self, *arguments)
        if when != "pixels" or arguments == ("pixels",):
            signal.raise_signal(signal.SIGINT)
        return result

    monkeypatch.setattr(owner, name, interrupted)
    done = generate(tiny.clip, "--stream", output=tmp_path / "out" / "a.mp4")
    assert (
        done.code == 130
        and done.out == ""
        and "interrupted; nothing half-written was left" in done.err
    )
    assert not (tmp_path / "out").exists()


def test_ctrl_c_keeps_what_a_stream_has_made(generate, tiny, tmp_path, monkeypatch):
    """Far beyond what memory could hold: a video of whole frames, its tokens, and a sidecar that
    says that it was stopped. It is not taken for what was asked for.
    """
    work, seen = Follow.on_steps, []

    def interrupted(self, done, total):
        work(self, done, total)
        seen.append(total)
        if done == 60:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Follow, "on_steps", interrupted)
    options, target = ("--frames", 10**6, "--seed", 1), tmp_path / "out" / "a.mp4"
    slide = ("--window", "slide", "--actions", "left*3")
    done = generate(tiny.clip, *options, *slide, "--stream", "--save-tokens", output=target)
    monkeypatch.undo()
    told = json.loads(target.with_suffix(".json").read_text())
    made = told["new_frames"]
    kept = f"interrupted; {made} of 1000000 new frames were made, and {target} holds them"
    assert done.code == 130 and kept in done.err and seen[0] > 10**6
    assert told["stopped"] and told["steps"] == 60 and 10 < made < 60
    assert len(told["steered_by"]) == made + 2 and told["steered_by"][-1] == "left"
    assert len(frames(target, made + 2)) == made + 2
    codes = np.load(target.with_suffix(".npz"))["codes"]
    whole = generate(
        tiny.clip,
        "--frames",
        made,
        *options[2:],
        *slide,
        "--save-tokens",
        output=tmp_path / "b.mp4",
    )
    assert whole.code == 0
    assert codes.tolist() == np.load(tmp_path / "b.npz")["codes"].tolist()
    again = generate(tiny.clip, "--frames", made, *options[2:], *slide, "--resume", output=target)
    assert again.code == 0 and "is there already" not in again.err
    assert "stopped" not in json.loads(target.with_suffix(".json").read_text())


def test_a_sidecar_tells_how_evenly_frames_came(generate, tiny, tmp_path):
    done = generate(tiny.clip, "--frames", 12, "--seed", 1, output=tmp_path / "a.mp4")
    told = json.loads((tmp_path / "a.json").read_text())
    even = told["frame_seconds"]
    assert even["first"] > 0 and 0 <= even["median"] <= even["p95"] <= even["longest"]
    assert even["first"] + 11 * even["longest"] >= told["seconds"]["decode"] * 0.9
    assert "then one every" in done.err
    done = generate(tiny.clip, "--frames", 1, "--seed", 1, output=tmp_path / "b.mp4")
    assert "then one every" not in done.err
    assert json.loads((tmp_path / "b.json").read_text())["frame_seconds"]["longest"] == 0


def test_more_frames_than_memory_holds_are_for_a_stream(generate, tiny):
    done = generate(tiny.clip, "--frames", 100_001)
    assert done.code == 2 and "frames is 100001. Ask for at most 100000, or let" in done.err


@pytest.mark.parametrize(
    "options, output, message",
    [
        (
            ["--stream", "--resume"],
            "a.mp4",
            "A --stream that ended early cannot be gone on with by --resume",
        ),
        (
            [],
            "-",
            "-o - writes a video to stdout, which only --stream can. Add --stream, or name a file",
        ),
        (["--stream", "--samples", 2], "-", "-o - is one stream for 2 videos. Name a folder"),
        (
            ["--stream", "--json"],
            "-",
            "-o - fills stdout with the video and leaves no file for --json. Leave",
        ),
        (["--stream", "--save-tokens"], "-", "leaves no file for --save-tokens"),
        (
            ["--stream", "--offload", "tokenizer"],
            "a.mp4",
            "--stream needs the tokenizer while --offload takes it",
        ),
    ],
)
def test_streams_that_cannot_be(generate, tiny, options, output, message):
    done = generate(tiny.clip, *options, output=output)
    assert done.code == 2 and message in done.err and done.out == ""


def test_a_stream_on_stdout_is_the_video_and_nothing_else(generate, start, tiny, tmp_path):
    """YUV4MPEG2: its luma is that of the pixels of the tokens that the file has, by BT.601."""
    generate(tiny.clip, "--frames", 6, "--seed", 1, "--save-tokens", output=tmp_path / "a.mp4")
    options = ("-p", tiny.preset, "--frames", 6, "--seed", 1, "--stream", "-o", "-")
    out, err = start("generate", tiny.clip, *options, text=False).communicate(timeout=60)
    header, body = out.split(b"\n", 1)
    assert header.split()[:4] == [b"YUV4MPEG2", b"W24", b"H16", b"F10:1"]
    assert b"6 new frames" in err and b"seed 1" in err
    size = len(b"FRAME\n") + 24 * 16 * 3 // 2
    assert len(body) == 8 * size and all(body[n * size :].startswith(b"FRAME\n") for n in range(8))
    planes = np.frombuffer(body, np.uint8).reshape(8, size)[:, 6:]
    pixels = to_frames(load(str(tiny.preset)), np.load(tmp_path / "a.npz")["codes"])
    luma = 16 + pixels @ np.array([65.481, 128.553, 24.966]) / 255
    assert np.abs(planes[:, : 24 * 16] - luma.reshape(8, -1)).max() < 2


@pytest.mark.skipif(sys.platform == "win32", reason="pipes are different there")
def test_whoever_watches_may_leave(start, tiny):
    options = ("-p", tiny.preset, "--frames", 3000, "--stream", "-o", "-")
    process = start("generate", tiny.clip, *options, text=False)
    process.stdout.read(10)
    process.stdout.close()
    error = process.stderr.read().decode()
    assert process.wait(60) == 1
    assert (
        error.startswith("error: Standard output cannot be written: broken pipe. What read it")
        and "\n" in error
    )
