"""Keys and values are where they were written, in any order, and come back as the queries are."""

import pytest
import torch

from diagd_cli.model.cache import KVCache
from diagd_cli.model.config import TransformerConfig

CONFIG = TransformerConfig(vocab=9, dim=8, layers=3, heads=4, kv_heads=2, head_dim=4, mlp_dim=8)


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_written_is_read(dtype, across):
    cache = KVCache(CONFIG, 2, 10, dtype=dtype, across=across)
    k, v = torch.randn(2, 2, 3, 2, 4)  # B, Q, kv_heads, head_dim of each
    cache.layer(1).write(torch.tensor([7, 0, 4]), k, v)
    keys, values = cache.layer(1).read(8, torch.float32)
    for read, new, store in ((keys, k, cache.keys), (values, v, cache.values)):
        assert read.shape == (2, 2, 8, 4) and read.dtype == torch.float32
        assert torch.equal(read[:, :, [7, 0, 4]], new.transpose(1, 2).to(dtype).float())
        assert not read[:, :, [1, 2, 3, 5, 6]].any()
        assert torch.equal(store[1, :, :, :8].float(), read) and not store[[0, 2]].any()


@pytest.mark.parametrize("across", [False, True])
def test_clips_may_write_to_slots_of_their_own(across):
    cache, slots = KVCache(CONFIG, 2, 10, across=across), torch.tensor([[7, 0, 4], [1, 2, 9]])
    k, v = torch.randn(2, 2, 3, 2, 4)
    cache.layer(1).write(slots, k, v)
    for read, new in zip(cache.layer(1).read(10, k.dtype), (k, v), strict=True):
        for clip in range(2):
            assert torch.equal(read[clip][:, slots[clip]], new[clip].transpose(0, 1))
        assert read.count_nonzero() == new.numel()


def test_a_later_write_replaces_an_earlier_one():
    cache, slots = KVCache(CONFIG, 1, 4), torch.tensor([2])
    first, second = torch.randn(2, 1, 1, 2, 4)
    cache.layer(0).write(slots, first, first)
    cache.layer(0).write(slots, second, 2 * second)
    keys, values = cache.layer(0).read(4, second.dtype)
    assert torch.equal(keys[:, :, 2], second[:, 0]) and torch.equal(
        values[:, :, 2], 2 * second[:, 0]
    )


def test_keys_that_lie_across_are_read_as_a_product_wants_them():
    """The same shape, and no copy: turned round they are one block a head."""
    cache = KVCache(CONFIG, 2, 10, across=True)
    keys, values = cache.layer(0)
    assert keys.shape == values.shape == (2, 2, 10, 4)
    assert keys.mT.is_contiguous() and values.is_contiguous()


@pytest.mark.parametrize("across", [False, True])
def test_clearing(across):
    cache = KVCache(CONFIG, 2, 5, across=across)
    for store in (cache.keys, cache.values):
        store.fill_(1)
    cache.clear(torch.tensor([True, False, False, True, False]))
    for store in (cache.keys, cache.values):
        assert not store[..., [0, 3], :].any() and store[..., [1, 2, 4], :].all()
    assert cache.bytes == 2 * 3 * 2 * 2 * 5 * 4 * 4 and cache.slots == 5
