"""Whatever is wrong with what is given, diagd says so in one line, exits with the right code and leaves nothing behind."""

import json
import math
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import imageio_ffmpeg
import pytest
import yaml
from safetensors.torch import load_file, save_file
from tiny import Tiny, moving, save_clip

from diagd_cli import pipeline
from diagd_cli.cli.console import Follow
from diagd_cli.clip import read
from diagd_cli.clip.image import write_png
from diagd_cli.clip.read import read_clip
from diagd_cli.clip.write import VideoWriter
from diagd_cli.errors import Exit
from diagd_cli.schedule.decoding import STAND_INS
from diagd_cli.weights.locate import digest


def only_line(code, out, err, folder):
    """The error line of a run that failed with nothing else said and nothing left in `folder`."""
    assert out == "" and "Traceback" not in err
    [line] = err.splitlines()
    assert line.startswith("error: ")
    assert not folder.exists() or not list(folder.rglob("*"))
    return code, line.removeprefix("error: ").replace(f"{folder.parent}/", "")


@pytest.fixture
def refused(diagd, tiny, tmp_path):
    """Runs diagd generate into tmp_path/out, where it must fail; returns exit code and error line."""

    def run(clip=tiny.clip, *options, preset=tiny.preset, output=tmp_path / "out", **environment):
        done = diagd("generate", clip, "-p", preset, "-o", output, *options, **environment)
        return only_line(done.code, done.out, done.err, tmp_path / "out")

    return run


def ffmpeg(*arguments):
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *map(str, arguments)], check=True)


# --- clips


def test_missing_file(refused, tmp_path):
    assert refused(tmp_path / "no.mp4") == (1, "no.mp4 does not exist. Check the name and the folder")


def test_directory(refused, tmp_path):
    (tmp_path / "clips").mkdir()
    assert refused(tmp_path / "clips") == (1, "clips is a directory. Name one video or image file")


def test_empty_file(refused, tmp_path):
    (tmp_path / "a.mp4").touch()
    assert refused(tmp_path / "a.mp4") == (1, "a.mp4 is empty (0 bytes). Copy or download it again")


