"""Position tables. Those of Cosmos are compared with the official ones in
families/test_cosmos.py.
"""

import pytest
import torch

from diagd_cli.model.config import Positions
from diagd_cli.model.positions import Rotary, absolute_table, learned_table, rope_table, signed
from diagd_cli.tokens.grid import Grid


def by_position(coords: torch.Tensor, sizes: tuple[int, int, int]) -> torch.Tensor:
    """The definition, a position at a time: per axis of size s the sines, then the cosines, of p *
    10000^(-i / (s/2)).
    """
    parts = []
    for place, size in zip(coords.T, sizes, strict=True):
        frequency = 10000.0 ** (-torch.arange(size // 2, dtype=torch.float64) / (size / 2))
        angle = torch.outer(place.double(), frequency)
        parts += [angle.sin(), angle.cos()]
    return torch.cat(parts, dim=1).bfloat16()


@pytest.mark.parametrize(
    "dim, sizes", [(64, (24, 20, 20)), (66, (22, 22, 22)), (512, (172, 170, 170))]
)
@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_the_absolute_table_to_the_bit(dim, sizes, prefix):
    grid = Grid(5, 7, conditioning=2, prefix=prefix)
    coords = torch.from_numpy(grid.coords(grid.length(4) + 1))
    table = absolute_table(coords, dim, prefix)
    assert table.dtype == torch.bfloat16 and not table[:prefix].any()
    assert torch.equal(table[prefix:], by_position(coords, sizes)[prefix:])


@pytest.mark.parametrize("kind", ["rope-1d", "rope-2d", "rope-3d"])
@pytest.mark.parametrize("prefix", [0, 1])
def test_rotary_angles_of_any_position_are_those_of_a_table_that_reaches_it(kind, prefix):
    """Made from one frame, and not from a table of them all."""
    grid, config = Grid(3, 4, conditioning=2, prefix=prefix), Positions(kind=kind, base=100.0)
    coords = torch.from_numpy(grid.coords(grid.length(5)))
    rotary = Rotary(config, coords[: grid.length(1)], prefix, head_dim=12)
    cos, sin = rotary(torch.arange(len(coords)), torch.float32)
    for made, table in zip((cos, signed(sin)), rope_table(config, coords, 12), strict=True):
        torch.testing.assert_close(made[:, 0], table, atol=1e-7, rtol=0)


@pytest.mark.parametrize("kind", ["rope-1d", "rope-3d"])
def test_positions_do_not_end(kind):
    """At frame 10^6 the angles are exact to float32's last bits, where products in float32 would be
    off by more than a hundredth of a radian; and so attention knows how far apart two frames are.
    """
    grid, config = Grid(15, 20, conditioning=1), Positions(kind=kind, base=100.0)
    coords = torch.from_numpy(grid.coords(grid.length(1)))
    rotary = Rotary(config, coords, 0, head_dim=48)
    late = grid.position(10**6, 7, 11)
    cos, sin = rotary(torch.tensor([late]), torch.float32)
    sizes = (16, 16, 16) if kind == "rope-3d" else (48,)
    axes = (10**6, 7, 11) if kind == "rope-3d" else (late,)
    exact, rough = [], []
    for place, size in zip(axes, sizes, strict=True):
        frequency = 1.0 / 100.0 ** (torch.arange(0, size, 2, dtype=torch.float32) / size)
        exact += [place * float(f) for f in frequency]  # Python's floats are float64
        rough += (place * frequency).tolist()
    exact, rough = torch.tensor(exact, dtype=torch.float64), torch.tensor(rough)
    assert (cos[0, 0, 24:].double() - exact.cos()).abs().max() < 1e-7
    assert (sin[0, 0, 24:].double() - exact.sin()).abs().max() < 1e-7
    assert (rough.double() - exact).abs().max() > 0.01
    pair, apart = torch.tensor([0, 3 * grid.block]), []
    for frame in (0, 10**6):
        cos, sin = rotary(frame * grid.block + pair, torch.float64)
        apart.append(cos[0] * cos[1] + sin[0] * sin[1])  # the cosine of the difference
    torch.testing.assert_close(*apart, atol=1e-8, rtol=0)


def test_learned_frames_and_places_add_up():
    """Position p is place p % places of frame p // places; what is behind the last frame, such as
    padding's scratch slot, counts as in it.
    """
    table = learned_table(Positions(kind="learned", places=6), 3 * 6 + 1, dim=4)
    assert [tuple(p.shape) for p in table.parameters()] == [(3, 4), (6, 4)]
    seen = table(torch.tensor([0, 7, 17, 18]))
    rows = [(0, 0), (1, 1), (2, 5), (2, 0)]
    wanted = [table.frames.weight[t] + table.places.weight[n] for t, n in rows]
    assert torch.equal(seen, torch.stack(wanted))
