"""What the commands do, from Python: records are made and refused without torch, and the work
itself is silent.
"""

import json
import subprocess
import sys

import pytest
from tiny import moving, save_clip

from diagd_cli import jobs
from diagd_cli.errors import OutputError, UsageError
from diagd_cli.preset_files import load_preset
from diagd_cli.schedule.decoding import Decoding

REQUESTS = ("AttentionRequest", "Benchmark", "Comparing", "Evaluating", "Generation", "Sweeping")
FUNCTIONS = {"measure_attention", "bench", "compare", "evaluate", "sweep"}


@pytest.fixture
def asked(tiny, tmp_path):
    """A preset, settings and a clip."""
    preset = load_preset(tiny.preset)
    return preset, jobs.choose(preset, seed=0), save_clip(tmp_path / "in" / "a.mp4", moving(8))


def test_all_that_is_public_is_there():
    assert all(callable(getattr(jobs, name)) for name in jobs.__all__)
    assert {*REQUESTS, *FUNCTIONS, "generate"} <= set(jobs.__all__)
    with pytest.raises(AttributeError, match="no attribute 'evaluation_'"):
        jobs.evaluation_  # noqa: B018


def test_requests_are_made_without_torch():
    names = [*REQUESTS, *FUNCTIONS]
    code = f"import sys\nfrom diagd_cli import jobs\nfor name in {names}: getattr(jobs, name)\n"
    code += "print({'torch', 'rich', 'typer', 'matplotlib'} & sys.modules.keys() or 'none')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "none\n"


def test_what_cannot_be_written_is_refused_before_any_work(asked, tmp_path):
    preset, settings, clip = asked
    (tmp_path / "file.png").touch()
    out, ntp = tmp_path / "file.png" / "out", Decoding("ntp")
    candidates = jobs.candidates_of([(ntp, None)], preset)
    combinations = jobs.combine([ntp], ["previous-frame"], [True], preset.grid, 2)
    for request in (
        jobs.Evaluating(preset, settings, [clip], candidates, out=out),
        jobs.Sweeping(preset, settings, [clip], combinations, out),
        jobs.Benchmark(preset, settings, [ntp], output=tmp_path / "file.png"),
        jobs.AttentionRequest(preset, settings, clip, output=tmp_path / "file.png"),
    ):
        with pytest.raises(OutputError):
            request.check()
    with pytest.raises(UsageError, match="k is 9"):
        jobs.Benchmark(preset, settings, [Decoding("diagd", 9, 1)]).check()


def test_evaluating_and_sweeping(asked, tmp_path, capfd):
    """One folder for both; the files say what the reports say, and nothing else is said."""
    preset, settings, clip = asked
    decodings = [Decoding("ntp"), Decoding("diagd", 1, 2)]
    candidates = jobs.candidates_of([(decoding, None) for decoding in decodings], preset)
    report = jobs.evaluate(
        jobs.Evaluating(preset, settings, [clip], candidates, out=tmp_path / "out")
    )
    assert [row.label for row in report.rows] == [
        "ground truth",
        "tokenizer",
        "NTP",
        "DiagD k=1 d=2",
    ]
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == json.loads(
        json.dumps(report.facts())
    )

    combinations = jobs.combine(decodings, ["previous-frame"], [True], preset.grid, 2)
    bounds = jobs.parse_bounds("nll<=+900%")
    sweeping = jobs.Sweeping(
        preset,
        settings,
        [clip],
        combinations,
        tmp_path / "out",
        bounds=bounds,
        chart=False,
        command="again",
    )
    before, reports = (tmp_path / "out" / "results.jsonl").read_bytes(), []
    swept = jobs.sweep(sweeping, on_report=reports.append)
    assert reports == [swept] and (tmp_path / "out" / "results.jsonl").read_bytes() == before
    assert [row.nll for row in swept.rows] == [row.nll for row in report.rows[2:]]
    assert swept.recommended.label in ("NTP", "DiagD k=1 d=2")
    assert json.loads((tmp_path / "out" / "sweep.json").read_text())["command"] == "again"
    assert capfd.readouterr() == ("", "")
