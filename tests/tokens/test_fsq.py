"""Finite scalar quantisation."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diagd_cli.tokens.fsq import FSQ

COSMOS = (8, 8, 8, 5, 5, 5)
# Where z changes digits, to five places.
THRESHOLDS = {
    8: [-1.42295, -0.79249, -0.43728, -0.14370, 0.14989, 0.50510, 1.13556],
    5: [-0.97124, -0.25515, 0.25515, 0.97124],
}


@pytest.mark.parametrize("levels", [(5, 5), (8, 8, 5, 5), (2, 3), (4,)])
def test_every_code_round_trips(levels):
    fsq = FSQ(levels)
    indices = torch.arange(fsq.size)
    codes = fsq.codes(indices)
    assert codes.shape == (fsq.size, len(levels)) and codes.abs().max() <= 1
    assert len(codes.unique(dim=0)) == fsq.size
    digits = codes * fsq.middle
    # a latent that lies on its code
    z = torch.atanh((digits + fsq.offset) / fsq.halfwidth) - fsq.shift
    assert (fsq.indices(z) == indices).all()
    assert torch.allclose(fsq.quantise(z), codes)


def test_all_64000_codes_of_cosmos_round_trip():
    fsq = FSQ(COSMOS)
    indices = torch.arange(fsq.size)
    digits = ((fsq.codes(indices) * fsq.middle).round() + fsq.middle).long()
    assert fsq.size == 64_000 and ((digits * fsq.basis).sum(-1) == indices).all()
    # the first channel is the least significant digit
    assert fsq.basis.tolist() == [1, 8, 64, 512, 2560, 12800]


def test_index_of_the_zero_code_of_cosmos():
    fsq = FSQ(COSMOS)
    assert fsq.codes(torch.tensor(32036)).tolist() == [0] * 6
    assert fsq.indices(torch.zeros(6)).item() == 32036


@pytest.mark.parametrize("level", THRESHOLDS)
def test_thresholds(level):
    fsq = FSQ((level,))
    for digit, threshold in enumerate(THRESHOLDS[level]):
        below, above = fsq.indices(torch.tensor([[threshold - 2e-5], [threshold + 2e-5]])).tolist()
        assert (below, above) == (digit, digit + 1)
    assert fsq.indices(torch.tensor([[-1e4], [1e4]])).tolist() == [0, level - 1]


@given(st.lists(st.floats(-5, 5), min_size=4, max_size=4))
def test_quantise_is_the_code_of_the_index(z):
    fsq, z = FSQ((8, 8, 5, 5)), torch.tensor(z)
    assert torch.allclose(fsq.quantise(z), fsq.codes(fsq.indices(z)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_casting_the_module_leaves_its_tables_exact(dtype):
    """Rounded to bfloat16 they would give other indices to 0.9 % of all latents."""
    exact, cast = FSQ(COSMOS), FSQ(COSMOS).to(dtype)
    assert [t.dtype for t in cast.buffers()] == [t.dtype for t in exact.buffers()]
    assert all(torch.equal(a, b) for a, b in zip(cast.buffers(), exact.buffers(), strict=True))
    z = torch.randn(20_000, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(cast.indices(z), exact.indices(z))
    assert all(t.is_meta for t in cast.to("meta").buffers())  # they still move


def test_gradient_passes_straight_through():
    z = torch.linspace(-1, 1, 8).view(2, 4).requires_grad_()
    FSQ((8, 8, 5, 5)).quantise(z).sum().backward()
    assert (z.grad > 0).all()
