"""Little memory: one line that says so, wherever it is missing."""

import os
import resource
import sys

import pytest

from cli.bad.line import only_line


@pytest.mark.skipif(
    sys.platform != "linux", reason="other systems do not hold a process to its address space"
)
@pytest.mark.parametrize("megabytes", [300, 500])
def test_less_address_space_than_torch_takes(start, tiny, tmp_path, megabytes):
    """In which a library cannot be loaded, and a program not be started."""

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))

    one = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    process = start(
        "generate",
        tiny.clip,
        "-p",
        tiny.preset,
        "-o",
        tmp_path / "out" / "a.mp4",
        preexec_fn=limit,
        env=one,
    )
    told, errors = process.communicate(timeout=60)
    line = "Out of memory. Ask for fewer --frames, use a smaller preset, or free some memory"
    assert only_line(process.returncode, told, errors, tmp_path / "out") == (1, line)
