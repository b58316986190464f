"""A draw by one kernel is the sampler's: on a GPU where there is one, else in Triton's interpreter."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # which Triton reads when a kernel is defined
pytest.importorskip("triton")

from diagd_cli.engine import draw
from diagd_cli.engine.sample import Sampler, Sampling

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TARGETS = 17 * torch.arange(3, device=DEVICE)


@pytest.mark.parametrize("temperature", [0.05, 0.9])
@pytest.mark.parametrize("rule", ["nucleus", "strict"])
@pytest.mark.parametrize("top_p", [0.3, 0.9, 1.0])
def test_a_draw(top_p, rule, temperature, monkeypatch):
    codes = 300
    monkeypatch.setattr(draw, "BLOCK", 128)  # more ids than are looked at together
    torch.manual_seed(codes)
    logits = 3 * torch.randn(2, len(TARGETS), codes + 3, device=DEVICE)
    sampling = Sampling(codes, temperature=temperature, top_p=top_p, top_p_rule=rule)
    sampler = Sampler(sampling, [3, 4], device=DEVICE)
    own = draw.draw(
        logits[..., :codes], sampler._keys(TARGETS), temperature, top_p, rule == "strict"
    )
    assert torch.equal(own, sampler.by_scores(logits, TARGETS))


def test_equal_logits_are_in_a_nucleus_together():
    """Two of 0.4 each, and one of 0.2: either of the two is enough for 0.3."""
    sampler = Sampler(Sampling(3), list(range(12)), device=DEVICE)
    logits = torch.tensor([0.2, 0.4, 0.4], device=DEVICE).log().expand(12, 1, 3)
    keys = sampler._keys(TARGETS[:1])
    assert set(draw.draw(logits, keys, 1.0, 0.3).unique().tolist()) == {1, 2}


def test_barred_ids_are_never_drawn():
    logits = torch.zeros(1, len(TARGETS), 64, device=DEVICE)
    logits[..., :60] = -torch.inf
    keys = Sampler(Sampling(64), [0], device=DEVICE)._keys(TARGETS)
    for top_p in (0.5, 1.0):
        assert (draw.draw(logits, keys, 1.0, top_p) >= 60).all()
