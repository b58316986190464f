"""Which precision a model runs in when nobody says."""

import os
import sys
from types import SimpleNamespace

import psutil
import pytest
import torch

from diagd_cli import device
from diagd_cli.errors import UsageError

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


@pytest.fixture
def processor(monkeypatch):
    """Says what the processor has, and what oneDNN may use of it."""

    def have(avx512: bool, amx: bool = False, **variables: str) -> None:
        for name in (device.NATIVE_BFLOAT16, "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512, raising=False)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
        device._multiplies_bfloat16.cache_clear()

    yield have
    device._multiplies_bfloat16.cache_clear()


@pytest.mark.parametrize(
    ("avx512", "amx"), [(False, False), (True, False), (False, True), (True, True)]
)
def test_bfloat16_is_native_where_the_processor_multiplies_it(processor, avx512, amx):
    processor(avx512, amx)
    assert device.native_bfloat16() == (avx512 or amx)


@pytest.mark.parametrize("name", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
@pytest.mark.parametrize(
    ("limit", "native"),
    [
        ("AVX2", False),
        ("avx512_core_vnni", False),
        ("AVX512_CORE_BF16", True),
        ("AVX512_CORE_AMX", True),
        ("", True),
    ],
)
def test_an_instruction_set_that_is_switched_off_is_not_there(processor, name, limit, native):
    processor(True, True, **{name: limit})
    assert device.native_bfloat16() == native


@pytest.mark.parametrize(("told", "native"), [("0", False), ("1", True), ("", False)])
def test_one_switch_makes_it_another_processor(processor, told, native):
    processor(False, DIAGD_NATIVE_BFLOAT16=told)
    assert device.native_bfloat16() == native


def test_the_switch_is_0_or_1(processor):
    processor(False, DIAGD_NATIVE_BFLOAT16="yes")
    with pytest.raises(
        UsageError, match=r"DIAGD_NATIVE_BFLOAT16 is 'yes'\. Set it to 0 or 1, or leave it unset"
    ):
        device.native_bfloat16()


def test_the_estimate_is_of_the_dtype_that_this_processor_takes(each_processor, diagd, monkeypatch):
    """A large model, which no test can hold: float32 on the one, half of it on the other."""
    monkeypatch.setattr("diagd_cli.free_memory.free_main_memory", lambda: 10**9)
    told = {"0": "weights 16.1, cache 1.7", "1": "weights 8.0, cache 0.84"}[
        os.environ[device.NATIVE_BFLOAT16]
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
