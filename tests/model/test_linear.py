"""The product of a Transformer: whatever kernel is chosen, the numbers are those of torch's linear
layer.
"""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from diagd_cli.model import linear, products
from diagd_cli.model.linear import Linear, pack

SIZES = [(48, 96), (320, 33), (7, 5)]


def layer(inputs, outputs, bias=False):
    torch.manual_seed(inputs)
    return Linear(inputs, outputs, bias=bias).requires_grad_(False)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("inputs, outputs", SIZES)
@pytest.mark.parametrize("tokens", [1, 2, 15, 64])
def test_packed_is_the_same_product(inputs, outputs, bias, tokens):
    plain = layer(inputs, outputs, bias)
    x = torch.randn(2, tokens, inputs)
    wanted = F.linear(x, plain.weight, plain.bias)
    with torch.inference_mode():
        torch.testing.assert_close(pack(plain)(x), wanted, rtol=1e-4, atol=1e-5)
    assert plain.weight is None and "weight" not in plain.state_dict()


def test_the_matrix_that_is_the_embedding_too_stays():
    model = torch.nn.ModuleDict(
        {"embed": torch.nn.Embedding(9, 4), "head": Linear(4, 9, bias=False)}
    )
    model["head"].weight = model["embed"].weight
    pack(model)
    assert model["embed"].weight.shape == (9, 4) and model["head"].product is not None


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("tokens", [1, linear.EMULATION_LIMIT, linear.EMULATION_LIMIT + 1, 40])
def test_emulated_bfloat16_is_as_exact_as_bfloat16_can_be(tokens, bias, monkeypatch):
    """Blocks that do not divide the matrix, products in float32, one rounding at the end."""
    monkeypatch.setattr(linear, "native_bfloat16", lambda: False)
    monkeypatch.setattr(linear, "BLOCK", 48 * 10)
    own = layer(48, 96, bias).bfloat16()
    x = torch.randn(1, tokens, 48).bfloat16()
    exact = F.linear(
        x.double(), own.weight.double(), None if own.bias is None else own.bias.double()
    )
    with torch.inference_mode():
        seen = own(x)
    assert seen.dtype == torch.bfloat16
    torch.testing.assert_close(seen.double(), exact, rtol=2**-8, atol=2**-9)


def test_training_goes_through_torch(monkeypatch):
    """A gradient is wanted: the block-wise product, which has none, is not taken."""
    monkeypatch.setattr(linear, "native_bfloat16", lambda: False)
    own = Linear(8, 4).bfloat16()
    own(torch.randn(9, 8).bfloat16()).sum().backward()
    assert own.weight.grad is not None


def test_half_precision_is_left_alone():
    own = pack(layer(8, 4).half())
    assert own.product is None and own.weight.dtype == torch.float16


@pytest.mark.parametrize("lacking", products.OPERATORS)
def test_without_a_private_operator_the_products_are_torchs_own(lacking, monkeypatch):
    """Neither of the two is promised: another build of torch may lack either."""
    monkeypatch.setattr(linear, "native_bfloat16", lambda: False)
    full, half = layer(48, 96), layer(48, 96).bfloat16()
    x = torch.randn(2, 15, 48)
    wanted = half(x.bfloat16())
    kept = {name: getattr(torch.ops.mkldnn, name) for name in products.OPERATORS if name != lacking}
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace(**kept))
    with torch.inference_mode():
        assert torch.equal(pack(full)(x), F.linear(x, full.weight))
        torch.testing.assert_close(half(x.bfloat16()), wanted, rtol=2**-7, atol=2**-8)
    assert full.product is None and "weight" in full.state_dict()
