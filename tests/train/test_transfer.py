"""--init: a Transformer begins with another preset's, whose codes may be others."""

import numpy as np
import pytest
import torch
import yaml
from tiny import TINY

from diagd_cli.errors import PresetError
from diagd_cli.model.transformer import initialise
from diagd_cli.pipeline import Loaded
from diagd_cli.preset_files import load_preset
from diagd_cli.train.transfer import check_alike, count_pairs, transfer
from diagd_cli.weights.load import build_transformer, load_tokenizer, load_transformer

CODES, ACTIONS = 25, 4


@pytest.fixture
def source(tiny):
    preset = load_preset(tiny.preset)
    codec, transformer = load_tokenizer(preset), load_transformer(preset)
    return Loaded(preset, codec, transformer, torch.device("cpu"), torch.float32, 0.0)


@pytest.fixture
def empty(source):
    """A Transformer of the same shape whose matrices are zero."""
    model = build_transformer(source.preset)
    initialise(model, seed=1, std=0.0)
    return model


def logits(model, sequence):
    with torch.inference_mode():
        return model(sequence, torch.arange(sequence.shape[1]))


def sequences(seed=0):
    """Two windows of two latent frames: 2x3 codes and an action each."""
    rng = np.random.default_rng(seed)
    frames = [
        np.c_[rng.integers(CODES, size=(2, 6)), CODES + rng.integers(ACTIONS, size=2)]
        for _ in range(2)
    ]
    return torch.from_numpy(np.concatenate(frames, 1))


def test_the_same_codes_make_the_same_model(source, empty):
    transfer(empty, source.preset, source.transformer.state_dict(), source.preset)
    assert torch.equal(logits(empty, sequences()), logits(source.transformer, sequences()))


def test_codes_that_were_renamed(source, empty):
    """Code n of the source is called order[n] now: the logits are the source's, under their new
    names.
    """
    order = torch.randperm(CODES, generator=torch.Generator().manual_seed(0))
    counts = torch.zeros(CODES, CODES)
    counts[order, torch.arange(CODES)] = 1e6
    transfer(empty, source.preset, source.transformer.state_dict(), source.preset, counts)
    old = sequences()
    new = torch.where(old < CODES, order[old.clamp(max=CODES - 1)], old)
    expected = logits(source.transformer, old)
    assert (
        torch.allclose(logits(empty, new)[..., order], expected, atol=1e-3) and expected.std() > 0.1
    )


def test_a_code_that_was_never_seen_is_the_mean_code(source, empty):
    weights = source.transformer.state_dict()
    counts = torch.eye(CODES) * 8
    counts[7] = 0
    transfer(empty, source.preset, weights, source.preset, counts)
    rest = torch.arange(CODES) != 7
    mean = weights["embed.weight"][:CODES][rest].mean(0)
    assert torch.allclose(empty.state_dict()["embed.weight"][7], mean, atol=1e-5)


def test_what_codes_begin_with_tells_them_apart(source):
    """Two codes that stand for the same patches would otherwise be one for ever."""
    model = build_transformer(source.preset)
    initialise(model, seed=1)
    transfer(
        model,
        source.preset,
        source.transformer.state_dict(),
        source.preset,
        torch.ones(CODES, CODES),
    )
    first, second = model.state_dict()["embed.weight"][:2]
    assert not torch.allclose(first, second)


def test_pairs_of_a_tokenizer_with_itself(source, tiny):
    counts = count_pairs([tiny.clip], source, source)
    assert counts.sum() == 8 * 2 * 3 and torch.equal(counts, torch.diag(counts.diag()))


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("transformer", "mlp_dim", 32, "mlp_dim 32, not 16"),
        ("clip", "width", 32, "w 4, not 3"),
    ],
)
def test_other_transformers_and_grids_are_refused(source, tmp_path, part, key, value, message):
    raw = yaml.safe_load(TINY)
    raw[part][key] = value
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(PresetError, match=f"tiny cannot start from tiny: it has {message}"):
        check_alike(load_preset(tmp_path / "other.yaml"), source.preset)
