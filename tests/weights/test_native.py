"""Weights to give away: a preset's in one folder, and matrices in 8 bits."""

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from diagd_cli.errors import WeightsError
from diagd_cli.preset_files import load_preset
from diagd_cli.weights.load import load_tokenizer, load_transformer, tensors
from diagd_cli.weights.native import SCALE, in_8_bits
from diagd_cli.weights.pack import pack


@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 40), st.floats(-30, 30))
def test_an_element_is_off_by_half_a_scale_at_most(seed, rows, columns, exponent):
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 2**exponent
    stored = in_8_bits({"a": matrix})
    read = stored["a"].float() * stored["a" + SCALE]
    assert stored["a"].dtype == torch.int8 and stored["a" + SCALE].shape == (rows, 1)
    assert ((read - matrix).abs() <= 0.5001 * stored["a" + SCALE]).all()


def test_a_row_of_zeros_stays_one():
    stored = in_8_bits({"a": torch.zeros(2, 3), "norm": torch.ones(3)})
    assert not stored["a"].any() and torch.equal(stored["norm"], torch.ones(3))


@pytest.fixture
def small(tiny, tmp_path):
    """The tiny preset in 8 bits."""
    return load_preset(pack(load_preset(tiny.preset), tmp_path / "small", bits=8))


def test_in_8_bits_it_is_nearly_the_same_model(tiny, small):
    whole, packed = load_transformer(load_preset(tiny.preset)), load_transformer(small)
    for name, value in whole.state_dict().items():
        step = value.abs().amax(-1, keepdim=True) / 127
        assert ((packed.state_dict()[name] - value).abs() <= 0.51 * step).all()
    sequence = torch.arange(14)[None]
    a, b = (model(sequence, torch.arange(14)).softmax(-1) for model in (whole, packed))
    assert 0 < (a - b).abs().max() < 0.2
    codec = zip(
        *(load_tokenizer(p).state_dict().items() for p in (load_preset(tiny.preset), small)),
        strict=True,
    )
    assert all(torch.equal(a, b) for (_, a), (_, b) in codec)


def test_matrices_of_8_bits_are_loaded_as_they_are_where_8_bits_are_asked_for(small):
    stored = load_file(small.path.parent / "transformer.safetensors")
    own = load_transformer(small, weights="int8").state_dict()
    held = [name for name in own if name.endswith(".scale")]
    assert len(held) == 4 * small.transformer.layers
    for name in held:
        weight = name.replace("scale", "weight")
        assert torch.equal(own[weight], stored[weight])
        assert torch.equal(own[name], stored[weight + SCALE])


def test_a_copy_has_the_same_files(tiny, tmp_path):
    pack(load_preset(tiny.preset), tmp_path / "copy")
    for name in ("tokenizer.safetensors", "transformer.safetensors"):
        assert (tmp_path / "copy" / name).read_bytes() == (tiny.folder / name).read_bytes()
    read = yaml.safe_load((tmp_path / "copy" / "preset.yaml").read_text())
    assert read["name"] == "tiny" and {p.name for p in (tmp_path / "copy").iterdir()} == {
        "preset.yaml", "tokenizer.safetensors", "transformer.safetensors"
    }  # fmt: skip


CHANGES = {
    "a scale that belongs to no matrix": lambda w: w | {"head.weight": w["head.weight"].float()},
    "a scale that belongs": lambda w: w | {"head.weight.scale": torch.ones(1, 1)},
    "torch.int8, not floating-point": lambda w: {
        k: v for k, v in w.items() if k != "head.weight.scale"
    },
    "head.weight is (25, 8)": lambda w: w | {"head.weight": w["head.weight"][:, :8].contiguous()},
    "which the preset's model has not": lambda w: w | {"other.scale": torch.ones(1, 1)},
}


@pytest.mark.parametrize("message", CHANGES)
def test_scales_that_do_not_fit_are_refused(small, tmp_path, message):
    path = tmp_path / "small" / "transformer.safetensors"
    save_file(CHANGES[message](load_file(path)), tmp_path / "bad.safetensors")
    with pytest.raises(WeightsError) as caught:
        tensors(small, "transformer", [tmp_path / "bad.safetensors"])
    assert message in str(caught.value)
