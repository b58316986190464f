"""diagd generate: what it makes and says, and what it is asked by."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import pytest
from tiny import moving

from cli.folders import names, twin
from diagd_cli import __version__
from diagd_cli.clip.image import write_png
from diagd_cli.clip.read import read_clip

pytest_plugins = ["cli.continuing"]


@pytest.fixture(scope="module")
def shipped(clips, tmp_path_factory):
    """A folder with what the command makes by the shipped model, in a process of its own, which has
    done nothing before.
    """
    folder = tmp_path_factory.mktemp("shipped")
    options = ["--frames", "1", "--seed", "1", "--json", "-o", str(folder / "rooms.mp4")]
    command = [sys.executable, "-m", "diagd_cli", "generate", str(clips / "rooms.mp4"), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((folder / "rooms.json").read_text())
    return folder


def test_shipped_preset(shipped):
    """The main job: a real clip in, an MP4 with its context and what follows out."""
    video = read_clip(shipped / "rooms.mp4", 5)
    assert (video.frames.shape, video.first, video.fps) == ((5, 120, 160, 3), 0, 17.5)
    made = json.loads((shipped / "rooms.json").read_text())
    assert made["settings"]["preset"] == "freedoom" and made["settings"]["seed"] == 1
    assert made["input"]["first"] == 40 and made["tokens"] == 15 * 20
    assert names(shipped) == ["rooms.json", "rooms.mp4"]


def test_the_peak_of_memory_is_as_predicted(shipped):
    """How far it may be off is what two machines may differ by."""
    peak = json.loads((shipped / "rooms.json").read_text())["peak_memory_bytes"]
    assert peak["predicted"] == pytest.approx(peak["host"], rel=0.2)


def test_mp4_holds_context_and_continuation_at_the_clips_fps(generate, tiny, tmp_path):
    assert generate(tiny.clip, "--frames", 4).code == 0
    video = read_clip(tmp_path / "out" / "walk.mp4", 6)
    assert (video.first, video.frames.shape, video.fps) == (0, (6, 16, 24, 3), 10.0)


def test_stdout_is_the_path(generate, tiny, tmp_path):
    done = generate(tiny.clip, "--seed", 7)
    assert done.out == f"{tmp_path}/out/walk.mp4\n"
    assert "3 new frames, 8 steps" in done.err and "seed 7" in done.err


def test_sidecar_tells_everything(generate, tiny, tmp_path):
    done = generate(
        tiny.clip, "--seed", 7, "--top-p", 0.5, "--no-repair", "--actions", "left*2", "--json"
    )
    [told] = done.objects
    assert told == json.loads((tmp_path / "out" / "walk.json").read_text())
    assert told["settings"] == {
        "preset": "tiny", "frames": 3, "seed": 7, "context": 2, "temperature": 1.0, "top_k": 0, "top_p": 0.5,
        "top_p_rule": "nucleus",
        "decoding": {"method": "diagd", "k": 1, "d": 2, "stand_in": "previous-frame", "repair": False,
                     "zero_slots": False, "window": "roll", "sinks": 0, "attend": 0},
        "clip": {
            "height": 16, "width": 24, "fps": 12.5, "context": 2, "least": 2, "frames": 3, "window": 5, "overlap": 2
        },
        "actions": "left*2", "dtype": "auto", "kv_dtype": "auto",
    }  # fmt: skip
    digest = hashlib.sha256(tiny.clip.read_bytes()).hexdigest()
    assert told["input"] == {
        "path": str(tiny.clip),
        "sha256": digest,
        "first": 6,
        "start": None,
        "fps": 10.0,
    }
    assert (
        told["output_sha256"]
        == hashlib.sha256((tmp_path / "out" / "walk.mp4").read_bytes()).hexdigest()
    )
    assert told["steered_by"] == ["left", "left", "left", "left", "left"]
    assert (
        told["versions"]["diagd"] == __version__
        and {"python", "torch", "numpy"} <= told["versions"].keys()
    )
    assert told["machine"].keys() == {"device", "dtype", "threads", "name"}
    counts = [told[name] for name in ("context_frames", "new_frames", "tokens", "batch", "steps")]
    assert counts == [2, 3, 18, 1, (3 - 1) * 2 + (2 - 1) * 1 + 3]
    assert list(told["seconds"]) == ["load", "encode", "prefill", "decode", "pixels", "write"]
    assert all(seconds > 0 for seconds in told["seconds"].values())
    assert all(
        told["rates"][name] > 0
        for name in ("tokens_per_second", "frames_per_second", "ms_per_step")
    )
    assert 0 < told["first_frame_seconds"]["decode"] < told["first_frame_seconds"]["command"]
    assert min(told["peak_memory_bytes"].values()) > 100_000_000


def test_a_bad_clip_does_not_stop_the_rest(generate, tiny, tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_text("text")
    done = generate(tiny.clip, bad, twin(tiny, tmp_path / "in", "last.mp4"), "--json")
    assert done.code == 1
    assert [made["output"] for made in done.objects] == [
        f"{tmp_path}/out/{n}.mp4" for n in ("walk", "last")
    ]
    errors = [line for line in done.err.splitlines() if line.startswith("error:")]
    assert errors[0].startswith(f"error: {bad} is not a video file") and errors[1:] == [
        f"error: 1 of 3 clips failed: {bad}"
    ]
    assert names(tmp_path / "out") == ["last.json", "last.mp4", "walk.json", "walk.mp4"]


def test_without_a_model_no_clip_is_tried(generate, tiny, tmp_path):
    preset = tmp_path / "tiny.yaml"
    shutil.copy(tiny.preset, preset)
    done = generate(tiny.clip, twin(tiny, tmp_path / "in", "last.mp4"), preset=preset)
    assert (
        done.code == 1
        and done.err.count("error:") == 1
        and "The tokenizer weights of tiny are missing" in done.err
    )


def test_what_needs_no_torch_does_not_wait_for_it(clips, tmp_path):
    """A dry run; and of one clip, that it is not there or that it was continued before."""
    clip = str(clips / "rooms.mp4")
    (tmp_path / "done.mp4").touch()
    commands = [[clip, "--dry-run"], ["none.mp4"], [clip, "-o", "done.mp4"]]
    code = (
        "import sys\nfrom diagd_cli.cli.app import app\n"
        f"for words in {commands}:\n"
        "    try: app(['generate', *words])\n"
        "    except SystemExit: pass\n"
        "assert 'torch' not in sys.modules\n"
    )
    run = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **run)
    assert done.returncode == 0 and "steps for 4800 tokens" in done.stdout, done.stderr
    assert [line[:25] for line in done.stderr.splitlines()] == [
        "error: none.mp4 does not ",
        "error: done.mp4 exists al",
    ]


@pytest.mark.parametrize(
    "decoding, steps", [("ntp", 18), ("diagd", 8), ("spatial", 12), ("zipar", 12)]
)
def test_decodings(generate, tiny, decoding, steps):
    [told] = generate(tiny.clip, "--decoding", decoding, "--json").objects
    assert (told["steps"], told["settings"]["decoding"]["method"]) == (steps, decoding)


def test_every_stand_in_makes_a_video(generate, tiny):
    for name in ("previous-frame", "previous-frame-target", "prompt-frame", "above", "newest"):
        [told] = generate(tiny.clip, "--stand-in", name, "--json", "--force").objects
        assert told["settings"]["decoding"]["stand_in"] == name


def test_flag_over_variable_over_preset(generate, tiny):
    def chosen(*options, **environment):
        [told] = generate(tiny.clip, "--dry-run", "--json", *options, **environment).objects
        return (
            told["settings"]["seed"],
            told["settings"]["frames"],
            told["plan"]["k"],
            told["plan"]["method"],
        )

    variables = {
        "DIAGD_SEED": "5",
        "DIAGD_FRAMES": "1",
        "DIAGD_K": "3",
        "DIAGD_DECODING": "spatial",
    }
    assert chosen()[1:] == (3, 1, "diagd")
    assert chosen(**variables) == (5, 1, 3, "spatial")
    assert chosen("--seed", 6, "--k", 2, "--decoding", "zipar", **variables) == (6, 1, 2, "zipar")


def test_preset_from_a_variable(diagd, tiny, tmp_path):
    done = diagd("generate", tiny.clip, "--dry-run", "--json", DIAGD_PRESET=str(tiny.preset))
    assert done.objects[0]["settings"]["preset"] == "tiny"


def test_weights_from_a_variable(generate, tiny, tmp_path):
    preset = shutil.copy(tiny.preset, tmp_path / "tiny.yaml")
    assert generate(tiny.clip, preset=preset).code == 1
    assert generate(tiny.clip, preset=preset, DIAGD_WEIGHTS=str(tiny.folder)).code == 0


def test_quiet_keeps_errors(generate, tiny, tmp_path):
    done = generate(tiny.clip, "-q")
    assert (done.code, done.out, done.err) == (0, f"{tmp_path}/out/walk.mp4\n", "")
    done = generate(tmp_path / "none.mp4", "-q")
    assert (
        done.code == 1
        and done.err
        == f"error: {tmp_path}/none.mp4 does not exist. Check the name and the folder\n"
    )


def test_verbose_adds_the_traceback(generate, tmp_path):
    done = generate(tmp_path / "none.mp4", "-v")
    assert done.err.startswith("Traceback") and done.err.splitlines()[-1].startswith("error: ")


def test_dtype_and_threads_are_told(generate, tiny):
    [told] = generate(
        tiny.clip, "--dtype", "bfloat16", "--threads", 1, "--device", "cpu", "--json"
    ).objects
    assert told["machine"] | {"name": ""} == {
        "device": "cpu",
        "dtype": "bfloat16",
        "threads": 1,
        "name": "",
    }


def test_a_still_image_is_a_clip_of_one_frame(generate, tiny, tmp_path):
    preset = tmp_path / "tiny.yaml"
    preset.write_text(tiny.preset.read_text().replace("  least: 2", "  least: 1"))
    write_png(tmp_path / "still.png", moving(1, 20, 20)[0])
    done = generate(tmp_path / "still.png", preset=preset, DIAGD_WEIGHTS=str(tiny.folder))
    video = read_clip(tmp_path / "out" / "still.mp4", 4)
    # the preset's: an image has none
    assert done.code == 0 and (video.first, video.fps) == (0, 12.5)
