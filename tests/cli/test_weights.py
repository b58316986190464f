"""diagd weights: what is there, pull, check."""

import errno
import hashlib
import os
import signal

import pytest
import yaml
from hub import Hub, serve

from diagd_cli.preset_files import preset_names


@pytest.fixture
def hub(tiny):
    """A hub that has the weights of the tiny preset."""
    files = {
        role: (tiny.folder / f"{role}.safetensors").read_bytes()
        for role in ("transformer", "tokenizer")
    }
    with serve(
        Hub({"maker/tiny": {f"{role}.bin": content for role, content in files.items()}})
    ) as hub:
        yield hub


@pytest.fixture
def preset(hub, tiny, tmp_path):
    """The tiny preset, its weights to be fetched."""
    settings = yaml.safe_load(tiny.preset.read_text())
    for name, content in hub.files["maker/tiny"].items():
        file = {"file": name, "sha256": hashlib.sha256(content).hexdigest()}
        settings[f"{name[:-4]}_weights"] = {"sources": [{"repo": "maker/tiny", "files": [file]}]}
    path = tmp_path / "remote.yaml"
    path.write_text(yaml.safe_dump({**settings, "name": "remote", "duties": "Be kind."}))
    return path


@pytest.fixture
def machine(hub, tmp_path):
    """Environment of a machine with an empty cache, whose hub this is."""
    gone = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return {**gone, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}


def test_what_is_there(diagd, tmp_path):
    for done in (diagd("weights"), diagd("weights", "list", "--weights-dir", tmp_path)):
        assert (
            done.code == 0 and [line.split()[0] for line in done.out.splitlines()] == preset_names()
        )
        [line] = [line for line in done.out.splitlines() if line.startswith("freedoom ")]
        assert " MB " in line and line.endswith(os.path.join("presets", "freedoom"))
    listed = {facts["name"]: facts for facts in diagd("weights", "--json").objects}
    shipped = listed["freedoom"]
    assert shipped["missing"] == [] and shipped["bytes"] == sum(
        os.path.getsize(file) for file in shipped["files"]
    )


