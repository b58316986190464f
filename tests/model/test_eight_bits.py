"""Numbers of 8 bits with a scale a row: how far they are off, and who depends on whom."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diagd_cli.model import eight_bits
from diagd_cli.model.eight_bits import FORMATS, Scaled, fill, quantise

KINDS = pytest.mark.parametrize("kind", FORMATS)
SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 70))


def noise(seed, shape, exponent=0.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 2**exponent


@KINDS
@given(st.integers(0, 2**32 - 1), SHAPES, st.floats(-60, 60))
def test_an_element_is_off_by_half_a_scale_or_a_sixteenth_at_most(kind, seed, shape, exponent):
    """float8 has three bits behind the point; below its least normal number it has fewer."""
    x = noise(seed, shape, exponent)
    values, scale = quantise(x, FORMATS[kind])
    off = (values.float() * scale - x).abs()
    allowed = 0.5001 * scale if kind == "int8" else x.abs() / 16 * 1.0001 + scale * 2**-9
    assert values.shape == x.shape and scale.shape == (len(x), 1) and (off <= allowed).all()


@KINDS
def test_a_row_of_zeros_stays_one(kind):
    values, scale = quantise(torch.zeros(2, 3), FORMATS[kind])
    assert not values.float().any() and scale.isfinite().all() and (scale > 0).all()


@KINDS
@given(st.integers(0, 2**32 - 1), SHAPES)
def test_a_token_is_rounded_whoever_is_beside_it(kind, seed, shape):
    x = noise(seed, shape)
    together = quantise(x, FORMATS[kind])
    for n in range(len(x)):
        alone = quantise(x[n : n + 1], FORMATS[kind])
        assert torch.equal(alone.values.float(), together.values[n : n + 1].float())
        assert torch.equal(alone.scale, together.scale[n : n + 1])


@KINDS
def test_memory_is_filled_some_rows_at_a_time(kind, monkeypatch):
    monkeypatch.setattr(eight_bits, "ROWS", 20)  # two rows of eight
    x, form = noise(0, (5, 8)), FORMATS[kind]
    values, scale = torch.empty(5, 8, dtype=form.dtype), torch.empty(5, 1)
    fill(values, scale, x)
    wanted = quantise(x, form)
    assert torch.equal(values.float(), wanted.values.float()) and torch.equal(scale, wanted.scale)


@KINDS
def test_what_is_of_8_bits_already_stays_as_it_is(kind):
    """Of the same format bit for bit; of the other by way of the floats that it stands for."""
    stored = quantise(noise(1, (3, 16)), FORMATS["int8"])
    stored = Scaled(stored.values, stored.scale * 1.5)
    values, scale = torch.empty(3, 16, dtype=FORMATS[kind].dtype), torch.empty(3, 1)
    fill(values, scale, stored)
    floats = stored.values * stored.scale
    if kind == "int8":
        assert torch.equal(values, stored.values) and torch.equal(scale, stored.scale)
    else:
        assert torch.equal(values.float(), quantise(floats, FORMATS[kind]).values.float())
