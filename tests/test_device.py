"""Which precision a model runs in when nobody says."""

import os
import sys
from types import SimpleNamespace

import psutil
import pytest
import torch

from diagd_cli import device
from diagd_cli.errors import UsageError
from diagd_cli.processor import NATIVE_BFLOAT16

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("native", "parameters", "chosen"),
    [(False, 10**10, torch.float32), (True, 10**10, torch.bfloat16), (True, 10**7, torch.float32)],
)
def test_a_cpu_takes_bfloat16_where_it_can_multiply_it_and_the_model_is_large(
    monkeypatch, native, parameters, chosen
):
    monkeypatch.setattr(device, "native_bfloat16", lambda device: native)
    assert device.choose_dtype("auto", CPU, parameters) == chosen


@pytest.mark.parametrize(
    ("major", "chosen"), [(9, torch.bfloat16), (8, torch.bfloat16), (7, torch.float32)]
)
def test_cuda_takes_bfloat16_where_it_is_not_emulated(monkeypatch, major, chosen):
    """GPUs before Ampere emulate it, and lack the attention kernels for it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=major)
    )
    assert device.choose_dtype("auto", CUDA, 10**7) == chosen


@pytest.mark.parametrize(
    ("name", "made_current"), [("cuda:1", ["cuda:1"]), ("cuda", []), ("auto", []), ("cpu", [])]
)
def test_a_gpu_by_number_is_made_the_current_one(monkeypatch, name, made_current):
    """Else graphs would be captured on another, and hold nothing."""
    made = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: made.append(str(device)))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert str(device.choose_device(name)) == {"auto": "cuda"}.get(name, name)
    assert made == made_current and torch.backends.cudnn.allow_tf32 == (name == "cpu")


@pytest.mark.parametrize(
    ("asked", "on", "wished", "native", "held"),
    [
        ("auto", CPU, "float", True, ""),
        ("auto", CPU, "int8", True, "int8"),
        ("auto", CPU, "int8", False, ""),
        ("auto", CPU, "fp8", True, ""),
        ("float", CPU, "int8", True, ""),
        ("int8", CPU, "float", True, "int8"),
        ("auto", CUDA, "fp8", True, "fp8"),
        ("auto", CUDA, "fp8", False, ""),
        ("fp8", CUDA, "float", True, "fp8"),
    ],
)
def test_weights_are_of_8_bits_where_that_is_asked_for_and_the_device_has_products_for_them(
    monkeypatch, asked, on, wished, native, held
):
    """What a preset wishes is no order; what is asked for on the command line is one."""
    monkeypatch.setattr(device.processor, "native_int8", lambda: native)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda on: (9 if native else 8, 0))
    assert device.choose_weights(asked, on, wished) == held


@pytest.mark.parametrize(
    ("asked", "on", "native", "told"),
    [
        ("int8", CPU, False, "need a CPU with VNNI or AMX instructions, and cpu is none. .* float"),
        ("fp8", CPU, True, "need a GPU, Ada or later, and cpu is none. Use --weights int8"),
        ("int8", CUDA, True, "need a CPU with .*, and cuda is none. Use --weights fp8"),
        ("fp8", CUDA, False, "need a GPU, Ada or later, and cuda is none. Use --weights float"),
        ("int4", CPU, True, "Unknown weights 'int4'"),
    ],
)
def test_it_is_said_what_weights_of_8_bits_need_and_what_to_take_instead(
    monkeypatch, asked, on, native, told
):
    monkeypatch.setattr(device.processor, "native_int8", lambda: native)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda on: (9 if native else 8, 0))
    with pytest.raises(UsageError, match=told):
        device.choose_weights(asked, on)


def test_the_estimate_is_of_the_dtype_that_this_processor_takes(each_processor, diagd, monkeypatch):
    """A large model, which no test can hold: float32 on the one, half of it on the other."""
    monkeypatch.setattr("diagd_cli.free_memory.free_main_memory", lambda: 10**9)
    told = {"0": "weights 16.1, cache 1.7", "1": "weights 8.0, cache 0.84"}[
        os.environ[NATIVE_BFLOAT16]
    ]
    done = diagd("bench", "-p", "cosmos-4b", "--random-weights")
    assert done.code == 1 and told in done.err, done.err


def test_what_is_asked_for_is_taken():
    assert device.choose_dtype("float16", CPU, 10**10) == torch.float16
    with pytest.raises(UsageError, match="Unknown dtype 'int4'"):
        device.choose_dtype("int4", CPU)


@pytest.fixture
def no_status(monkeypatch):
    """A system without /proc."""

    def read_text(path, *more, **options):
        raise FileNotFoundError(path)

    monkeypatch.setattr(device.Path, "read_text", read_text)


def test_the_peak_of_a_process_without_proc_is_getrusage_s(monkeypatch, no_status):
    resource = pytest.importorskip("resource")
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for system, unit in (("Darwin", 1), ("FreeBSD", 1024)):
        monkeypatch.setattr(device.platform, "system", lambda system=system: system)
        assert device.peak_memory(CPU)["host"] >= used * unit


def test_the_peak_of_a_process_on_windows_is_its_peak_working_set(monkeypatch, no_status):
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(
        psutil.Process, "memory_info", lambda self: SimpleNamespace(rss=1, peak_wset=123_456)
    )
    assert device.peak_memory(CPU) == {"host": 123_456}
