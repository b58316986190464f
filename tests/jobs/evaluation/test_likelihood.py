"""NLL of tokens under next-token prediction, against a plain loop that scores one token at a
time.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from diagd_cli.engine.decode import logits
from diagd_cli.errors import UsageError
from diagd_cli.jobs.candidates import check_same_tokens
from diagd_cli.jobs.evaluation import likelihood
from diagd_cli.jobs.evaluation.likelihood import token_nll
from diagd_cli.model.mask import Mask
from diagd_cli.pipeline import Request, load, start_session
from diagd_cli.preset_files import load_preset
from diagd_cli.schedule.decoding import Decoding


@pytest.fixture(scope="module")
def loaded(tiny):
    return load(str(tiny.preset), pixels=False)


def sample(preset, clips, frames, seed=0):
    """Codes int64 [clips, frames, h, w] and actions int64 [clips, frames, 1], drawn at random."""
    rng, grid = np.random.default_rng(seed), preset.grid
    codes = rng.integers(25, size=(clips, frames, grid.h, grid.w))
    return codes, preset.actions.offset + rng.integers(4, size=(clips, frames, 1))


def plain(loaded, codes, actions, known, windows):
    """The scores [new, h, w] of one clip: for every token, a pass over nothing but what is before
    it in its window.
    """
    grid, scores = loaded.preset.grid, []
    for first, start, end in windows:
        for t in range(start, end):
            for i in range(grid.h):
                for j in range(grid.w):
                    ids = grid.flatten(codes[first:end], actions[first:end])
                    place = grid.position(t - first, i, j)
                    row = logits(loaded.transformer, torch.from_numpy(ids[None, :place]))[
                        0, -1, :25
                    ]
                    scores.append(-row.log_softmax(-1)[codes[t, i, j]].item())
    return np.array(scores).reshape(-1, grid.h, grid.w)


@pytest.mark.parametrize("chunk", [512, 4])
def test_against_a_loop_over_prefixes(loaded, monkeypatch, chunk):
    """Six new frames after two: the window of five fills up, then rolls, keeping two frames, with
    what was made.
    """
    monkeypatch.setattr(likelihood, "CHUNK", chunk)
    codes, actions = sample(loaded.preset, 2, 8)
    decoding = loaded.preset.decoding.decoding
    session = start_session(
        loaded, codes[:, :2], [Request(6, decoding, 0, actions=own) for own in actions]
    )
    found = token_nll(session, codes)
    windows = [(0, 2, 5), (3, 5, 8)]
    assert found.shape == (2, 6, 2, 3)
    for n in range(2):
        assert found[n] == pytest.approx(plain(loaded, codes[n], actions[n], 2, windows), abs=1e-4)


def test_a_window_that_slides_against_a_loop_under_its_mask(loaded, monkeypatch):
    """Seven new frames after two, of which five are seen; the cache is reused several times."""
    monkeypatch.setattr(likelihood, "CHUNK", 4)
    codes, actions = sample(loaded.preset, 2, 9)
    grid, requests = (
        loaded.preset.grid,
        [Request(7, Decoding("ntp"), 0, actions=a) for a in actions],
    )
    found = token_nll(start_session(loaded, codes[:, :2], requests), codes, slides=True)
    assert found.shape == (2, 7, 2, 3)
    for n in range(2):
        ids = torch.from_numpy(grid.flatten(codes[n], actions[n])[None])
        places = torch.arange(ids.shape[1])
        frame = places // grid.block
        seen = (places <= places[:, None]) & (frame > frame[:, None] - 5)
        rows = loaded.transformer(ids, places, Mask(visible=seen))[0, :, :25].log_softmax(-1)
        t, i, j = np.indices((7, grid.h, grid.w))
        new = torch.from_numpy(grid.position(2 + t, i, j))
        expected = -rows[new - 1].gather(-1, ids[0, new].unsqueeze(-1)).squeeze(-1)
        assert found[n] == pytest.approx(expected.numpy(), abs=1e-4)


def test_actions_matter(loaded):
    codes, actions = sample(loaded.preset, 1, 4)
    request = Request(2, loaded.preset.decoding.decoding, 0, actions=actions[0])
    other = replace(request, actions=(actions[0] - 24) % 4 + 25)
    scores = [token_nll(start_session(loaded, codes[:, :2], [r]), codes) for r in (request, other)]
    assert not np.allclose(*scores)


def test_base_of_other_tokens(loaded):
    with pytest.raises(
        UsageError, match="The preset freedoom differs from tiny in tokenizer, grid, actions"
    ):
        check_same_tokens(load_preset("freedoom"), loaded.preset)
    check_same_tokens(loaded.preset.model_copy(update={"name": "tuned"}), loaded.preset)
