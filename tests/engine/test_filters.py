"""The nucleus, found among a few of the likeliest tokens or among all of them, is the same."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from diagd_cli.engine import filters
from diagd_cli.engine.filters import keep_top, nucleus


@given(
    st.integers(0, 2**31),
    st.integers(1, 3000),
    st.floats(0.01, 0.999),
    st.booleans(),
    st.floats(0.1, 6),
)
def test_few_tokens_or_all(seed, size, top_p, strict, spread):
    logits = torch.randn(2, 3, size, generator=torch.Generator().manual_seed(seed)) * spread
    kept, ids = nucleus(logits, top_p, strict)
    assert kept.shape == ids.shape and kept.isfinite().any(-1).all()
    assert (kept.diff(dim=-1) <= 0)[kept[..., 1:].isfinite()].all()  # the likeliest first
    ordered, order = logits.double().sort(dim=-1, descending=True)
    likely = ordered.softmax(-1)
    mass = likely.cumsum(-1) - (0 if strict else likely)
    sure = (mass - top_p).abs() > 1e-5  # elsewhere rounding decides
    wanted = mass <= top_p
    wanted[..., 0] = True
    whole = (
        torch.zeros_like(logits, dtype=torch.uint8)
        .scatter_reduce(-1, ids, kept.isfinite().byte(), "amax")
        .gather(-1, order)
        .bool()
    )
    assert torch.equal(whole[sure], wanted[sure])


def test_kept_logits_are_untouched_and_in_their_places():
    logits = torch.randn(4, 500, generator=torch.Generator().manual_seed(0))
    kept = keep_top(logits, top_p=0.7)
    inside = kept.isfinite()
    assert torch.equal(kept[inside], logits[inside]) and 0 < inside.sum() < logits.numel()
    assert (logits[inside].min() > logits[~inside].max()) or inside.any(-1).all()


def test_a_flat_distribution_needs_all():
    """No run of few tokens holds 90 % of the mass: the count grows until it does."""
    kept, ids = nucleus(torch.zeros(1, 2000), 0.9)
    assert 1795 <= kept.isfinite().sum() <= 1805 and ids.shape[-1] == 2000
    assert filters._counts(2000)[0] == 64


@given(st.integers(0, 2**31), st.floats(0.1, 0.95), st.booleans())
def test_nobody_decides_for_another(seed, top_p, strict):
    """A token's nucleus has the same bits alone and beside one that needs many more tokens."""
    logits = torch.randn(1, 5, 1500, generator=torch.Generator().manual_seed(seed)) * 4
    together, ids = nucleus(torch.cat([logits, logits / 100], dim=1), top_p, strict)
    for row in range(5):
        alone, own = nucleus(logits[:, [row]], top_p, strict)
        inside = alone.isfinite()
        count = int(inside.sum())
        assert torch.equal(together[:, row, :count], alone[:, 0, :count])
        assert torch.equal(ids[:, row, :count], own[:, 0, :count])
        assert not together[:, row, count:].isfinite().any()
