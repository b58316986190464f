"""Outputs that cannot be written: they exist, may not be, or the disk is full."""

import errno
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from limits import as_nobody, small_disk, small_files
from tiny import moving, save_clip

from diagd_cli.clip.image import write_png


def test_existing_output(diagd, tiny, tmp_path):
    for suffix in (".mp4", ".json"):
        kept = tmp_path / f"a{suffix}"
        kept.write_bytes(b"precious")
        done = diagd("generate", tiny.clip, "-p", tiny.preset, "-o", tmp_path / "a.mp4")
        assert (
            done.err
            == f"error: {kept} exists already. Choose another name, or replace it with --force\n"
        )
        assert done.code == 1 and [p.read_bytes() for p in tmp_path.iterdir()] == [b"precious"]
        kept.unlink()


def test_output_below_a_file(refused, tiny, tmp_path):
    (tmp_path / "file").touch()
    code, line = refused(output=tmp_path / "file" / "a.mp4")
    assert (code, line) == (
        1,
        "file/a.mp4 cannot be written: Not a directory. Check the name and the folder",
    )


def test_unwritable_folder(diagd, tiny, tmp_path):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # needs no ffmpeg, which nobody may be unable to run
        write_png(folder / "still.png", moving(1)[0])
        (folder / "tiny.yaml").write_text(
            tiny.preset.read_text().replace("  least: 2", "  least: 1")
        )
        for path in (*folder.iterdir(), folder):
            path.chmod(0o555)
        arguments = ["generate", folder / "still.png", "-p", folder / "tiny.yaml", "-o"]
        done = diagd(*arguments, tmp_path / "a.mp4", DIAGD_WEIGHTS=str(tiny.folder))
        assert done.code == 0  # and all that is imported has been
        with as_nobody():
            done = diagd(*arguments, folder / "a.mp4")
        message = f"{folder}/a.mp4 cannot be written: the directory {folder} is not writable"
        assert (done.code, done.err) == (
            1,
            f"error: {message}. Choose a folder that you may write to\n",
        )
        assert not (folder / "a.mp4").exists()
        folder.chmod(0o755)


@pytest.fixture
def full_disk(tmp_path):
    """A disk without a free byte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    with small_disk(disk):
        with (disk / "filler").open("wb", buffering=0) as file:
            while True:
                try:
                    file.write(b"x" * 4096)
                except OSError:
                    break
        yield disk


def test_disk_full(diagd, tiny, full_disk):
    done = diagd("generate", tiny.clip, "-p", tiny.preset, "-o", full_disk / "a.mp4")
    message = (
        f"{full_disk}/a.mp4 cannot be written: no space left on device. Free some space, or write "
        "to another disk"
    )
    assert (done.code, done.out, done.err) == (1, "", f"error: {message}\n")
    assert os.listdir(full_disk) == ["filler"]


@pytest.mark.parametrize("stream", [[], ["--stream"]], ids=["", "stream"])
@pytest.mark.parametrize("pages, file", [(1, "a.npz"), (2, "a.json")])
def test_a_disk_that_has_no_room_for_the_last_of_three_files(
    diagd, tiny, full_disk, pages, file, stream
):
    """All of them appear or none does; of those that were there before, none is replaced."""
    options = [
        "-p",
        tiny.preset,
        "-o",
        full_disk / "a.mp4",
        "--save-tokens",
        "--seed",
        1,
        "--force",
        *stream,
    ]
    pages += bool(stream)  # the sidecar of an unfinished stream has one
    os.truncate(full_disk / "filler", os.path.getsize(full_disk / "filler") - pages * 4096)
    done = diagd("generate", tiny.clip, *options)
    message = (
        f"{full_disk}/{file} cannot be written: no space left on device. Free some space, or write "
        "to another disk"
    )
    assert (done.code, done.out, done.err) == (1, "", f"error: {message}\n")
    assert os.listdir(full_disk) == ["filler"]
    old = {"a.mp4": b"", "a.npz": b"", "a.json": b""}
    for name in old:
        (full_disk / name).touch()
    assert diagd("generate", tiny.clip, *options).err == done.err
    (full_disk / "filler").unlink()
    assert {path.name: path.read_bytes() for path in full_disk.iterdir()} == old


def test_disk_full_wherever_it_is_noticed(diagd, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("diagd_cli.preset_files.load_preset", full)
    message = (
        "error: A file cannot be written: no space left on device. Free some space, or write to "
        "another disk\n"
    )
    assert diagd("plan").err == message


def test_file_size_limit(refused, tiny):
    with small_files(8192):
        code, line = refused(tiny.clip, "--frames", 100)
    hint = "The file system or a limit (ulimit -f) allows no larger file: write elsewhere"
    assert (code, line) == (1, f"out/walk.mp4 cannot be written: file too large. {hint}")


def test_nobody_reads_stdout(start):
    reader, writer = os.pipe()
    os.close(reader)
    process = start("presets", "show", "freedoom", stdout=writer)
    os.close(writer)
    assert (process.communicate(timeout=60)[1], process.returncode) == ("", 1)


@pytest.mark.parametrize(
    "command", [["presets", "show", "freedoom"], ["train", "--help"], ["--version"]], ids=" ".join
)
@pytest.mark.parametrize(
    "stdout, reason", [("/dev/full", "no space left on device"), (None, "it is closed")]
)
def test_stdout_takes_nothing(start, command, stdout, reason):
    if stdout and not os.path.exists(stdout):
        pytest.skip(f"needs {stdout}")
    closed = {"stdout": None, "preexec_fn": lambda: os.close(1)}
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open(stdout or os.devnull, "w") as file:
        process = start(*command, env=buffered, **({"stdout": file} if stdout else closed))
        errors = process.communicate(timeout=60)[1]
    hint = "Send it to a file or pipe that can hold it"
    message = f"error: The result cannot be written to stdout: {reason}. {hint}\n"
    assert (process.returncode, errors) == (1, message)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folders of clips."""
    folder = tmp_path_factory.mktemp("made")
    save_clip(folder / "data" / "train" / "a.mp4", moving(6))
    save_clip(folder / "data" / "val" / "b.mp4", moving(7))
    for name in "ab":
        save_clip(folder / "twins" / name / "a.mp4", moving(2))
    return folder


