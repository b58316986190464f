"""Which precision a model runs in when nobody says."""

from types import SimpleNamespace

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
    monkeypatch.setattr(device, "native_bfloat16", lambda device: native)
    assert device.choose_dtype("auto", CPU, parameters) == chosen


@pytest.mark.parametrize(("major", "chosen"), [(9, torch.bfloat16), (8, torch.bfloat16), (7, torch.float32)])
def test_cuda_takes_bfloat16_where_it_is_not_emulated(monkeypatch, major, chosen):
    """GPUs before Ampere emulate it, and lack the attention kernels for it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=major))
    assert device.choose_dtype("auto", CUDA, 10**7) == chosen


@pytest.mark.parametrize(("name", "made_current"), [("cuda:1", ["cuda:1"]), ("cuda", []), ("auto", []), ("cpu", [])])
def test_a_gpu_by_number_is_made_the_current_one(monkeypatch, name, made_current):
    """Else graphs would be captured on another, and hold nothing."""
    made = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: made.append(str(device)))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert str(device.choose_device(name)) == {"auto": "cuda"}.get(name, name)
    assert made == made_current and torch.backends.cudnn.allow_tf32 == (name == "cpu")


def test_what_is_asked_for_is_taken():
    assert device.choose_dtype("float16", CPU, 10**10) == torch.float16
    with pytest.raises(UsageError, match="Unknown dtype 'int4'"):
        device.choose_dtype("int4", CPU)
