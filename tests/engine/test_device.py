"""Which precision a model runs in when nobody says."""

import pytest
import torch

from diagd_cli.engine import device
from diagd_cli.errors import UsageError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("native", "parameters", "chosen"),
    [(False, 10**10, torch.float32), (True, 10**10, torch.bfloat16), (True, 10**7, torch.float32)],
)
def test_a_cpu_takes_bfloat16_where_it_can_multiply_it_and_the_model_is_large(monkeypatch, native, parameters, chosen):
    monkeypatch.setattr(device, "native_bfloat16", lambda: native)
    assert device.choose_dtype("auto", CPU, parameters) == chosen


def test_cuda_takes_bfloat16():
    assert device.choose_dtype("auto", CUDA, 10**7) == torch.bfloat16


def test_what_is_asked_for_is_taken():
    assert device.choose_dtype("float16", CPU, 10**10) == torch.float16
    with pytest.raises(UsageError, match="Unknown dtype 'int4'"):
        device.choose_dtype("int4", CPU)
