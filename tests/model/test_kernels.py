"""Our own kernels do what PyTorch does: on a GPU where there is one, else in Triton's interpreter."""

import os

import pytest
import torch
import torch.nn.functional as F
from strategies import WIDE, World, build_model, random_sequences, run, slide

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # which Triton reads when a kernel is defined
pytest.importorskip("triton")

from diagd_cli.engine import sample
from diagd_cli.engine.sample import Sampler, Sampling
from diagd_cli.model import attention, kernels, norm, products, split_keys, transformer
from diagd_cli.model.cache import LayerCache
from diagd_cli.model.eight_bits import FORMATS, quantise
from diagd_cli.model.mask import Span
from diagd_cli.model.positions import rotate
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.tokens.grid import Grid

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.float16]
FAR = 10**9  # a position of a video that has gone on for long


def close(made, expected):
    """As near as the dtype allows where sums are made in another order."""
    kind = expected.dtype if made.dtype == expected.dtype else made.dtype
    bound = {torch.float32: 2e-6, torch.float16: 2e-3}[kind]
    torch.testing.assert_close(made.double(), expected.double(), atol=bound, rtol=bound)


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def drawn():
    """Random numbers of a shape and dtype."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    return lambda *shape, dtype=torch.float32: torch.randn(
        *shape, generator=generator, device=DEVICE
    ).to(dtype)


# ---- attention -----------------------------------------------------------------------------------


def span_of(clips, queries, slots, apart, window, padded):
    """Positions far from the first, some slots empty; of each clip its own where they are apart."""
    torch.manual_seed(slots)
    orders = torch.stack([torch.randperm(slots) for _ in range(clips)])
    held = FAR + (orders if apart else orders[0])
    held[..., ::7] = 1 << 62
    high = FAR + torch.randint(slots // 2, slots, (clips, queries) if apart else (queries,))
    low = high - slots // 3 if window else None
    least = FAR + torch.randint(slots // 4, (clips, queries)) if padded else None
    parts = [None if each is None else each.to(DEVICE) for each in (held, high, low, least)]
    return Span(parts[0], parts[1], parts[2], FAR + 9 if window else 0, parts[3])


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("window", [False, True])
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize(
    "clips, heads, kv_heads, queries, slots, dim",
    [(1, 4, 2, 1, 40, 48), (2, 2, 1, 21, 150, 32)],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_attention(
    drawn, dtype, clips, heads, kv_heads, queries, slots, dim, apart, window, padded
):
    q = drawn(clips, queries, heads, dim, dtype=dtype).transpose(1, 2)
    k, v = drawn(2, clips, kv_heads, slots + 5, dim, dtype=dtype)[:, :, :, :slots]
    span = span_of(clips, queries, slots, apart, window, padded)
    seen = span.visible()
    mask = seen[:, None] if seen.ndim == 3 else seen
    expected = F.scaled_dot_product_attention(
        q.double(), k.double(), v.double(), attn_mask=mask, enable_gqa=True
    )
    close(split_keys.attention(q, k, v, span), expected.transpose(1, 2).nan_to_num())


def test_who_sees_nothing_reads_zeros(drawn):
    q, (k, v) = drawn(1, 2, 3, 32), drawn(2, 1, 2, 40, 32)
    span = Span(torch.arange(5, 45, device=DEVICE), torch.tensor([9, 2, 7], device=DEVICE))
    seen = split_keys.attention(q, k, v, span)
    assert seen[:, [0, 2]].any() and not seen[:, 1].any()


# ---- the rest of a block -------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_norm(drawn, dtype, weighted):
    x, weight = 3 * drawn(2, 5, 320, dtype=dtype), drawn(320, dtype=dtype)
    expected = F.rms_norm(x.float(), (320,), eps=1e-5).to(dtype)
    own = kernels.normed(x, weight if weighted else None, 1e-5)
    close(own, expected * weight if weighted else expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gate(drawn, dtype):
    x = drawn(2, 3, 2 * 1500, dtype=dtype)
    a, b = x.chunk(2, dim=-1)
    close(kernels.gated(x), F.silu(a) * b)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_remembered(drawn, dtype, apart, normed, turned):
    clips, heads, kv_heads, dim, slots = 2, 4, 2, 48, 40
    qkv = drawn(clips, 5, heads + 2 * kv_heads, dim, dtype=dtype)
    weights = drawn(2, dim, dtype=dtype).unbind()
    rope = drawn(2, *((clips,) if apart else ()), 5, 1, dim, dtype=dtype).unbind()
    places = torch.stack([torch.randperm(slots, device=DEVICE)[:5] for _ in range(clips)])
    places = places if apart else places[0]
    cache, own = (
        LayerCache(*torch.zeros(2, clips, kv_heads, slots, dim, dtype=dtype, device=DEVICE))
        for _ in range(2)
    )
    q, k, v = qkv.split([heads, kv_heads, kv_heads], dim=2)
    if normed:
        q, k = (
            F.rms_norm(x.float(), (dim,), eps=1e-6).to(dtype) * weight
            for x, weight in zip((q, k), weights, strict=True)
        )
    if turned:
        q, k = (rotate(x, *rope) for x in (q, k))
    cache.write(places, k, v)
    told = weights if normed else None, 1e-6, rope if turned else None
    close(kernels.remembered(qkv, *told, places, *own), q)
    close(own.keys, cache.keys)
    assert torch.equal(own.values, cache.values)


def test_rounding(drawn):
    x = 4 * drawn(5, 3000, dtype=torch.float16)
    own, expected = kernels.rounded(x), quantise(x, FORMATS["fp8"])
    assert torch.equal(own.scale, expected.scale)
    same = own.values.float() == expected.values.float()
    # the interpreter loses what is carried over to the exponent
    assert same.all() if DEVICE == "cuda" else same.float().mean() > 0.95


# ---- a whole decoding ----------------------------------------------------------------------------


@pytest.fixture
def by_kernels(monkeypatch):
    """As on a GPU, and what was done by kernels."""
    called = set()

    def noted(name, work):
        return lambda *given: (called.add(name), work(*given))[1]

    for module in (attention, norm, products, sample, transformer):
        monkeypatch.setattr(module, "own_kernels", lambda device: not torch.is_grad_enabled())
    monkeypatch.setattr(split_keys, "attention", noted("attention", split_keys.attention))
    for name in ("normed", "gated", "remembered"):
        monkeypatch.setattr(kernels, name, noted(name, getattr(kernels, name)))
    return called


@pytest.mark.skipif(DEVICE == "cuda", reason="benchmarks.gpu compares whole decodings there")
@pytest.mark.parametrize("window", ["roll", "slide"])
def test_a_decoding_makes_the_same_tokens(window, by_kernels, monkeypatch):
    small = {"vocab": 50, "dim": 32, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 16}
    config = WIDE.model_copy(update={**small, "mlp_dim": 64})
    world = World(Grid(2, 3, conditioning=1), 1, 1, Decoding("diagd", k=1, d=2))
    model = build_model(config, world.grid, 3, seed=0)
    prompt = world.prompt(random_sequences(world, config, seed=1))
    sampler = Sampler(Sampling(config.vocab, top_p=0.9), [1])

    def made():
        chosen = []

        def choose(logits, targets):
            chosen.append(sampler(logits, targets))
            return chosen[-1]

        if window == "slide":
            slide(model, world, prompt, choose, 1, capture=True)
        else:
            run(model, world.plan(), prompt, choose, capture=True)
        return torch.cat(chosen, dim=1)

    own = made()
    assert by_kernels == {"attention", "normed", "gated", "remembered"}
    for module in (attention, norm, products, sample, transformer):
        monkeypatch.setattr(module, "own_kernels", lambda device: False)
    assert torch.equal(own, made()) and len(own.unique()) > 2


def test_compiled_blocks_are_given_a_matrix(by_kernels):
    """Which one of them lays out, for all."""
    model = build_model(WIDE, Grid(2, 3), 1, seed=0)
    assert model.reads_spans
    model.compiled = True
    assert not model.reads_spans