@pytest.fixture
def world(tiny, made, tmp_path, monkeypatch):
    """A folder to work in, with copies of the tiny preset and its clip; its files and what is in
    them.
    """
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    shutil.copytree(tiny.folder, tmp_path / "tiny")
    (tmp_path / "tiny" / "tiny.yaml").write_text(
        tiny.preset.read_text().replace("  least: 2", "  least: 1")
    )
    (
        shutil.copy(tiny.clip, tmp_path / "walk.mp4"),
        shutil.copy(tiny.clip.with_suffix(".jsonl"), tmp_path / "act.json"),
    )
    shutil.copy(tiny.clip.with_suffix(".jsonl"), tmp_path / "results.jsonl")
    shutil.copy(tiny.clip, tmp_path / "results.mp4")
    write_png(tmp_path / "pic.png", moving(1)[0])
    (tmp_path / "text.txt").write_text("a walk")
    (tmp_path / "order.gif").hardlink_to(tmp_path / "tiny" / "tiny.yaml")
    (tmp_path / "link.png").symlink_to("pic.png")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "preset.yaml").symlink_to("../tiny/tiny.yaml")
    monkeypatch.chdir(tmp_path)
    return lambda: {
        str(path): path.read_bytes() for path in sorted(Path().rglob("*")) if path.is_file()
    }


P = "-p tiny/tiny.yaml"
INPUTS = {
    f"generate walk.mp4 {P} --actions act.json -o act.mp4 -f": (
        "The sidecar act.json is an input too: the actions act.json"
    ),
    f"generate pic.png {P} -o walk.mp4 --actions act.json": "",  # no input of this one
    f"generate pic.png walk.mp4 {P} -o . -f": "The output walk.mp4 is an input too",
    f"compare pic.png {P} -o pic.mp4 --sheet -f": "The contact sheet pic.png is an input too",
    f"compare walk.mp4 {P} -o walk.mp4 -f": "The output walk.mp4 is an input too",
    f"attention link.png {P} -o pic.png -f": (
        "The picture pic.png is an input too: the clip link.png"
    ),
    f"plan {P} --animate order.gif -f": (
        "The animation order.gif is an input too: the preset tiny/tiny.yaml"
    ),
    f"bench {P} -o tiny/tokenizer.safetensors -f": (
        "The report tiny/tokenizer.safetensors is an input too: the tokenizer weights"
    ),
    f"bench {P} -o a.png --plot a.png": "a.png would be both the report and the plot",
    f"eval results.mp4 {P} -o .": (
        "The record of results results.jsonl is an input too: the actions results.jsonl"
    ),
    f"sweep walk.mp4 {P} -o s --recommend nll<=+2% --write-preset tiny/tiny.yaml -f": "The new preset tiny/tiny.yaml is an",
    "embed --prompt-file text.txt -o text.txt -f": (
        "The embedding text.txt is an input too: the prompt text.txt"
    ),
    "weights pack tiny/tiny.yaml --out tiny -f": "The packed file tiny/t",
    "vote pack twins/a twins/b -o twins/b/ballot": (
        "twins/b/ballot lies in twins/b, whose videos are read"
    ),
    f"finetune data {P} -o run": "run is the folder of the preset itself",
    f"train transformer data {P} -o run --steps 1": (
        "The run's preset run/preset.yaml is an input too: the preset tiny/tiny.yaml"
    ),
    f"train tokenizer data {P} --init tiny/tiny.yaml -o tiny": (
        "The weights tiny/tokenizer.safetensors is an input too"
    ),
}  # fmt: skip


