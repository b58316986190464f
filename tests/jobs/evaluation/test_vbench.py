"""VBench: names of folders, what to run, and its results."""

import json

import pytest

from diagd_cli.errors import OutputError, UsageError
from diagd_cli.jobs.evaluation.vbench import check_export, commands, folder_of, read_results
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.tokens.grid import Grid

FOLDERS = ["ntp", "diagd-k2-d10"]


def result(folder, **means):
    return {
        name: [mean, [{"video_path": f"/videos/{folder}/0000-a-0.mp4", "video_results": mean}]]
        for name, mean in means.items()
    }


def test_folders():
    grid = Grid(3, 12, 0, 0)
    facts = [Decoding(m, 2, 10).facts(grid, 1) for m in ("ntp", "spatial", "diagd", "zipar")]
    assert [folder_of(f) for f in facts] == ["ntp", "spatial-k2", "diagd-k2-d10", "zipar-k2"]
    odd = Decoding("diagd", 2, 10, "above", repair=False, zero_slots=True).facts(grid, 1)
    assert (
        folder_of({**odd, "preset": "../it's mine"})
        == "diagd-k2-d10-above-no-repair-zero-slots-.._it_s_mine"
    )


def test_commands(tmp_path):
    lines = commands(tmp_path / "my videos", ["ntp"])
    assert len(lines) == 3 and lines[0] == (
        "vbench evaluate --mode custom_input --dimension subject_consistency "
        f"--videos_path '{tmp_path}/my videos/ntp' --output_path '{tmp_path}/my videos/results/ntp'"
    )


def test_results_go_to_the_folder_of_their_videos(tmp_path):
    parts = [
        result("ntp", subject_consistency=0.9, imaging_quality=61),
        result("diagd-k2-d10", dynamic_degree=1),
    ]
    paths = [tmp_path / f"{n}.json" for n in range(2)]
    for path, part in zip(paths, parts, strict=True):
        path.write_text(json.dumps(part))
    wanted = {
        "ntp": {"subject_consistency": 0.9, "imaging_quality": 61},
        "diagd-k2-d10": {"dynamic_degree": 1},
    }
    assert read_results(paths, FOLDERS) == wanted


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "is not a result of VBench: Invalid JSON"),
        ("[]", "is not a result of VBench: Input should be"),
        (
            '{"subject_consistency": 0.9}',
            "is not a result of VBench: subject_consistency: Input should be",
        ),
        (
            '{"subject_consistency": [0.9, [{"video_results": 1}]]}',
            "subject_consistency.1.0.video_path: Field required",
        ),
        (
            '{"subject_consistency": [NaN, [{"video_path": "ntp/a.mp4"}]]}',
            "subject_consistency is nan",
        ),
        ('{"subject_consistency": [0.9, []]}', "subject_consistency is of videos in none"),
        (json.dumps(result("other", dynamic_degree=1)), "dynamic_degree is of videos in other"),
    ],
)
def test_bad_results(tmp_path, text, message):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(UsageError) as failure:
        read_results([tmp_path / "r.json"], FOLDERS)
    assert message in str(failure.value)


def test_other_videos_in_the_folder(tmp_path):
    (tmp_path / "0000-a-0.mp4").touch()
    check_export(tmp_path, {"0000-a-0.mp4"})
    with pytest.raises(OutputError, match=r"holds 0000-a-0.mp4, which is not of this evaluation"):
        check_export(tmp_path, {"0001-b-0.mp4"})
