"""Clips continued by the tiny preset through the command line; a module that says
`pytest_plugins = ["cli.continuing"]` has these fixtures.
"""

import numpy as np
import pytest


@pytest.fixture
def generate(diagd, tiny, tmp_path):
    """Continues clips by the tiny preset into tmp_path/out."""

    def run(*arguments, preset=tiny.preset, **environment):
        return diagd(
            "generate", *arguments, "--preset", preset, "-o", tmp_path / "out", **environment
        )

    return run


@pytest.fixture
def tokens(generate, tiny, tmp_path):
    """The tokens int64 [T, h, w] that some options give."""

    def run(*options, seed=0, clip=tiny.clip, **environment):
        done = generate(clip, "--seed", seed, "--save-tokens", "--force", *options, **environment)
        assert done.code == 0, done.err
        with np.load(tmp_path / "out" / f"{clip.stem}.npz") as arrays:
            return arrays["codes"]

    return run
