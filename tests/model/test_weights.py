"""Weight files: written, found, checked. The messages for bad files are tested in cli/test_bad_input.py."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diagd_cli.config import WeightsFile, load_preset
from diagd_cli.errors import WeightsError
from diagd_cli.model.transformer import initialise
from diagd_cli.model.weights import (
    build_transformer,
    copy_weights,
    fill,
    find_weights,
    load_tokenizer,
    load_transformer,
    save_weights,
    sha256,
)


@pytest.fixture
def model(tiny):
    model = build_transformer(load_preset(tiny.preset))
    initialise(model, seed=1)
    return model


def test_round_trip_keeps_the_values_of_the_stored_precision(tiny, model, tmp_path):
    entry = save_weights(tmp_path / "a.safetensors", model.state_dict())
    assert entry == WeightsFile(file="a.safetensors", sha256=sha256(tmp_path / "a.safetensors"))
    assert {t.dtype for t in load_file(tmp_path / "a.safetensors").values()} == {torch.bfloat16}
    other = build_transformer(load_preset(tiny.preset))
    fill(other, tmp_path / "a.safetensors")
    for name, value in other.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, model.state_dict()[name].bfloat16().float())


def test_same_weights_same_bytes(model, tmp_path):
    a, b = (save_weights(tmp_path / name, model.state_dict()) for name in ("a.safetensors", "b.safetensors"))
    assert a.sha256 == b.sha256


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loaded_for_inference(tiny, dtype):
    preset = load_preset(tiny.preset)
    for loaded in (load_transformer(preset, dtype=dtype), load_tokenizer(preset, dtype=dtype)):
        assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
        assert {p.dtype for p in loaded.parameters()} == {dtype}


def test_the_folder_of_the_variable_comes_first(tiny, tmp_path, monkeypatch):
    preset = load_preset(tiny.preset)
    monkeypatch.setenv("DIAGD_WEIGHTS", str(tmp_path))
    assert find_weights(preset, preset.transformer_weights, "transformer") == tiny.folder / "transformer.safetensors"
    (tmp_path / "transformer.safetensors").write_bytes(b"another")
    with pytest.raises(WeightsError, match=rf"{tmp_path}/transformer.safetensors is damaged or another version"):
        find_weights(preset, preset.transformer_weights, "transformer")


def test_preset_without_weights(tiny):
    with pytest.raises(WeightsError, match="The preset tiny names no transformer weights"):
        load_transformer(load_preset(tiny.preset).model_copy(update={"transformer_weights": None}))


def test_copy(tiny, tmp_path):
    preset = load_preset(tiny.preset)
    entry = copy_weights(preset, preset.tokenizer_weights, "tokenizer", tmp_path)
    assert entry == preset.tokenizer_weights == WeightsFile(file=entry.file, sha256=sha256(tmp_path / entry.file))
    assert copy_weights(preset, preset.tokenizer_weights, "tokenizer", tiny.folder) == entry  # it is there already


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickle_does_not_run(model, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    torch.save({"embed.weight": Trap(tmp_path / "sprung")}, tmp_path / "b.safetensors")
    for name in ("a.safetensors", "b.safetensors"):
        with pytest.raises(WeightsError, match="is not a readable safetensors file"):
            fill(model, tmp_path / name)
    assert not (tmp_path / "sprung").exists()
