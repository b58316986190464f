"""Products by weights of 8 bits: those of the rounded numbers, the same for a token in any company."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diagd_cli.model import products
from diagd_cli.model.eight_bits import FORMATS, quantise
from diagd_cli.model.linear import Linear, pack
from diagd_cli.model.products import Int8

SIZES = [(48, 96), (320, 32), (832, 16)]
SCALED = "aten::_scaled_mm"


def layer(inputs, outputs, kind, bias=False, dtype=torch.float32):
    torch.manual_seed(inputs)
    own = Linear(inputs, outputs, bias=bias, dtype=dtype).requires_grad_(False)
    weight = own.weight
    own.hold(kind, weight)
    return own, weight


def rounded(x, kind):
    """What a format makes of numbers, as float64."""
    values, scale = quantise(x, FORMATS[kind])
    return values.double() * scale


@pytest.fixture(params=[False, True], ids=["right everywhere", "this processor's"])
def kernel(request, monkeypatch):
    """The slow product, which is right on every processor, or the one that this one would take."""
    if not request.param:
        monkeypatch.setattr(products, "exact_int8", lambda: False)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("inputs, outputs", SIZES)
def test_it_is_the_product_of_the_rounded_numbers(kind, inputs, outputs, bias, kernel):
    own, weight = layer(inputs, outputs, kind, bias)
    if kind == "fp8" and not torch._C._dispatch_has_kernel_for_dispatch_key(SCALED, "CPU"):
        pytest.skip("this PyTorch multiplies float8 on CUDA alone")
    x = torch.randn(2, 7, inputs)
    exact = rounded(x, kind) @ rounded(weight, kind).t()
    exact = exact if own.bias is None else exact + own.bias
    with torch.inference_mode():
        seen = pack(own)(x)
    # int8 half-way between two numbers may go either way; float8 is put out as bfloat16
    reach = 0.02 if kind == "fp8" else 0.004
    assert seen.dtype == x.dtype and (seen - exact).abs().max() < reach * exact.abs().max()
    assert (
        own.weight is None and own.scale is None and not {"weight", "scale"} & set(own.state_dict())
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 40))
def test_a_token_is_what_it_is_alone(dtype, seed, batch, tokens):
    """Bit for bit: its scale is its own, and sums of whole numbers have no order."""
    own, _ = layer(832, 40, "int8", dtype=dtype)
    x = torch.randn(batch, tokens, 832, generator=torch.Generator().manual_seed(seed)).to(dtype)
    with torch.inference_mode():
        together = pack(own)(x)
        alone = torch.cat([own(x[:, n : n + 1]) for n in range(tokens)], dim=1)
    assert together.dtype == dtype and torch.equal(together, alone)


def test_the_greatest_sums_do_not_overflow(kernel):
    """Saturation, which adding up in 16 bits has, would be off by more than a half."""
    weight = torch.full((8, 832), 127, dtype=torch.int8)
    product = Int8(weight, torch.ones(8, 1), None)
    for sign in (1.0, -1.0):
        x = torch.full((1, 3, 832), 127.0 * sign)
        assert torch.equal(product(x), torch.full((1, 3, 8), sign * 127 * 127 * 832))


def test_nothing_is_nothing(kernel):
    own, _ = layer(48, 96, "int8")
    assert not pack(own)(torch.zeros(1, 2, 48)).any()
