"""Whether two trainings are one, up to the rounding of the precision that they ran in."""

from torch import Tensor

# By precision: how far apart weights may lie, as a share of how far training moved them; and
# losses. Where a gradient is near zero its rounding decides which way Adam goes, so that single
# weights may lie further apart in bfloat16, and only their mean says something.
SHARE = {"fp32": 1e-3, "bf16": 0.2}
LOSS = {"fp32": 1e-5, "bf16": 2e-3}


def assert_same_training(
    start: dict[str, Tensor], a: dict[str, Tensor], b: dict[str, Tensor], precision: str
) -> None:
    """Weights of two trainings that began with `start`, all by name."""
    assert a.keys() == b.keys()
    for name, value in a.items():
        moved, apart = (
            (value.float() - other[name].float()).abs().mean().item() for other in (start, b)
        )
        assert apart <= SHARE[precision] * moved, (
            f"{name} moved by {moved:.2e}, and lies {apart:.2e} apart"
        )