def test_text_renamed(refused, tmp_path):
    (tmp_path / "a.mp4").write_text("not a video\n" * 50)
    hint = "Name an MP4, MOV, MKV, WebM, AVI or GIF file, or an image"
    assert refused(tmp_path / "a.mp4") == (1, f"a.mp4 is not a video file. {hint}")


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_truncated(refused, clips, tmp_path, share):
    data = (clips / "hall.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(data[: int(share * len(data))])
    code, line = refused(tmp_path / "a.mp4", "--start", 40)
    assert (
        code == 1 and line.startswith("a.mp4 is cut short or damaged: ") and line.endswith("Copy or download it again")
    )


def test_audio_only(refused, tmp_path):
    ffmpeg("-f", "lavfi", "-i", "sine=d=0.1", tmp_path / "a.mp4")
    assert refused(tmp_path / "a.mp4") == (1, "a.mp4 has no video stream. Name a file with pictures, not only sound")


def test_one_frame(refused, tmp_path):
    clip = save_clip(tmp_path / "a.mp4", moving(1))
    assert refused(clip) == (1, "a.mp4 has 1 frame, and the preset needs 2. Give a longer clip")


def test_fewer_frames_than_the_context(refused, tmp_path):
    clip = save_clip(tmp_path / "a.mp4", moving(3))
    assert refused(clip, preset="freedoom") == (1, "a.mp4 has 3 frames, and the preset needs 4. Give a longer clip")


@pytest.mark.parametrize("height, width", [(1, 1), (17, 23), (121, 161), (9, 300)])
def test_any_size_works(diagd, tiny, tmp_path, height, width):
    save_clip(tmp_path / "a.mp4", moving(3, height, width))
    done = diagd("generate", tmp_path / "a.mp4", "-p", tiny.preset, "-o", tmp_path / "out")
    assert done.code == 0 and read_clip(tmp_path / "out" / "a.mp4", 5).frames.shape == (5, 16, 24, 3)


# --- presets

INTEGER, AT_MOST = "Input should be a valid integer", "Input should be less than or equal to"


def test_unknown_preset(refused):
    assert refused(preset="freedom") == (2, "Unknown preset 'freedom'. Did you mean freedoom?")
    assert refused(preset="xyzzy") == (2, "Unknown preset 'xyzzy'. See: diagd presets list")
    hint = "Give a path to a YAML file, or a name from: diagd presets list"
    assert refused(preset="mine.yaml") == (2, f"No preset file mine.yaml. {hint}")


def test_malformed_yaml(refused, tmp_path):
    preset = tmp_path / "a.yaml"
    preset.write_text("name: a\nclip: {height: 3\nfoo: bar\n")
    line = "a.yaml, line 3, column 4: not valid YAML: expected ',' or '}', but got ':'. Correct it there"
    assert refused(preset=preset) == (2, line)
    preset.write_text("name: a\nabout: !!python/object/apply:os.abort []\n")
    assert refused(preset=preset)[1].startswith("a.yaml, line 2, column 8: not valid YAML: could not determine")
    preset.write_bytes(b"name: a\nabout: \0\n")
    assert refused(preset=preset)[1].startswith("a.yaml, line 2: not valid YAML: special characters")
    preset.write_bytes(b"\xff\xfe")
    assert refused(preset=preset) == (2, "a.yaml is not a text file. Give the path of a YAML file")
    preset.write_text("- freedoom\n")
    assert refused(preset=preset) == (2, "a.yaml is a list, not a mapping of keys. Write lines of KEY: VALUE")


@pytest.mark.parametrize(
    "keys, value, message",
    [
        (["clip", "heigth"], 16, "unknown key 'clip.heigth' (did you mean 'height'?)"),
        (["transfomer"], {}, "unknown key 'transfomer' (did you mean 'transformer'?)"),
        (["clip", "height"], "x", f"clip.height: {INTEGER}, unable to parse string as an integer (it is 'x')"),
        (["decoding", "k"], 1.5, f"decoding.k: {INTEGER}, got a number with a fractional part (it is 1.5)"),
        (["decoding", "top_p"], 1.5, "decoding.top_p: Input should be less than or equal to 1 (it is 1.5)"),
        (["decoding", "temperature"], math.nan, f"decoding.temperature: {AT_MOST} 1000 (it is nan)"),
        (["clip", "fps"], math.inf, f"clip.fps: {AT_MOST} 1000 (it is inf)"),
        (["clip", "width"], 25, "clip.width (25) must be a multiple of 8, the tokenizer's pixels a token"),
        (["clip", "context"], 6, "clip: needs least <= context <= window, has 2, 6, 5"),
        (["tokenizer", "levels"], [5, 1], "tokenizer.levels.1: Input should be greater than or equal to 2 (it is 1)"),
        (["tokenizer", "kernel"], 4, "tokenizer.kernel: must be odd, so that frames keep their size (it is 4)"),
        (["transformer", "vocab"], 28, "transformer.vocab (28) is below the 29 tokens in use"),
        (["transformer", "outputs"], 24, "transformer.outputs (24) is below the tokenizer's 25 codes"),
        (["actions", "offset"], 24, "actions.offset (24) lies within the tokenizer's 25 codes"),
        (["actions", "none"], "rest", "actions: none ('rest') is not among names"),
    ],
)  # fmt: skip
def test_wrong_preset(refused, tiny, tmp_path, keys, value, message):
    settings = yaml.safe_load(tiny.preset.read_text())
    place = settings
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(settings))
    line = f"a.yaml: {message}. Compare with: diagd presets show freedoom"
    assert refused(preset=tmp_path / "a.yaml") == (2, line)


def test_preset_whose_decoding_does_not_fit(refused, tiny, tmp_path):
    (tmp_path / "a.yaml").write_text(tiny.preset.read_text().replace("  k: 1", "  k: 4"))
    assert refused(preset=tmp_path / "a.yaml") == (2, "a.yaml: decoding: k is 4. On a 2x3 grid it must lie in 1..3")


# --- options


