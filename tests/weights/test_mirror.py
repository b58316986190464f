"""Weights behind a URL: fetched once for each machine, and only if they are the preset's."""

import shutil
from pathlib import Path

import fsspec
import pytest

from diagd_cli.errors import WeightsError
from diagd_cli.files.url import place
from diagd_cli.preset_files import load_preset
from diagd_cli.sources import Weights
from diagd_cli.weights.locate import mirror
from diagd_cli.weights.mirror import fetch_missing

SHELF = "memory://weights/tiny"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIAGD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def memory(tiny):
    """The tiny preset's weights, behind a URL."""
    store = fsspec.filesystem("memory")
    for role in ("transformer", "tokenizer"):
        path = tiny.folder / f"{role}.safetensors"
        store.pipe_file(f"{SHELF}/{path.name}", path.read_bytes())
    yield store
    store.store.clear()
    store.pseudo_dirs[:] = [""]


@pytest.fixture
def alone(tiny, tmp_path):
    """The tiny preset without its weights."""
    (tmp_path / "preset").mkdir()
    return Path(shutil.copy(tiny.preset, tmp_path / "preset"))


def files(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_preset_runs_by_weights_behind_a_url(diagd, tiny, alone, cache, memory, tmp_path):
    """Those that were fetched serve when the store is gone."""
    options = ("--seed", 1, "--dtype", "float32")
    diagd("generate", tiny.clip, "-p", tiny.preset, "-o", tmp_path / "here/", *options)
    given = ("--weights-dir", SHELF, "-p", alone)
    done = diagd("generate", tiny.clip, *given, "-o", tmp_path / "there/", *options)
    assert done.code == 0, done.err
    assert files(cache) == ["tokenizer.safetensors", "transformer.safetensors"]
    assert files(mirror(place(SHELF))) == files(cache)
    memory.store.clear()
    again = diagd("generate", tiny.clip, *given, "-o", tmp_path / "again/", *options)
    assert again.code == 0
    one, *others = (
        (tmp_path / name / "walk.mp4").read_bytes() for name in ("here", "there", "again")
    )
    assert others == [one, one]


def test_other_weights_are_refused_before_they_have_a_name(alone, cache, memory):
    memory.pipe_file(f"{SHELF}/transformer.safetensors", b"others")
    told = r"memory://weights/tiny/transformer\.safetensors is damaged or another version: SHA-256"
    with pytest.raises(WeightsError, match=told):
        fetch_missing(load_preset(alone), place(SHELF))
    assert files(cache) == []


def test_what_is_not_there_is_told(diagd, tiny, alone, cache, memory, tmp_path):
    memory.rm_file(f"{SHELF}/tokenizer.safetensors")
    options = ("-p", alone, "-o", tmp_path / "out/", "--weights-dir", SHELF)
    done = diagd("generate", tiny.clip, *options)
    assert done.code == 1 and not (tmp_path / "out").exists()
    told = (
        f"error: The tokenizer weights of tiny are missing: no tokenizer.safetensors is in {SHELF}"
    )
    assert done.err.startswith(told)
    shutil.copy(tiny.folder / "tokenizer.safetensors", alone.parent)  # where it is looked for else
    assert diagd("generate", tiny.clip, *options).code == 0


@pytest.mark.parametrize("name", ["../other/a.safetensors", "/a.safetensors", "c:a", "x\\a"])
def test_a_preset_leads_nowhere_else(alone, cache, memory, name):
    """A name that is not one below the folder is neither asked for nor written."""
    memory.pipe_file("memory://weights/other/a.safetensors", b"another's")
    weights = Weights.single(name)
    preset = load_preset(alone).model_copy(update={"tokenizer_weights": weights})
    with pytest.raises(WeightsError, match="are missing"):
        fetch_missing(preset, place(SHELF))
    assert files(cache) == ["transformer.safetensors"]


def test_a_preset_that_names_urls_is_pulled_and_only_then(
    diagd, tiny, alone, cache, memory, tmp_path
):
    """A stranger's preset opens no connection by being run."""
    for role in ("transformer", "tokenizer"):
        text, name = alone.read_text(), f"{role}.safetensors"
        alone.write_text(text.replace(f"file: {name}", f"file: {SHELF}/{name}"))
    options = ("generate", tiny.clip, "-p", alone, "-o", tmp_path / "out/")
    done = diagd(*options)
    assert done.code == 1 and files(cache) == []
    assert f"no {SHELF}/tokenizer.safetensors" in done.err
    assert f"diagd weights pull {alone}" in done.err
    pulled = diagd("weights", "pull", alone)
    assert pulled.code == 0 and f"Fetching {SHELF}/tokenizer.safetensors" in pulled.err
    assert len(pulled.out.splitlines()) == 2 and len(files(cache)) == 2
    assert "Fetching" not in diagd("weights", "pull", alone).err
    assert diagd(*options).code == 0
    folder = tmp_path / "folder"
    assert (
        diagd(
            "weights", "pull", alone, "--weights-dir", folder, DIAGD_CACHE=str(tmp_path / "new")
        ).code
        == 0
    )
    assert files(folder) == files(cache)


def test_a_chain_is_no_preset(diagd, alone):
    alone.write_text(alone.read_text().replace("file: tok", "file: zip://x::s3://me:secret@b/tok"))
    done = diagd("presets", "check", alone)
    assert done.code == 2 and "chain of URLs" in done.err and "secret" not in done.err
