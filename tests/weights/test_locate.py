"""Where weight files are looked for, which source is taken, and what tells a file from another."""

import hashlib
from pathlib import Path

import pytest

from diagd_cli.errors import WeightsError
from diagd_cli.preset_files import load_preset, preset_folder
from diagd_cli.sources import WeightsFile
from diagd_cli.weights import locate as module
from diagd_cli.weights.locate import locate, locate_all, verify, weights_folders


@pytest.fixture(autouse=True)
def _no_hub_cache(tmp_path, monkeypatch):
    """The cache of huggingface_hub is that of a fresh machine."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def preset_with(folder: Path, tiny, *sources: dict):
    """The tiny preset in a folder of its own, with these sources of a tokenizer."""
    preset = load_preset(tiny.preset)
    entry = {"format": "cosmos", "sources": sources}
    return type(preset).model_validate(
        {**preset.model_dump(), "tokenizer_weights": entry, "path": folder / "preset.yaml"}
    )


def pair(repo: str = "") -> dict:
    return {"repo": repo, "files": [{"file": "encoder.jit"}, {"file": "sub/decoder.jit"}]}


def put(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)


def test_folders_in_their_order(tiny, tmp_path, monkeypatch):
    preset = load_preset(tiny.preset)
    assert weights_folders(preset) == [tiny.folder, preset_folder()]
    monkeypatch.setenv("DIAGD_WEIGHTS", str(tmp_path))
    assert weights_folders(preset) == [tmp_path, tiny.folder, preset_folder()]
    assert weights_folders(preset, tmp_path / "chosen") == [
        tmp_path / "chosen",
        tiny.folder,
        preset_folder(),
    ]


@pytest.mark.parametrize("below", ["", "Tokenizer", "maker/Tokenizer"])
def test_files_by_name_and_below_the_name_of_their_repository(tiny, tmp_path, below):
    preset = preset_with(tmp_path, tiny, pair("maker/Tokenizer"))
    paths = [tmp_path / "chosen" / below / name for name in ("encoder.jit", "sub/decoder.jit")]
    put(*paths)
    assert locate(preset, "tokenizer", tmp_path / "chosen") == (
        preset.tokenizer_weights.sources[0],
        paths,
    )


def test_the_files_of_a_source_may_lie_in_different_folders(tiny, tmp_path):
    preset = preset_with(tmp_path, tiny, pair())
    put(tmp_path / "encoder.jit", tmp_path / "chosen" / "sub/decoder.jit")
    _, paths = locate(preset, "tokenizer", tmp_path / "chosen")
    assert paths == [tmp_path / "encoder.jit", tmp_path / "chosen" / "sub/decoder.jit"]


def test_the_first_source_that_is_whole(tiny, tmp_path):
    preset = preset_with(tmp_path, tiny, pair(), {"files": [{"file": "autoencoder.jit"}]})
    put(tmp_path / "encoder.jit", tmp_path / "autoencoder.jit")
    assert locate(preset, "tokenizer")[1] == [tmp_path / "autoencoder.jit"]
    put(tmp_path / "sub/decoder.jit")
    assert locate(preset, "tokenizer")[1] == [
        tmp_path / "encoder.jit",
        tmp_path / "sub/decoder.jit",
    ]


def test_files_in_the_cache_of_the_hub(tiny, tmp_path):
    preset = preset_with(tmp_path, tiny, pair("maker/Tokenizer"))
    folder = tmp_path / "hub" / "models--maker--Tokenizer"
    put(*(folder / "snapshots" / "1234" / name for name in ("encoder.jit", "sub/decoder.jit")))
    put(folder / "refs" / "main")
    (folder / "refs" / "main").write_text("1234")
    assert [path.name for path in locate(preset, "tokenizer")[1]] == ["encoder.jit", "decoder.jit"]


def test_what_is_missing_is_named_for_the_source_that_has_most(tiny, tmp_path):
    preset = preset_with(tmp_path, tiny, {"files": [{"file": "a.jit"}]}, pair("maker/Tokenizer"))
    put(tmp_path / "encoder.jit")
    with pytest.raises(WeightsError) as caught:
        locate(preset, "tokenizer")
    assert caught.value.message.endswith("are missing: no sub/decoder.jit of maker/Tokenizer")
    assert (
        f"Looked in {tmp_path}, " in caught.value.hint
        and f"diagd weights pull {preset.path}" in caught.value.hint
    )


def test_what_somebody_must_know_who_fetches_them():
    """Page, licence, the command, and where a licence is to be accepted: also of another part."""

    def hint(name: str) -> str:
        with pytest.raises(WeightsError) as caught:
            locate_all(load_preset(name))
        return caught.value.hint

    assert hint("wham-200m").partition("; ")[2] == (
        "fetch them with: diagd weights pull wham-200m (from https://huggingface.co/microsoft/wham; "
        "licence: Microsoft Research License, non-commercial research only; weights may not be "
        "passed on); or name their folder with --weights-dir or DIAGD_WEIGHTS"
    )
    gate = "https://huggingface.co/nvidia/Cosmos-1.0-Tokenizer-DV8x16x16, and log in: hf auth login"
    assert f"; first accept the licence at {gate}); or name" in hint("simplear-0.5b")
    assert "no longer has them, since May 2025 (licence: MIT); if you have" in hint(
        "mineworld-700m"
    )
    assert "(from https://github.com/valeoai/VideoActionModel/releases/tag/v1.0.0; " in hint(
        "vavim-l"
    )


def test_where_else_missing_files_are_is_told(tiny, tmp_path):
    """Of a source that the hub does not have."""
    place = "https://example.com/files, in two parts"
    preset = preset_with(tmp_path, tiny, pair() | {"where": place})
    with pytest.raises(WeightsError) as caught:
        locate(preset, "tokenizer", tmp_path)
    wanted = f"; download them from {place}; and name their folder with --weights-dir or DIAGD_W"
    assert wanted in caught.value.hint


@pytest.mark.parametrize("kind, name", [("sha256", "SHA-256"), ("md5", "MD5")])
def test_checksums(tmp_path, kind, name):
    path = tmp_path / "a"
    path.write_text("weights")
    verify(path, WeightsFile(file="a"))
    verify(path, WeightsFile(file="a", **{kind: hashlib.new(kind, b"weights").hexdigest()}))
    wrong = "0" * hashlib.new(kind).digest_size * 2
    seen = hashlib.new(kind, b"weights").hexdigest()[:12]
    with pytest.raises(WeightsError, match=f"{name} {seen}, where the preset says 000000000000"):
        verify(path, WeightsFile(file="a", **{kind: wrong}))


def test_a_file_is_hashed_in_parts(tmp_path):
    (tmp_path / "a").write_bytes(bytes(3_000_000))
    assert module.digest(tmp_path / "a") == hashlib.sha256(bytes(3_000_000)).hexdigest()
