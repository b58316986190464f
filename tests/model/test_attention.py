"""Attention by two products, which bfloat16 takes on some processors, is attention."""

import pytest
import torch
from strategies import WIDE, WIDE_WORLD, build_model, random_sequences, stepped_logits

from diagd_cli.engine.forced import forced_logits
from diagd_cli.engine.steps import BLOCK
from diagd_cli.model import attention
from diagd_cli.model.attention import attend, by_products, suits_products
from diagd_cli.model.mask import EVERYTHING, Mask


@pytest.fixture
def multiplies(monkeypatch):
    """As on a processor that multiplies bfloat16."""
    monkeypatch.setattr(attention, "packs_bfloat16", lambda: True)


@pytest.mark.parametrize("heads, kv_heads", [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("batch, tokens, slots", [(1, 1, 40), (1, 13, 200), (3, 7, 64)])
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_as_close_as_bfloat16_can_be(
    heads, kv_heads, batch, tokens, slots, masked, multiplies
):
    torch.manual_seed(slots)
    q = torch.randn(batch, heads, tokens, 16)
    k, v = (torch.randn(batch, kv_heads, slots, 16) for _ in range(2))
    visible = torch.rand(tokens, slots) < 0.7
    visible[:, 0] = True
    mask = Mask(visible=visible) if masked else EVERYTHING
    half = [each.bfloat16() for each in (q, k, v)]
    exact = attend(*(each.double() for each in half), mask)
    with torch.inference_mode():
        assert suits_products(half[0])
        seen = attend(*half, mask)
    assert seen.dtype == torch.bfloat16 and seen.shape == q.shape
    # scores of some 4 are rounded to a part in 2^8 of them, the weights and their sum to as much
    torch.testing.assert_close(seen.double(), exact, atol=0.03, rtol=0.02)


def test_a_cache_is_read_where_it_lies(multiplies, monkeypatch):
    """Its first slots, of several clips: no copy is made of them."""
    store = torch.randn(2, 3, 50, 16).bfloat16()
    part, read = store[:, :, :20], []
    whole = torch.baddbmm

    def watched(added, rows, keys, **rest):
        read.append(keys.untyped_storage().data_ptr())
        return whole(added, rows, keys, **rest)

    monkeypatch.setattr(torch, "baddbmm", watched)
    with torch.inference_mode():
        attend(torch.randn(2, 3, 4, 16).bfloat16(), part, part, EVERYTHING)
    assert read == [store.untyped_storage().data_ptr()]


def test_only_bfloat16_of_few_tokens_takes_it(multiplies):
    with torch.inference_mode():
        assert suits_products(torch.zeros(1, 2, attention.FEW, 8).bfloat16())
        assert not suits_products(torch.zeros(1, 2, attention.FEW + 1, 8).bfloat16())
        assert not suits_products(torch.zeros(1, 2, 4, 8))
    assert not suits_products(torch.zeros(1, 2, 4, 8).bfloat16())  # a gradient may be wanted


def test_p2_holds_by_it(multiplies, monkeypatch):
    """Cached steps, and one masked pass by PyTorch's own kernel."""
    model = build_model(WIDE, WIDE_WORLD.grid, 4, seed=0).bfloat16()
    truth = random_sequences(WIDE_WORLD, WIDE, seed=0)
    with torch.inference_mode():
        stepped = stepped_logits(model, WIDE_WORLD, truth).float()
        monkeypatch.setattr(attention, "packs_bfloat16", lambda: False)
        whole = forced_logits(model, truth, WIDE_WORLD.plan()).float()
    assert (stepped - whole).abs().max() < 0.15 * whole.std()
    assert (stepped - whole).abs().mean() < 0.02 * whole.std()


def test_without_a_mask_everything_is_seen():
    q = torch.randn(1, 2, 3, 8)
    torch.testing.assert_close(
        by_products(q, q, q, None), torch.nn.functional.scaled_dot_product_attention(q, q, q)
    )


@pytest.mark.parametrize("kernel", ["causal", "masked", "products"])
def test_a_scale_of_one_s_own_is_that_of_the_queries(kernel, multiplies):
    """By every kernel: 0.05 instead of 1/sqrt(16) is what queries of a fifth of the size give."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 4, 9, 16) for _ in range(3))
    mask = Mask() if kernel == "causal" else Mask(visible=torch.tril(torch.ones(9, 9)).bool())
    dtype = torch.bfloat16 if kernel == "products" else torch.float32
    with torch.inference_mode():
        seen = attend(q.to(dtype), k.to(dtype), v.to(dtype), mask, 0.05).float()
    limit = 0.03 if kernel == "products" else 1e-6  # of bfloat16: a few parts in 2^8
    torch.testing.assert_close(seen, attend(0.2 * q, k, v, mask), atol=limit, rtol=0.02)
    assert (seen - attend(q, k, v, mask)).abs().max() > 0.1


@pytest.mark.parametrize("rows", [1, 2, 3, 26, 33, 34, 64, 67, 128, 193, 257])
def test_bits_do_not_depend_on_the_company(rows):
    """On a CPU: not on how many tokens are fed beside one, nor on blocks of slots that nobody sees.

    That next-token prediction and what checks guesses make the same tokens rests on it.
    """
    torch.manual_seed(rows)
    slots, seen, size = 2 * BLOCK + 100, BLOCK + 7, 48
    q, own = torch.randn(1, 2, rows, size), torch.randint(1, seen, (rows,))
    k, v = (torch.randn(1, 2, slots, size) for _ in range(2))

    def attended(of: slice, extent: int) -> torch.Tensor:
        mask = Mask(visible=torch.arange(extent) < own[of, None])
        return attend(q[:, :, of], k[:, :, :extent], v[:, :, :extent], mask)

    together = attended(slice(None), slots)
    for row in range(0, rows, 5):
        alone = attended(slice(row, row + 1), 2 * BLOCK)
        torch.testing.assert_close(alone, together[:, :, [row]], rtol=0, atol=0)
