"""--decoding exact, in the commands that take a decoding: the tokens of next-token prediction."""

import json
import shutil

import numpy as np
import pytest


def tokens(path):
    return np.load(path.with_suffix(".npz"))["codes"].tolist()


def test_shipped_preset(diagd, clips, tmp_path):
    options = ["--decodings", "ntp,exact", "--context", 1, "--frames", 1, "--seed", 0, "--json"]
    done = diagd("compare", clips / "maze.mp4", *options, "-o", tmp_path / "maze.mp4")
    assert done.code == 0, done.err
    plain, exact = done.objects[0]["decodings"]
    assert (plain["steps"], plain["tokens"], exact["tokens"]) == (300, 300, 300)
    assert exact["steps"] < 100 and exact["token_agreement"] == 1


@pytest.mark.parametrize("window", ["", "5", "roll,3"])
def test_tokens_are_those_of_next_token_prediction(diagd, tiny, tmp_path, window):
    """Of two clips in a batch, beyond the window of frames, and told in the sidecar."""
    other = tmp_path / "other.mp4"
    for suffix in (".mp4", ".jsonl"):
        shutil.copy(tiny.clip.with_suffix(suffix), other.with_suffix(suffix))
    common = ["generate", tiny.clip, other, "-p", tiny.preset, "--frames", 7, "--batch", 2]
    common += ["--seed", 3, "--save-tokens"]
    plain = diagd(*common, "--decoding", "ntp", "-o", tmp_path / "plain")
    chosen = ["--window", window] if window else []
    exact = diagd(*common, "--decoding", "exact", *chosen, "-o", tmp_path / "exact")
    assert plain.code == exact.code == 0, exact.err
    made = sorted((tmp_path / "exact").glob("*.mp4"))
    assert len(made) == 2
    for path in made:
        assert tokens(path) == tokens(tmp_path / "plain" / path.name)
        told = json.loads(path.with_suffix(".json").read_text())
        width = int(window.rpartition(",")[2] or 0)
        facts = told["settings"]["decoding"]
        assert facts["method"] == "exact" and facts["width"] == width
        assert 0 < told["steps"] < told["tokens"]


def test_bench_counts_passes_and_tokens_fed(diagd, tiny):
    done = diagd("bench", "-p", tiny.preset, "--decodings", "ntp,exact:4", "--repeats", 1, "--json")
    assert done.code == 0, done.err
    plain, exact = done.objects[0]["rows"]
    assert exact["tokens"] == plain["tokens"] and exact["steps"] <= plain["steps"]
    assert exact["tokens"] <= exact["fed_tokens"] + 1 <= 4 * exact["steps"] + 1


def test_a_sweep_has_a_point_of_it(diagd, tiny, tmp_path):
    options = ["--k", 1, "--d", 2, "--decodings", "exact:4", "--seed", 0, "--no-chart"]
    done = diagd(
        "sweep", tiny.clip, "-p", tiny.preset, *options, "--out", tmp_path / "out", "--json"
    )
    assert done.code == 0, done.err
    rows = {row["label"]: row for row in done.objects[-1]["rows"]}
    assert rows["exact window=4"]["token_agreement"]["mean"] == 1


def test_a_plan_says_what_only_a_run_can_tell(diagd):
    done = diagd("plan", "--grid", "2,4,5", "--decoding", "exact", "--window", "8")
    assert "exact window=8, the tokens of next-token prediction" in done.out
    assert "40 tokens in at most 40 passes: how many depends on the guesses" in done.out


@pytest.mark.parametrize(
    "options, told",
    [
        (["--decoding", "exact", "--window", "9999"], "The window of guesses is 9999. On a "),
        (["--window", "sideways"], "'sideways' is not one of roll, slide"),
        (["--window", "8,9"], "'9' is not one of roll, slide"),
        (["--window", "roll-2"], "'roll-2' is not one of roll, slide"),
        (["--window", "slide-99"], "The window slides over 99 latent frames. Use at most "),
        (["--window", "slide-1", "--sinks", "1"], "sinks is 1. Use at most 0, for a window of 1"),
    ],
)
def test_windows_that_are_none(diagd, tiny, options, told):
    done = diagd("generate", tiny.clip, "-p", tiny.preset, *options)
    assert done.code == 2 and told in done.err


def test_a_part_of_a_run_cannot_tell_its_passes(diagd, tiny):
    done = diagd("bench", "-p", tiny.preset, "--decodings", "exact", "--steps", 2)
    assert done.code == 2 and "Leave --steps out" in done.err