@pytest.mark.parametrize(
    "option, value, message",
    [
        ("--frames", "0", "Invalid value for '--frames': '0' is not a whole number in 1..100000"),
        ("--frames", "1000000", "Invalid value for '--frames': '1000000' is not a whole number in 1..100000"),
        ("--frames", "two", "Invalid value for '--frames': 'two' is not a whole number in 1..100000"),
        ("--temperature", "-1", "Invalid value for '--temperature': '-1' is not a number in 0..1000"),
        ("--temperature", "nan", "Invalid value for '--temperature': 'nan' is not a number in 0..1000"),
        ("--top-p", "0", "Invalid value for '--top-p': '0' is not a number above 0 and at most 1"),
        ("--top-p", "1.1", "Invalid value for '--top-p': '1.1' is not a number above 0 and at most 1"),
        ("--top-k", "-1", "Invalid value for '--top-k': '-1' is not a whole number, 0 or more"),
        ("--seed", "-1", "Invalid value for '--seed': '-1' is not a whole number in 0..2^64-1"),
        ("--threads", "-1", "Invalid value for '--threads': '-1' is not a whole number in 0..1024"),
        ("--decoding", "fast", "Invalid value for '--decoding': 'fast' is not one of ntp, diagd, spatial, zipar"),
        ("--stand-in", "x", f"Invalid value for '--stand-in': 'x' is not one of {', '.join(STAND_INS)}"),
        ("--k", "one", "Invalid value for '--k' / '-k': 'one' is not a whole number"),
    ],
)  # fmt: skip
def test_options_out_of_range(refused, tiny, option, value, message):
    assert refused(tiny.clip, option, value) == (2, f"{message}. See: diagd generate --help")


def test_variables_out_of_range_are_named(refused):
    code, line = refused(DIAGD_SEED="x")
    assert code == 2 and line.startswith(
        "Invalid value for '--seed' (env var: 'DIAGD_SEED'): 'x' is not a whole number"
    )


@pytest.mark.parametrize(
    "options, message",
    [
        (["--k", 0], "k is 0. On a 2x3 grid it must lie in 1..3"),
        (["--k", 4], "k is 4. On a 2x3 grid it must lie in 1..3"),
        (["--d", 0], "d is 0. With k=1 on a 2x3 grid it must lie in 1..4"),
        (["--k", 2, "--d", 6], "d is 6. With k=2 on a 2x3 grid it must lie in 1..5"),
        (["--device", "gpu"], "Unknown device 'gpu'. Use auto, cpu, cuda or cuda:N"),
        (["--dtype", "int8"], "Unknown dtype 'int8'. Use auto, float32, bfloat16, float16"),
    ],
)
def test_decoding_and_device_out_of_range(refused, tiny, options, message):
    assert refused(tiny.clip, *options) == (2, message)


def test_no_clip_no_such_option_and_no_such_command(diagd):
    done = diagd("generate")
    assert done.code == 2 and done.err.startswith("error: Missing argument '")
    assert done.err.endswith("'. See: diagd generate --help\n")
    done = diagd("generate", "a.mp4", "--force-it")
    assert done.code == 2 and done.err.startswith("error: No such option: --force-it")
    done = diagd("genrate")
    assert done.code == 2 and done.err.startswith("error: No such command 'genrate'.")
    assert done.err.endswith(" See: diagd --help\n")


# --- actions

FORM = "Write NAME or NAME*COUNT, such as forward*8,left*4"
FILE = "Give a JSONL file, or a list such as forward*8"


