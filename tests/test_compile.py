"""--compile: the same tokens, and the time that it takes told apart."""

import json
import os

import numpy as np
import pytest
import torch
from strategies import WIDE, WIDE_WORLD, build_model, open_session
from torch._dynamo.testing import CompileCounter

from diagd_cli.device import has_compiler

needs_compiler = pytest.mark.skipif(not has_compiler(), reason="torch.compile needs a C++ compiler")


@needs_compiler
def test_tokens_are_those_of_the_uncompiled_model(diagd, tiny, tmp_path, monkeypatch):
    # torch's cache holds code for other instructions, and would compile that
    if "ATEN_CPU_CAPABILITY" in os.environ:
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "kernels"))
    options = (
        "generate",
        tiny.clip,
        "-p",
        tiny.preset,
        "--temperature",
        0,
        "--save-tokens",
        "--frames",
        2,
    )
    plain, compiled = tmp_path / "plain.mp4", tmp_path / "compiled.mp4"
    assert diagd(*options, "-o", plain).code == 0
    assert diagd(*options, "-o", compiled, "--compile").code == 0
    codes = [np.load(path.with_suffix(".npz"))["codes"] for path in (plain, compiled)]
    np.testing.assert_array_equal(*codes)
    seconds = [
        json.loads(path.with_suffix(".json").read_text())["seconds"] for path in (plain, compiled)
    ]
    assert "compile" not in seconds[0] and seconds[1]["compile"] > seconds[1]["decode"]


def test_without_a_compiler_one_line_says_so(diagd, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    done = diagd("generate", tiny.clip, "-p", tiny.preset, "-o", tmp_path / "x.mp4", "--compile")
    assert done.code == 1 and not (tmp_path / "x.mp4").exists()
    assert done.err.splitlines()[-1].startswith("error: --compile needs a C++ compiler")


@pytest.mark.parametrize("capture", [False, True])
def test_what_is_compiled_serves_all_layers(capture):
    """Of another model, too: each has its own weights and its own part of the cache. Nothing is
    compiled again when a window rolls.
    """
    torch.compiler.reset()
    counter = CompileCounter()

    def compilations(layers):
        """How many there are after each of four extensions."""
        model = build_model(WIDE.model_copy(update={"layers": layers}), WIDE_WORLD.grid, 4, seed=0)
        for block in model.blocks:
            block.compile(dynamic=True, backend=counter)
        session = open_session(WIDE_WORLD, model, frames=6, capture=capture)
        counts = []
        for _ in range(4):
            list(session.extend(1, WIDE_WORLD.decoding))
            counts.append(counter.frame_count)
        return counts

    *_, third, fourth = compilations(layers=1)
    assert compilations(layers=4) == [fourth] * 4 and third == fourth > 0
