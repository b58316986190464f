"""Whatever is wrong with what is given, diagd says so in one line, exits with the right code and
leaves nothing behind.
"""

import pytest

from cli.bad.line import only_line


@pytest.fixture
def refused(diagd, tiny, tmp_path):
    """Runs diagd generate into tmp_path/out, where it must fail; returns exit code and error
    line.
    """

    def run(clip=tiny.clip, *options, preset=tiny.preset, output=tmp_path / "out", **environment):
        done = diagd("generate", clip, "-p", preset, "-o", output, *options, **environment)
        return only_line(done.code, done.out, done.err, tmp_path / "out")

    return run