@pytest.mark.parametrize(
    "text, message",
    [
        ("lefty", "unknown action 'lefty'. Did you mean left?"),
        ("jump", "unknown action 'jump'. Known: idle, left, right, none"),
        ("left*0", f"Cannot read the action 'left*0'. {FORM}"),
        ("left,,right", f"Cannot read the action ''. {FORM}"),
        ("exit()", f"Cannot read the action 'exit()'. {FORM}"),
        ("no.jsonl", f"Cannot read the actions no.jsonl: No such file or directory. {FILE}"),
    ],
)  # fmt: skip
def test_bad_actions(refused, tiny, text, message):
    assert refused(tiny.clip, "--actions", text) == (2, message)


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"action": "left"}\n{"action": "up"}\n', "a.jsonl, line 2: unknown action 'up'. Known: idle, left, right, none"),
        ('{"action": "left"}\n\nleft\n', 'a.jsonl, line 3: not {"action": NAME}. Write one JSON object a line'),
        ('{"move": "left"}\n', 'a.jsonl, line 1: not {"action": NAME}. Write one JSON object a line'),
        ("\n", "a.jsonl holds no action. Write one JSON object a line"),
    ],
)  # fmt: skip
def test_bad_actions_file(refused, tiny, tmp_path, text, message):
    (tmp_path / "a.jsonl").write_text(text)
    assert refused(tiny.clip, "--actions", tmp_path / "a.jsonl") == (2, message)
    clip = shutil.copy(tiny.clip, tmp_path / "a.mp4")  # the same file, found beside the clip
    assert refused(clip) == (2, message)


def test_actions_of_a_preset_that_takes_none(refused, tiny, tmp_path):
    settings = yaml.safe_load(tiny.preset.read_text()) | {"actions": None}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(settings))
    code, line = refused(tiny.clip, "--actions", "left", preset=tmp_path / "a.yaml")
    assert (code, line) == (2, "The preset tiny takes no actions. Leave --actions out")


# --- weights


def broken(tiny, folder, damage, known=True):
    """A copy of the tiny preset whose Transformer file `damage(path)` has changed; its SHA-256 is made to fit if `known`."""
    copy = Tiny(folder, folder / "tiny.yaml", folder / "walk.mp4")
    shutil.copytree(tiny.folder, folder, dirs_exist_ok=True)
    path = folder / "transformer.safetensors"
    before = digest(path)
    damage(path)
    if known:
        copy.preset.write_text(copy.preset.read_text().replace(before, digest(path)))
    return copy.preset


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def reshape(path):
    tensors = load_file(path)
    save_file(tensors | {"embed.weight": tensors["embed.weight"][:, :8].contiguous()}, path)


def drop(path):
    save_file({k: v for k, v in load_file(path).items() if "mlp" not in k}, path)


def add(path):
    save_file(load_file(path) | {"secret.weight": load_file(path)["norm.weight"].clone()}, path)


@pytest.mark.parametrize("damage", [flip, truncate])
def test_corrupt_weights(refused, tiny, tmp_path, damage):
    preset = broken(tiny, tmp_path / "p", damage, known=False)
    digests = [digest(folder / "transformer.safetensors")[:12] for folder in (tmp_path / "p", tiny.folder)]
    message = "p/transformer.safetensors is damaged or another version: SHA-256 {}, where the preset says {}"
    hint = "Fetch the file again, or put its SHA-256 into the preset"
    assert refused(preset=preset) == (1, f"{message.format(*digests)}. {hint}")


@pytest.mark.parametrize(
    "damage, message",
    [
        (truncate, "p/transformer.safetensors is not a readable safetensors file: "),
        (reshape, "p/transformer.safetensors: embed.weight is (29, 8), the preset needs (29, 16). Check the preset's sizes"),
        (drop, "p/transformer.safetensors lacks blocks.0.mlp.down.weight, and 2 more names differ. The file belongs to another"),
        (add, "p/transformer.safetensors holds secret.weight, which the preset's model has not. The file belongs to another"),
        (lambda path: path.write_bytes(b""), "p/transformer.safetensors is not a readable safetensors file: "),
    ],
)  # fmt: skip
def test_weights_of_another_model(refused, tiny, tmp_path, damage, message):
    code, line = refused(preset=broken(tiny, tmp_path / "p", damage))
    assert code == 1 and line.startswith(message)


