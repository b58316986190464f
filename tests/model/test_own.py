"""Whether kernels of our own are used, and what is said where they cannot be built."""

from importlib.util import find_spec

import pytest
import torch

from diagd_cli.errors import DiagdWarning
from diagd_cli.model import own

CUDA = torch.device("cuda")


@pytest.fixture
def asked_anew(monkeypatch):
    """pytest's monkeypatch; what is known of kernels is forgotten before and after."""
    own._own_kernels.cache_clear()
    yield monkeypatch
    own._own_kernels.cache_clear()


@pytest.mark.parametrize(
    ("told", "triton", "capability", "builds", "is_own"),
    [
        ("", True, (8, 0), True, True),
        ("", True, (8, 0), False, False),
        ("", True, (7, 5), True, False),
        ("", False, (9, 0), True, False),
        ("0", True, (9, 0), True, False),
        ("1", True, (7, 5), False, True),
    ],
)
def test_a_gpu_has_kernels_of_our_own(asked_anew, told, triton, capability, builds, is_own):
    """By Triton, where it can build one; where no gradient is wanted."""
    asked_anew.setenv("DIAGD_OWN_KERNELS", told)
    asked_anew.setattr(own, "find_spec", lambda name: object() if triton else None)
    asked_anew.setattr(own, "_builds", lambda device: builds)
    asked_anew.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    with torch.no_grad():
        assert own.own_kernels(CUDA) == is_own
        assert not own.own_kernels(torch.device("cpu"))
    assert not own.own_kernels(CUDA)


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels can be built here")
@pytest.mark.skipif(find_spec("triton") is None, reason="there is no Triton")
def test_where_kernels_cannot_be_built_one_line_says_why(asked_anew):
    asked_anew.delenv("DIAGD_OWN_KERNELS", raising=False)
    asked_anew.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with torch.no_grad(), pytest.warns(DiagdWarning, match=r"cannot be built here \(.+\)") as told:
        assert not own.own_kernels(CUDA)
        assert not own.own_kernels(CUDA)  # and is not tried again
    (line,) = told
    assert "\n" not in str(line.message) and "DIAGD_OWN_KERNELS=0" in str(line.message)
