"""Which products the CPU has, and what makes it another one."""

import pytest
import torch

from diagd_cli import processor
from diagd_cli.errors import UsageError

KINDS = {
    "bfloat16": (processor.native_bfloat16, "_is_avx512_bf16_supported"),
    "int8": (processor.native_int8, "_is_vnni_supported"),
}


@pytest.fixture(params=KINDS)
def kind(request):
    """What is asked about, and by which private function of torch."""
    return KINDS[request.param]


@pytest.fixture
def have(monkeypatch, kind):
    """Says what the processor has, and what oneDNN may use of it."""

    def have(avx512: bool, amx: bool = False, **variables: str) -> None:
        names = processor.NATIVE_BFLOAT16, processor.NATIVE_INT8
        for name in (*names, "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(torch.cpu, kind[1], lambda: avx512, raising=False)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
        forget()

    yield have
    forget()


def forget():
    processor.exact_int8.cache_clear()
    processor._has.cache_clear()


@pytest.mark.parametrize(
    ("avx512", "amx"), [(False, False), (True, False), (False, True), (True, True)]
)
def test_products_are_native_where_the_processor_has_them(have, kind, avx512, amx):
    have(avx512, amx)
    assert kind[0]() == (avx512 or amx)


@pytest.mark.parametrize("name", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
@pytest.mark.parametrize(
    ("limit", "kinds"),
    [
        ("AVX2", []),
        ("avx512_core", []),
        ("AVX512_CORE_VNNI", ["int8"]),
        ("AVX512_CORE_BF16", ["bfloat16", "int8"]),
        ("AVX512_CORE_AMX", ["bfloat16", "int8"]),
        ("", ["bfloat16", "int8"]),
    ],
)
def test_an_instruction_set_that_is_switched_off_is_not_there(have, kind, name, limit, kinds):
    have(True, True, **{name: limit})
    assert kind[0]() == (kind in [KINDS[one] for one in kinds])


@pytest.mark.parametrize(("told", "native"), [("0", False), ("1", True), ("", False)])
def test_one_switch_makes_it_another_processor(have, kind, told, native):
    have(False, DIAGD_NATIVE_BFLOAT16=told, DIAGD_NATIVE_INT8=told)
    assert kind[0]() == native


def test_the_switch_is_0_or_1(have, kind):
    have(False, DIAGD_NATIVE_BFLOAT16="yes", DIAGD_NATIVE_INT8="yes")
    with pytest.raises(
        UsageError, match=r"DIAGD_NATIVE_\w+ is 'yes'\. Set it to 0 or 1, or leave it unset"
    ):
        kind[0]()
