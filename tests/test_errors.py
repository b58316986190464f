"""What is said of an exception that nobody expected: memory that ran out is no bug, and no damaged
file.
"""

import errno
import os

import pytest
import torch

from diagd_cli.errors import ClipError, DiagdError, WeightsError
from diagd_cli.explain import explain

OUT_OF_MEMORY = "Out of memory. Ask for fewer --frames, use a smaller preset, or free some memory"


def made_of(error: DiagdError, cause: BaseException, shown: bool = True) -> DiagdError:
    """The error as code raises it that has met another one."""
    try:
        try:
            raise cause
        except type(cause) as met:
            raise error from (met if shown else None)
    except DiagdError as raised:
        return raised


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        RuntimeError(
            "unable to mmap 10642056 bytes from file <a.safetensors>: Cannot allocate memory (12)"
        ),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate "
            "memory: you tried to"
        ),
        RuntimeError("could not create a primitive"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        RuntimeError("std::bad_alloc"),
    ],
    ids=lambda error: str(error)[:40] or type(error).__name__,
)
def test_memory_that_ran_out(error):
    assert explain(error) == OUT_OF_MEMORY
    if not isinstance(error, MemoryError):
        for shown in (True, False):
            damaged = made_of(ClipError("walk.mp4 is damaged", "Copy it again"), error, shown)
            assert explain(damaged) == OUT_OF_MEMORY


def test_a_file_that_claims_an_absurd_size_is_told_as_such():
    error = made_of(
        WeightsError("a.ckpt is damaged", "Fetch it again"), MemoryError("Unable to allocate 7 PiB")
    )
    assert explain(error) == "a.ckpt is damaged. Fetch it again"


def test_an_error_that_speaks_of_memory_says_more():
    error = made_of(
        WeightsError("The encoder is larger than the free memory", "Embed elsewhere"),
        OSError(errno.ENOMEM, ""),
    )
    assert explain(error) == "The encoder is larger than the free memory. Embed elsewhere"


def test_memory_that_really_cannot_be_had():
    with pytest.raises(RuntimeError) as met:
        torch.empty(1 << 50, dtype=torch.uint8)
    assert explain(met.value) == OUT_OF_MEMORY


def test_other_errors_are_what_they_are():
    assert (
        explain(ClipError("walk.mp4 is damaged", "Copy it again"))
        == "walk.mp4 is damaged. Copy it again"
    )
    assert explain(made_of(ClipError("a is empty"), ValueError("b"))) == "a is empty"
    assert explain(ValueError("b")) == "ValueError: b. This is a bug in diagd; -v shows where"