class Trap:
    """A pickle that leaves a file behind when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickle_is_refused_and_does_not_run(refused, tiny, tmp_path):
    sprung = tmp_path / "sprung"
    preset = broken(tiny, tmp_path / "p", lambda path: path.write_bytes(pickle.dumps(Trap(sprung))))
    code, line = refused(preset=preset)
    assert code == 1 and "transformer.safetensors is not a readable safetensors file" in line
    assert not sprung.exists()


def test_missing_weights(refused, tiny, tmp_path):
    preset = broken(tiny, tmp_path / "p", Path.unlink, known=False)
    code, line = refused(preset=preset)
    assert code == 1 and line.startswith(
        "The transformer weights of tiny are missing: no transformer.safetensors. Looked in p, "
    )
    assert line.endswith("name their folder with --weights-dir or DIAGD_WEIGHTS")


# --- outputs


def test_existing_output(diagd, tiny, tmp_path):
    for suffix in (".mp4", ".json"):
        kept = tmp_path / f"a{suffix}"
        kept.write_bytes(b"precious")
        done = diagd("generate", tiny.clip, "-p", tiny.preset, "-o", tmp_path / "a.mp4")
        assert done.err == f"error: {kept} exists already. Choose another name, or replace it with --force\n"
        assert done.code == 1 and [p.read_bytes() for p in tmp_path.iterdir()] == [b"precious"]
        kept.unlink()


def test_output_below_a_file(refused, tiny, tmp_path):
    (tmp_path / "file").touch()
    code, line = refused(output=tmp_path / "file" / "a.mp4")
    assert (code, line) == (1, "file/a.mp4 cannot be written: Not a directory. Check the name and the folder")


@contextmanager
def as_nobody():
    """Run as a user whom permissions bind, where the tests run as root."""
    root = os.geteuid() == 0
    if root:
        os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        if root:
            os.setresuid(0, 0, 0)


def test_unwritable_folder(diagd, tiny, tmp_path):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_png(folder / "still.png", moving(1)[0])  # needs no ffmpeg, which nobody may be unable to run
        (folder / "tiny.yaml").write_text(tiny.preset.read_text().replace("  least: 2", "  least: 1"))
        for path in (*folder.iterdir(), folder):
            path.chmod(0o555)
        arguments = ["generate", folder / "still.png", "-p", folder / "tiny.yaml", "-o"]
        done = diagd(*arguments, tmp_path / "a.mp4", DIAGD_WEIGHTS=str(tiny.folder))
        assert done.code == 0  # and all that is imported has been
        with as_nobody():
            done = diagd(*arguments, folder / "a.mp4")
        message = f"{folder}/a.mp4 cannot be written: the directory {folder} is not writable"
        assert (done.code, done.err) == (1, f"error: {message}. Choose a folder that you may write to\n")
        assert not (folder / "a.mp4").exists()
        folder.chmod(0o755)


@pytest.fixture
def full_disk(tmp_path):
    """A disk without a free byte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)]
    if sys.platform != "linux" or os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a disk")
    with (disk / "filler").open("wb", buffering=0) as file:
        while True:
            try:
                file.write(b"x" * 4096)
            except OSError:
                break
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_disk_full(diagd, tiny, full_disk):
    done = diagd("generate", tiny.clip, "-p", tiny.preset, "-o", full_disk / "a.mp4")
    message = f"{full_disk}/a.mp4 cannot be written: no space left on device. Free some space, or write to another disk"
    assert (done.code, done.out, done.err) == (1, "", f"error: {message}\n")
    assert os.listdir(full_disk) == ["filler"]


def test_file_size_limit(start, tiny, tmp_path):
    out = tmp_path / "out"

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    process = start("generate", tiny.clip, "-p", tiny.preset, "--frames", 100, "-o", out, preexec_fn=limit)
    told, errors = process.communicate(timeout=60)
    code, line = only_line(process.returncode, told, errors, out)
    hint = "The file system or a limit (ulimit -f) allows no larger file: write elsewhere"
    assert (code, line) == (1, f"out/walk.mp4 cannot be written: file too large. {hint}")


def test_nobody_reads_stdout(start):
    reader, writer = os.pipe()
    os.close(reader)
    process = start("presets", "show", "freedoom", stdout=writer)
    os.close(writer)
    assert (process.communicate(timeout=60)[1], process.returncode) == ("", 1)


# --- Ctrl-C

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
    code = "import sys\nfrom diagd_cli.cli.app import main\nprint('ready', flush=True)\nmain()"
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
