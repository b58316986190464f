"""Checking weights without loading them."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from diagd_cli.model.inverse import InverseDynamics
from diagd_cli.preset_files import load_preset
from diagd_cli.sources import Weights
from diagd_cli.weights.check import check
from diagd_cli.weights.load import load_transformer, save_weights


@pytest.fixture
def preset(tiny, tmp_path):
    """The tiny preset with weights of its own."""
    for path in tiny.folder.iterdir():
        if path.suffix in (".yaml", ".safetensors"):
            shutil.copy(path, tmp_path)
    return load_preset(tmp_path / "tiny.yaml")


def without_checksums(preset):
    weights = {role: {"file": f"{role}.safetensors"} for role in ("transformer", "tokenizer")}
    entries = {f"{role}_weights": entry for role, entry in weights.items()}
    return type(preset).model_validate({**preset.model_dump(), "path": preset.path, **entries})


def change_a_byte(path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def verdicts(preset, folder=None) -> dict:
    return {(finding.role, finding.subject): finding.good for finding in check(preset, folder)}


def told(preset, role, subject, folder=None) -> str:
    return next(f.text for f in check(preset, folder) if (f.role, f.subject) == (role, subject))


def test_weights_that_are_right(preset):
    found = check(preset, None)
    assert [(f.role, f.subject, f.good) for f in found] == [
        (role, subject, True)
        for role in ("transformer", "tokenizer")
        for subject in ("files", "checksum", "content")
    ]
    assert found[0].path == preset.path.parent / "transformer.safetensors" and found[
        0
    ].text.endswith(" kB")
    sha256 = preset.transformer_weights.sources[0].files[0].sha256
    assert found[1].text == f"SHA256 {sha256[:12]} as it should be"


def test_a_missing_file_says_where_it_was_looked_for(preset, tmp_path):
    (tmp_path / "transformer.safetensors").unlink()
    assert (
        verdicts(preset)["transformer", "files"] is False
        and verdicts(preset)["tokenizer", "content"] is True
    )
    assert f"Looked in {tmp_path}" in told(preset, "transformer", "files")
    (tmp_path / "other").mkdir()
    assert f"Looked in {tmp_path / 'other'}, {tmp_path}" in told(
        preset, "transformer", "files", tmp_path / "other"
    )


def test_one_changed_byte(preset, tmp_path):
    path = tmp_path / "transformer.safetensors"
    change_a_byte(path)
    assert (
        verdicts(preset)["transformer", "checksum"] is False
        and verdicts(preset)["transformer", "content"] is True
    )
    assert f"{path} is damaged or another version" in told(preset, "transformer", "checksum")


def test_without_a_checksum_names_and_shapes_are_checked_still(preset, tmp_path):
    preset = without_checksums(preset)
    assert (
        verdicts(preset)["tokenizer", "checksum"] is None
        and verdicts(preset)["tokenizer", "content"] is True
    )
    assert told(preset, "tokenizer", "checksum") == "no checksum known"
    path = tmp_path / "tokenizer.safetensors"
    tensors = load_file(path)
    name = next(iter(tensors))
    save_file({**tensors, name: torch.zeros(3)}, path)
    assert verdicts(preset)["tokenizer", "content"] is False and name in told(
        preset, "tokenizer", "content"
    )
    path.write_bytes(path.read_bytes()[:-100])
    assert verdicts(preset)["tokenizer", "content"] is False


def test_large_files_are_hashed_too(preset, tmp_path, monkeypatch):
    """Where loading would leave it out."""
    for module in ("load", "locate"):
        monkeypatch.setattr(f"diagd_cli.weights.{module}.ALWAYS_VERIFIED", 0)
    path = tmp_path / "transformer.safetensors"
    change_a_byte(path)
    load_transformer(preset)
    assert verdicts(preset)["transformer", "checksum"] is False


def test_inverse_dynamics_are_checked_too(preset, tmp_path):
    preset = preset.model_copy(update={"inverse_weights": Weights.single("inverse.safetensors")})
    assert verdicts(preset)["inverse", "files"] is False
    for actions, good in ((4, True), (5, False)):
        save_weights(tmp_path / "inverse.safetensors", InverseDynamics(actions).state_dict())
        assert verdicts(preset)["inverse", "content"] is good
    shutil.copy(tmp_path / "tokenizer.safetensors", tmp_path / "inverse.safetensors")
    assert "The file belongs to another model" in told(preset, "inverse", "content")
    preset = preset.model_copy(update={"actions": None})
    assert (
        told(preset, "inverse", "content")
        == "The preset tiny has no named actions. Remove inverse_weights from it"
    )


def test_a_preset_without_weights(preset):
    preset = preset.model_copy(update={"tokenizer_weights": None})
    assert verdicts(preset) == {
        ("transformer", s): True for s in ("files", "checksum", "content")
    } | {("tokenizer", "files"): False}
