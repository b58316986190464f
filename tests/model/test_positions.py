"""Position tables. Those of Cosmos are compared with the official ones in
families/test_cosmos.py.
"""

import pytest
import torch

from diagd_cli.model.positions import absolute_table
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