def test_weights_that_are_missing(diagd, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    lines = diagd("weights", "--weights-dir", tmp_path).out.splitlines()
    assert any(
        line.split() == ["cosmos-4b", "missing", "transformer", "and", "tokenizer"]
        for line in lines
    )
    folder = tmp_path / "Cosmos-Predict1-4B"
    folder.mkdir()
    (folder / "model.pt").write_bytes(b"1234")
    [facts] = [
        f
        for f in diagd("weights", "--json", DIAGD_WEIGHTS=str(tmp_path)).objects
        if f["name"] == "cosmos-4b"
    ]
    assert facts == {
        "name": "cosmos-4b", "missing": ["tokenizer"], "files": [str(folder / "model.pt")], "bytes": 4
    }  # fmt: skip


def test_pull_then_check(diagd, hub, preset, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    place = ("--weights-dir", tmp_path / "weights")
    done = diagd("weights", "check", preset, *place)
    assert done.code == 1 and "no transformer.bin of maker/tiny" in done.out

    done = diagd("weights", "pull", preset, *place, HF_ENDPOINT=hub.url)
    paths = [
        str(tmp_path / "weights" / "tiny" / f"{role}.bin") for role in ("transformer", "tokenizer")
    ]
    assert done.code == 0 and done.out.splitlines() == paths
    assert done.err.splitlines()[:2] == ["Licence of remote: Apache-2.0", "Your duties: Be kind."]

    done = diagd("weights", "check", preset, *place)
    assert done.code == 0 and [line.split()[:3] for line in done.out.splitlines()] == [
        [role, subject, "ok"]
        for role in ("transformer", "tokenizer")
        for subject in ("files", "checksum", "content")
    ]
    facts = diagd(
        "weights", "check", preset, "--json", DIAGD_WEIGHTS=str(tmp_path / "weights")
    ).objects[0]
    assert facts["path"] == paths[0] and facts["good"] is True and facts["subject"] == "files"

    with open(paths[1], "ab") as file:
        file.write(b"\0")
    done = diagd("weights", "check", preset, *place)
    assert done.code == 1 and done.out.count(" wrong ") == 2 and done.out.count(" ok ") == 4


def test_results_alone_on_stdout(diagd, hub, preset, tmp_path):
    done = diagd(
        "weights",
        "pull",
        preset,
        "--weights-dir",
        tmp_path,
        "--json",
        "--quiet",
        HF_ENDPOINT=hub.url,
    )
    files = [str(tmp_path / "tiny" / name) for name in ("transformer.bin", "tokenizer.bin")]
    assert done.objects == [{"name": "remote", "files": files}] and done.err == ""


def test_a_failure_is_one_line(diagd, hub, preset, tmp_path):
    hub.gated = {"maker/tiny"}
    done = diagd(
        "weights",
        "pull",
        preset,
        "--weights-dir",
        tmp_path,
        "--token",
        "hf_mine",
        HF_ENDPOINT=hub.url,
    )
    assert done.code == 1 and done.err.splitlines()[-1].startswith(
        "error: maker/tiny is given only to those who"
    )
    assert {token for *_, token in hub.asked} == {"hf_mine"} and "Traceback" not in done.err
    assert diagd("weights", "pull", "no-such").code == 2


def test_interrupted_and_gone_on(start, hub, preset, machine, tmp_path):
    folder = tmp_path / "weights" / "tiny"
    arguments = ("weights", "pull", preset, "--weights-dir", folder.parent)
    hub.stalls = "tokenizer.bin"
    running = start(*arguments, env=machine)
    assert hub.stalled.wait(60)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130 and out == "" and "Traceback" not in err
    assert err.splitlines()[-2:] == [
        "Files that are complete are kept; the same command goes on with the others",
        "error: interrupted; nothing half-written was left",
    ]
    assert [path.name for path in folder.iterdir() if path.is_file()] == ["transformer.bin"]

    hub.stalls = None
    hub.asked.clear()
    again = start(*arguments, env=machine)
    assert again.wait(60) == 0 and hub.sent == ["maker/tiny/tokenizer.bin"]
    assert (folder / "tokenizer.bin").read_bytes() == hub.files["maker/tiny"]["tokenizer.bin"]


def test_pack_and_run(diagd, tiny, tmp_path):
    done = diagd("weights", "pack", tiny.preset, "--out", tmp_path / "small", "--bits", 8)
    assert (done.code, done.out) == (0, f"{tmp_path}/small/preset.yaml\n")
    sizes = [
        os.path.getsize(folder / "transformer.safetensors")
        for folder in (tmp_path / "small", tiny.folder)
    ]
    assert sizes[0] < sizes[1]
    assert (
        diagd(
            "generate", tiny.clip, "-p", tmp_path / "small/preset.yaml", "-o", tmp_path / "out"
        ).code
        == 0
    )


def test_pack_replaces_by_force_only(diagd, tiny, tmp_path):
    def names():
        return sorted(path.name for path in tmp_path.iterdir())

    pack = ("weights", "pack", tiny.preset, "--out", tmp_path)
    (tmp_path / "tokenizer.safetensors").write_text("another's")
    done = diagd(*pack)
    assert (
        done.code == 1 and "tokenizer.safetensors exists already. Choose another name" in done.err
    )
    assert (
        names() == ["tokenizer.safetensors"]
        and (tmp_path / "tokenizer.safetensors").read_text() == "another's"
    )
    assert diagd(*pack, "--force").code == 0
    assert names() == ["preset.yaml", "tokenizer.safetensors", "transformer.safetensors"]
    assert diagd("weights", "check", tmp_path / "preset.yaml").code == 0
    done = diagd(*pack)
    assert done.code == 1 and "preset.yaml exists already" in done.err


def test_pack_that_fails_leaves_the_folder_as_it_was(diagd, tiny, tmp_path, monkeypatch):
    pack = ("weights", "pack", tiny.preset, "--out", tmp_path, "--force")
    assert diagd(*pack).code == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("diagd_cli.weights.load.save_file", full)
    done = diagd(*pack, "--bits", 8)
    assert done.code == 1 and "no space left on device" in done.err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_pack_takes_nothing_but_weights(diagd, tiny, tmp_path):
    """The preset may be a stranger's, and name any file."""
    (tmp_path / "secret.txt").write_text("mine alone")
    settings = yaml.safe_load(tiny.preset.read_text()) | {
        "tokenizer_weights": {"file": str(tmp_path / "secret.txt")}
    }
    (tmp_path / "theirs.yaml").write_text(yaml.safe_dump(settings))
    done = diagd(
        "weights",
        "pack",
        tmp_path / "theirs.yaml",
        "-o",
        tmp_path / "out",
        "--weights-dir",
        tiny.folder,
    )
    assert done.code == 1 and "secret.txt is neither a PyTorch archive nor safetensors" in done.err
    assert not (tmp_path / "out").exists()


def test_pack_of_what_is_not_there(diagd, tiny, tmp_path):
    preset = tmp_path / "gone.yaml"
    preset.write_text(tiny.preset.read_text())
    done = diagd("weights", "pack", preset, "--out", tmp_path / "small", "--bits", 8)
    assert (
        done.code == 1
        and done.err.startswith("error: The t")
        and not (tmp_path / "small/preset.yaml").exists()
    )
    done = diagd("weights", "pack", tiny.preset, "--out", tmp_path / "small", "--bits", 4)
    assert done.code == 2 and "'--bits'" in done.err
