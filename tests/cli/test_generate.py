"""diagd generate: what it makes, says and leaves."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from tiny import moving, save_clip

from diagd_cli import __version__
from diagd_cli.clip.image import write_png
from diagd_cli.clip.read import read_clip


@pytest.fixture
def generate(diagd, tiny, tmp_path):
    """Continues clips by the tiny preset into tmp_path/out."""

    def run(*arguments, preset=tiny.preset, **environment):
        return diagd(
            "generate", *arguments, "--preset", preset, "-o", tmp_path / "out", **environment
        )

    return run


@pytest.fixture
def tokens(generate, tiny, tmp_path):
    """The tokens int64 [T, h, w] that some options give."""

    def run(*options, seed=0, clip=tiny.clip, **environment):
        done = generate(clip, "--seed", seed, "--save-tokens", "--force", *options, **environment)
        assert done.code == 0, done.err
        with np.load(tmp_path / "out" / f"{clip.stem}.npz") as arrays:
            return arrays["codes"]

    return run


def same(a, b):
    return a.shape == b.shape and (a == b).all()


def twin(tiny, folder, name):
    """A copy of the tiny clip by another name."""
    folder.mkdir(exist_ok=True)
    return shutil.copy(tiny.clip, folder / name)


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.fixture(scope="module")
def shipped(clips, tmp_path_factory):
    """A folder with what the command makes by the shipped model, in a process of its own, which has
    done nothing before.
    """
    folder = tmp_path_factory.mktemp("shipped")
    options = ["--frames", "2", "--seed", "1", "--json", "-o", str(folder / "rooms.mp4")]
    command = [sys.executable, "-m", "diagd_cli", "generate", str(clips / "rooms.mp4"), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((folder / "rooms.json").read_text())
    return folder


def test_shipped_preset(shipped):
    """The main job: a real clip in, an MP4 with its context and what follows out."""
    video = read_clip(shipped / "rooms.mp4", 6)
    assert (video.frames.shape, video.first, video.fps) == ((6, 120, 160, 3), 0, 17.5)
    made = json.loads((shipped / "rooms.json").read_text())
    assert made["settings"]["preset"] == "freedoom" and made["settings"]["seed"] == 1
    assert made["input"]["first"] == 40 and made["tokens"] == 2 * 15 * 20
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
                     "zero_slots": False, "window": "roll", "sinks": 0},
        "clip": {
            "height": 16, "width": 24, "fps": 12.5, "context": 2, "least": 2, "frames": 3, "window": 5, "overlap": 2
        },
        "actions": "left*2", "dtype": "auto", "kv_dtype": "auto",
    }  # fmt: skip
    digest = hashlib.sha256(tiny.clip.read_bytes()).hexdigest()
    assert told["input"] == {"path": str(tiny.clip), "sha256": digest, "first": 6, "fps": 10.0}
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


@pytest.mark.parametrize(
    "change",
    [["--frames", 2], ["--seed", 2], ["--k", 2], ["--no-repair"], ["--temperature", 0.5], ["--start", 1],
     ["--actions", "idle"], ["--save-tokens"]],
)  # fmt: skip
def test_resume_makes_what_differs(generate, tiny, tmp_path, change):
    generate(tiny.clip, "--seed", 1)
    sidecar = tmp_path / "out" / "walk.json"
    before = json.loads(sidecar.read_text())
    done = generate(tiny.clip, "--seed", 1, *change, "--resume")
    assert done.code == 0 and "is there already" not in done.err
    after = json.loads(sidecar.read_text())
    assert after["seconds"] != before["seconds"]


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


def test_seed_decides_the_tokens(tokens):
    first = tokens()
    assert first.shape == (5, 2, 3) and same(first, tokens()) and not same(first, tokens(seed=1))
    assert same(first[:2], tokens(seed=1)[:2])  # the context


def test_clip_alone_and_in_a_batch(generate, tokens, tiny, tmp_path):
    other = save_clip(tmp_path / "in" / "other.mp4", moving(5, 32, 32))
    alone = tokens()
    generate(other, tiny.clip, "--seed", 0, "--save-tokens", "--force")
    with np.load(tmp_path / "out" / "walk.npz") as arrays:
        assert same(alone, arrays["codes"]) and arrays["context"] == 2


def test_seed_is_drawn_and_told(generate, tiny, tokens):
    [first], [second] = (generate(tiny.clip, "--json", "--force").objects for _ in range(2))
    assert first["settings"]["seed"] != second["settings"]["seed"]
    assert same(tokens(seed=first["settings"]["seed"]), tokens(seed=first["settings"]["seed"]))


def test_greedy_needs_no_seed(tokens):
    assert same(tokens("--temperature", 0), tokens("--temperature", 0, seed=1))


def test_actions_inline_and_from_a_file(tokens, tmp_path):
    (tmp_path / "steer.jsonl").write_text('{"action": "left"}\n{"action": "right"}\n')
    steered = tokens("--actions", "left,right")
    assert same(steered, tokens("--actions", tmp_path / "steer.jsonl"))
    assert not same(steered, tokens("--actions", "idle")) and not same(steered, tokens())


def test_start_chooses_the_context(tokens, generate, tiny):
    assert not same(tokens("--start", 0), tokens())
    assert same(tokens("--start", 6), tokens())
    assert "Start at frame 6 or before" in generate(tiny.clip, "--start", 7, "--force").err


def test_frames_beyond_the_window_roll_it(tokens, generate, tiny):
    long = tokens("--frames", 9)
    assert long.shape == (11, 2, 3)
    assert same(long[:5], tokens("--frames", 3))  # as much as the first window holds
    [told] = generate(tiny.clip, "--frames", 9, "--json", "--force").objects
    assert told["steps"] == 3 * 8 and told["tokens"] == 9 * 6


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


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16"])
def test_a_cache_of_another_precision(generate, tiny, kind):
    """It changes how much the cache takes, not how much is made."""
    [told] = generate(tiny.clip, "--kv-dtype", kind, "--json").objects
    assert (told["settings"]["kv_dtype"], told["tokens"], told["new_frames"]) == (kind, 18, 3)
    [own] = generate(tiny.clip, "--json", "--force").objects
    # keys and values: frames, tokens, and a place for padding; head_dim, bytes
    cache = 2 * (5 * (6 + 1) + 1) * 8 * 4
    peaks = [each["peak_memory_bytes"] for each in (own, told)]
    needs = [peak["predicted"] - peak["before"] for peak in peaks]
    assert needs[0] - needs[1] == (0 if kind == "float32" else cache // 2)


def test_offloading_on_the_cpu_is_nothing(generate, tokens, tiny):
    assert (
        "--offload changes nothing on the CPU"
        in generate(tiny.clip, "--offload", "tokenizer", "--seed", 0).err
    )
    assert same(tokens("--offload", "tokenizer"), tokens())
    done = generate(tiny.clip, "--offload", "everything")
    assert done.code == 2 and "'everything' is not one of tokenizer" in done.err


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


def test_a_still_image_is_a_clip_of_one_frame(generate, tiny, tmp_path):
    preset = tmp_path / "tiny.yaml"
    preset.write_text(tiny.preset.read_text().replace("  least: 2", "  least: 1"))
    write_png(tmp_path / "still.png", moving(1, 20, 20)[0])
    done = generate(tmp_path / "still.png", preset=preset, DIAGD_WEIGHTS=str(tiny.folder))
    video = read_clip(tmp_path / "out" / "still.mp4", 4)
    # the preset's: an image has none
    assert done.code == 0 and (video.first, video.fps) == (0, 12.5)


# ---- weights of 8 bits ---------------------------------------------------------------------------


def test_weights_of_8_bits_are_told_and_give_the_same_tokens_by_any_number_of_threads(
    tokens, tiny, tmp_path, int8_processor
):
    small = tokens("--frames", 3, "--weights", "int8")
    told = json.loads((tmp_path / "out" / f"{tiny.clip.stem}.json").read_text())
    assert told["machine"]["weights"] == told["settings"]["weights"] == "int8"
    assert same(small, tokens("--frames", 3, "--weights", "int8", "--threads", 1))


def test_without_products_of_int8_it_is_said_what_to_take_instead(generate, tiny):
    done = generate(tiny.clip, "--weights", "int8", DIAGD_NATIVE_INT8="0")
    assert done.code == 2
    assert done.err == (
        "error: int8 weights need a CPU with VNNI or AMX instructions, and cpu is none. "
        "Use --weights float\n"
    )


def test_what_a_preset_wishes_is_done_where_it_can_be(diagd, tiny, tmp_path):
    preset = tmp_path / "small.yaml"
    preset.write_text(tiny.preset.read_text() + "weights: int8\n")
    for name in ("transformer", "tokenizer"):
        shutil.copy(tiny.folder / f"{name}.safetensors", tmp_path)
    for native, weights in (("0", None), ("1", "int8")):
        done = diagd(
            "generate", tiny.clip, "-p", preset, "-o", tmp_path / "out", "--force", "--frames", 1,
            DIAGD_NATIVE_INT8=native,
        )  # fmt: skip
        assert done.code == 0, done.err
        told = json.loads((tmp_path / "out" / f"{tiny.clip.stem}.json").read_text())
        assert told["machine"].get("weights") == weights


def test_compiled_blocks_have_no_products_of_int8(generate, tiny, int8_processor):
    done = generate(tiny.clip, "--weights", "int8", "--compile")
    assert done.code == 2 and "--compile has no products of int8 weights" in done.err
