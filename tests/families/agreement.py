"""How near our outputs must come to those of official code."""

from torch import Tensor

TOLERANCE = 1e-4  # of float32 through a few layers


def assert_close(ours: Tensor, theirs: Tensor, limit: float = TOLERANCE) -> None:
    """Same shape, and nowhere further apart than the limit; `pytest -s` tells by how much."""
    assert ours.shape == theirs.shape
    error = (ours.float() - theirs.float()).abs().max().item()
    print(f"largest error {error:.2e}")
    assert error <= limit
