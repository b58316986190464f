"""A clip that is cut short: generate says so and goes on; what holds its frames as the truth
refuses it.
"""

import json

import pytest
from films import X264, film

from cli.bad.line import only_line


@pytest.fixture
def cut(tmp_path):
    path = film(
        tmp_path / "a.mkv",
        *X264,
        "-g",
        4,
        size="24x16",
        source="testsrc2=s=64x48:r=20,noise=alls=20",
    )
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    return path


def test_generate_continues_what_can_be_read_and_says_so(diagd, tiny, cut, tmp_path):
    done = diagd("generate", cut, "-p", tiny.preset, "-o", tmp_path / "out.mp4")
    assert done.code == 0, done.err
    [line] = [line for line in done.err.splitlines() if "cut short" in line]
    source = json.loads((tmp_path / "out.json").read_text())["input"]
    assert line == (
        f"{cut} is {source['damage']}; it is continued after frame {source['first'] + 1} "
        "(frames count from 0)"
    )
    assert f"{source['first'] + 2} of 24 frames can be read" in line


@pytest.mark.parametrize(
    "command", [["compare", "--decodings", "diagd"], ["eval", "--decodings", "diagd"], ["sweep"]]
)
def test_no_truth_is_taken_from_it(diagd, tiny, cut, tmp_path, command):
    command = [
        command[0],
        cut,
        *command[1:],
        "-p",
        tiny.preset,
        "--start",
        0,
        "-o",
        tmp_path / "out",
    ]
    done = diagd(*command)
    line = only_line(done.code, done.out, done.err, tmp_path / "out")[1]
    assert line.startswith("a.mkv is cut short or damaged: ") and "of 24 frames can be read" in line
