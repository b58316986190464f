"""Whatever form a mask has, an attention reads what it says and nothing else."""

from dataclasses import FrozenInstanceError

import pytest
import torch

from diagd_cli.model.attention import attend
from diagd_cli.model.mask import CAUSAL, EVERYTHING, Mask


def drawn(kv_heads, queries=6, keys=6):
    generator = torch.Generator().manual_seed(kv_heads)
    sizes = (4, queries), (kv_heads, keys), (kv_heads, keys)
    return [torch.randn(2, heads, count, 8, generator=generator) for heads, count in sizes]


def by_hand(q, k, v, visible):
    """Softmax over the visible keys alone, of one query and one head after the other."""
    out, group = torch.empty_like(q), q.shape[1] // k.shape[1]
    for b, h, n in torch.cartesian_prod(*map(torch.arange, q.shape[:3])).tolist():
        keys, values = k[b, h // group, visible[n]], v[b, h // group, visible[n]]
        out[b, h, n] = (keys @ q[b, h, n] / 8**0.5).softmax(0) @ values
    return out


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_what_is_seen(kv_heads):
    q, k, v = drawn(kv_heads)
    every = torch.ones(6, 6, dtype=torch.bool)
    odd = (
        every.tril() & (torch.rand(6, 6, generator=torch.Generator().manual_seed(1)) > 0.5)
        | torch.eye(6).bool()
    )
    masks = [
        (CAUSAL, every.tril()),
        (EVERYTHING, every),
        (Mask(visible=odd), odd),
        (Mask(visible=every), every),
    ]
    for mask, visible in masks:
        torch.testing.assert_close(attend(q, k, v, mask), by_hand(q, k, v, visible))


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_a_matrix_is_laid_out_once_for_all_layers(kv_heads):
    q, k, v = drawn(kv_heads, queries=3)
    mask = Mask(visible=torch.arange(6) <= torch.tensor([[5], [1], [3]]))
    ready = mask.laid_out(4 // kv_heads, q.dtype)
    assert (
        ready.bias.shape == (4 // kv_heads * 3, 6)
        and ready.laid_out(4 // kv_heads, q.dtype) is ready
    )
    assert torch.equal(attend(q, k, v, ready), attend(q, k, v, mask))
    torch.testing.assert_close(attend(q, k, v, ready), by_hand(q, k, v, mask.visible))


def test_a_mask_stays_what_it_is():
    assert (
        CAUSAL.laid_out(2, torch.float32) is CAUSAL
        and EVERYTHING.laid_out(2, torch.float32) is EVERYTHING
    )
    with pytest.raises(FrozenInstanceError):
        CAUSAL.causal = False
