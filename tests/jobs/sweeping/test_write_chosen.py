"""A preset with other defaults, written elsewhere: it is valid and finds its weights."""

import shutil

import pytest
import torch

from diagd_cli.jobs.sweeping.preset import write_chosen
from diagd_cli.preset_files import load_preset, preset_folder
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.tokens.sampling import Sampling
from diagd_cli.weights.check import check
from diagd_cli.weights.load import load_transformer

SAMPLING = Sampling(0, temperature=0.5, top_k=3, top_p=0.9)


def sound(preset):
    return all(finding.good for finding in check(preset, None))


def test_a_preset_whose_weights_lie_beside_it(tiny, tmp_path):
    path, old = tmp_path / "a" / "fast.yaml", load_preset(tiny.preset)
    write_chosen(path, old, Decoding("diagd", 2, 3, "above"), SAMPLING)
    new = load_preset(path)
    assert (new.name, new.decoding.decoding) == ("fast", Decoding("diagd", 2, 3, "above"))
    assert (new.decoding.temperature, new.decoding.top_k, new.decoding.top_p) == (0.5, 3, 0.9)
    assert sound(new) and new.transformer_weights.sources[0].files[0].sha256
    # named by their way, not copied
    assert not path.parent.joinpath("transformer.safetensors").exists()
    pairs = zip(load_transformer(old).parameters(), load_transformer(new).parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_weights_of_another_model_beside_the_new_preset_are_not_taken(tiny, tmp_path):
    (tmp_path / "transformer.safetensors").write_bytes(b"another")
    write_chosen(tmp_path / "fast.yaml", load_preset(tiny.preset), Decoding("spatial", 2), SAMPLING)
    assert sound(load_preset(tmp_path / "fast.yaml"))


def test_a_folder_that_was_named(tiny, tmp_path):
    """Weights that were found with --weights-dir are found without it."""
    shutil.copy(tiny.preset, tmp_path / "alone.yaml")
    path = tmp_path / "b" / "fast.yaml"
    write_chosen(
        path, load_preset(tmp_path / "alone.yaml"), Decoding("spatial", 2), SAMPLING, tiny.folder
    )
    assert sound(load_preset(path))


def test_shipped_weights_keep_their_entry(tmp_path):
    old = load_preset("freedoom")
    write_chosen(tmp_path / "fast.yaml", old, Decoding("spatial", 1), SAMPLING)
    new = load_preset(tmp_path / "fast.yaml")
    assert (new.tokenizer_weights, new.inverse_weights) == (
        old.tokenizer_weights,
        old.inverse_weights,
    )
    assert sound(new) and str(preset_folder()) not in (tmp_path / "fast.yaml").read_text()


@pytest.mark.parametrize(
    "decoding, wanted",
    [
        (Decoding("ntp", 3, 6), Decoding("ntp", 1, 2)),
        (Decoding("spatial", 2, 5, "newest"), Decoding("spatial", 2, 2, "newest")),
        (Decoding("zipar", 3, 5, "above"), Decoding("zipar", 3, 2)),
    ],
)
def test_what_a_method_does_not_use_stays(tiny, tmp_path, decoding, wanted):
    write_chosen(tmp_path / "fast.yaml", load_preset(tiny.preset), decoding, SAMPLING)
    assert load_preset(tmp_path / "fast.yaml").decoding.decoding == wanted