@pytest.mark.parametrize("command", INPUTS)
def test_no_command_writes_over_what_it_reads(diagd, world, command):
    before = world()
    words = command.split()
    done = diagd(*words, *(["--dry-run"] if words[0] == "generate" else []))
    if not INPUTS[command]:
        assert done.code == 0
        return
    assert (
        done.code == 2
        and done.err.count("\n") == 1
        and done.err.startswith(f"error: {INPUTS[command]}")
    ), done.err
    assert world() == before


@pytest.mark.parametrize(
    "command",
    [
        "generate walk.mp4 {P} -o {no}/a.mp4",
        "compare walk.mp4 {P} -o {no}/a.mp4",
        "attention walk.mp4 {P} -o {no}/a.png",
        "plan {P} --animate {no}/a.gif",
        "bench {P} -o {no}/a.json",
        "bench {P} -o a.json --plot {no}/a.png",
        "eval walk.mp4 {P} -o {no}",
        "eval walk.mp4 {P} --export-vbench {no}",
        "sweep walk.mp4 {P} -o {no}",
        "embed text -o {no}/a.safetensors",
        "weights pack tiny/tiny.yaml --out {no}",
        "weights pull cosmos-4b -q --weights-dir {no}",
        "vote pack twins/a twins/b -o {no}/ballot",
        "record --out {no}",
        "finetune data {P} -o {no}",
        "finetune data {P} --cache {no}",
        "train tokenizer data {P} -o {no}",
        "train transformer data {P} -o {no}",
        "train inverse data {P} -o {no}",
    ],
)
def test_a_folder_that_cannot_be_made_is_told_before_the_work(diagd, world, monkeypatch, command):
    """By every command, before a model is loaded or a frame is read."""
    if not os.path.isdir("/proc/self"):
        pytest.skip("needs a file system that takes no files")
    monkeypatch.setattr("diagd_cli.clip.read.read_video", None)
    monkeypatch.setattr("diagd_cli.weights.load.tensors", None)
    before = world()
    done = diagd(*command.format(P=P, no="/proc/nope").split())
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert (
        done.err.startswith("error: /proc/nope/")
        and "cannot be written: No such file or directory. " in done.err
    )
    assert world() == before


def test_a_slash_makes_a_folder(diagd, world):
    for output, made in (
        ("my.folder/", "my.folder/walk.mp4"),
        ("a.mp4/", "a.mp4/walk.mp4"),
        ("data", "data/walk.mp4"),
    ):
        done = diagd("generate", "walk.mp4", *P.split(), "-o", output, "--dry-run")
        assert done.code == 0 and done.out.startswith(f"walk.mp4 -> {made}: ")
    done = diagd("generate", "walk.mp4", *P.split(), "-o", "my.folder")
    hint = "Name an .mp4 file or a folder, such as my.folder/"
    assert done.err == f"error: -o my.folder does not end in .mp4. {hint}\n" and not os.path.exists(
        "my.folder"
    )
    done = diagd("bench", *P.split(), "-o", "new/")
    assert done.code == 2 and "'new/' is a folder. Name a file" in done.err


@pytest.mark.parametrize("stem, code", [(250, 0), (251, 1)])
def test_the_longest_names(diagd, world, stem, code):
    """A sidecar's name has a byte more than its video's; a clip may have a name beside which
    nothing else could lie.
    """
    shutil.copy("walk.mp4", "b" * 251 + ".mp4")
    done = diagd("generate", "b" * 251 + ".mp4", *P.split(), "-o", "a" * stem + ".mp4")
    assert done.code == code and os.path.exists("a" * stem + ".mp4") == (not code)
    assert (
        not code
        or "a.json cannot be written: file name too long. Choose a shorter name" in done.err
    )


def test_stdout_is_a_file_that_is_read_or_written(start, world):
    for name, message in {
        "a.json": (
            "a.json would be both the sidecar and what stdout is sent to. Choose another output "
            "with -o"
        ),
        "walk.mp4": "walk.mp4, the clip, is what stdout is sent to. Send stdout to another file",
    }.items():
        with open(name, "ab") as stdout:
            before = world()
            process = start(
                "generate",
                "walk.mp4",
                *P.split(),
                "-o",
                "a.mp4",
                "--json",
                "--force",
                stdout=stdout,
            )
            assert process.communicate(timeout=60)[1] == f"error: {message}\n"
        assert world() == before
