"""diagd bench: the table, the report, the plot, and what is refused before any work is done."""

import json
import sys

import pytest
from PIL import Image

from diagd_cli.jobs.benchmark import machine
from diagd_cli.preset_files import load_preset


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A machine measured so shortly that its figures say little."""
    monkeypatch.setattr(machine, "SECONDS", 0.005)
    monkeypatch.setitem(machine.READ, "cpu", 1 << 22)
    monkeypatch.setitem(machine.SIDE, "cpu", 128)


@pytest.fixture
def bench(diagd, tiny):
    def run(*options):
        return diagd("bench", "-p", tiny.preset, "--seed", 0, "--repeats", 2, *options)

    return run


def test_report(bench, tmp_path):
    done = bench(
        "--batch", "1,2", "--decodings", "ntp,diagd,zipar:3", "--json", "-o", tmp_path / "out.json"
    )
    [report] = done.objects
    assert done.code == 0 and report == json.loads((tmp_path / "out.json").read_text())
    assert list(report) == [
        "preset",
        "weights",
        "machine",
        "versions",
        "settings",
        "models",
        "rows",
    ]
    assert (report["preset"], report["weights"], report["machine"]["device"]) == (
        "tiny",
        "the preset's",
        "cpu",
    )
    assert report["machine"]["threads"] == 1 and report["machine"]["bandwidth"] > 0
    settings = {
        name: report["settings"][name]
        for name in ("frames", "context_frames", "seed", "repeats", "steps")
    }
    assert settings == {"frames": 3, "context_frames": 2, "seed": 0, "repeats": 2, "steps": None}
    assert "random" in report["settings"]["context"]
    [model] = report["models"]
    assert (
        model["load_seconds"] > 0
        and model["pixels"]["frames"] == 5
        and len(model["pixels"]["seconds"]) == 2
    )
    rows = report["rows"]
    assert [row["label"] for row in rows] == ["NTP", "DiagD k=1 d=2", "ZipAR window=3"] * 2
    assert [(row["batch"], row["steps"], row["tokens"], row["baseline"]) for row in rows] == [
        (1, 18, 18, 0), (1, 8, 18, 0), (1, 18, 18, 0), (2, 18, 36, 3), (2, 8, 36, 3), (2, 18, 36, 3),
    ]  # fmt: skip
    for row in rows:
        assert len(row["seconds"]["prefill"]) == len(row["seconds"]["decode"]) == 2
        assert (
            0 < row["limit_share"] <= 1.5
            and row["extrapolated"] is None
            and row["timed_steps"] == row["steps"]
        )
        base = rows[row["baseline"]]
        assert row["speedup"] == pytest.approx(base["decode_seconds"] / row["decode_seconds"])
        assert row["speedup_share"] == pytest.approx(row["speedup"] * row["steps"] / base["steps"])
        assert row["ms_per_step"] == pytest.approx(1000 * row["decode_seconds"] / row["steps"])
        assert row["tokens_per_second"] == pytest.approx(row["tokens"] / row["decode_seconds"])
        assert row["frames_per_second"] == pytest.approx(3 * row["batch"] / row["decode_seconds"])
        assert row["fed_tokens"] >= row["tokens"] and row["peak_memory_bytes"]["host"] > 0


def squeeze(line):
    return " ".join(line.split())


def test_table_fits_100_columns(bench):
    done = bench(
        "--batch", "1,4", "--decodings", "spatial:3,diagd:3:5", "--dtypes", "float32,bfloat16"
    )
    lines = done.out.splitlines()
    assert (
        done.code == 0
        and max(map(len, lines)) <= 100
        and "…" not in done.out
        and "~" not in done.out
    )
    assert (
        "1 thread, torch " in lines[0]
        and " GB/s, " in lines[0]
        and lines[0].endswith(" GFLOP/s bfloat16")
    )
    assert lines[1] == "tiny, 3 new frames after 2 drawn at random, seed 0"
    assert "decoding dtype B steps tok/step ms/step tok/s fps speed-up ideal limit peak GB" in map(
        squeeze, lines
    )
    rows = [line for line in lines if "x " in line and "%" in line]
    assert len(rows) == 8 and sum("bfloat16 4 " in squeeze(row) for row in rows) == 2


def test_defaults_are_ntp_and_the_presets_own(bench):
    [report] = bench("--json", "--no-pixels").objects
    assert [row["label"] for row in report["rows"]] == ["NTP", "DiagD k=1 d=2"] and report[
        "models"
    ][0]["pixels"] is None


def test_some_steps_only(bench):
    [report] = bench("--steps", 3, "--frames", 5, "--json").objects
    for row in report["rows"]:
        assert row["timed_steps"] == 3 and 0 < row["limit_share"] <= 1.5
        assert set(row["extrapolated"]) == {
            "decode_seconds", "tokens_per_second", "frames_per_second", "speedup", "speedup_share",
        }  # fmt: skip
        assert not set(row["extrapolated"]) & set(row) and row["extrapolated"]["decode_seconds"] > 0
    assert [row["steps"] for row in report["rows"]] == [30, 14] and report["settings"]["steps"] == 3
    assert report["models"][0]["pixels"]["frames"] == 7
    done = bench("--steps", 3)
    assert done.out.count("~") == 2 * 4 + 1 and "extrapolated from 3 steps" in done.out


def test_preset_without_its_weights(diagd, tiny, tmp_path):
    preset = tmp_path / "tiny.yaml"
    preset.write_text(tiny.preset.read_text())
    options = ["bench", "-p", preset, "--repeats", 1, "--weights-dir", tmp_path / "none"]
    done = diagd(*options)
    assert done.code == 1 and "weights of tiny are missing" in done.err and done.out == ""
    [report] = diagd(*options, "--random-weights", "--json").objects
    assert report["weights"] == "random"


def test_preset_that_attends_to_text(diagd, tmp_path):
    """Cosmos's kind, with two clips that share an empty prompt and a tokenizer of several frames a
    latent frame.
    """
    preset = tmp_path / "small.yaml"
    preset.write_text(
        """
name: small
about: Random weights on latent frames of 2x4 tokens.
licence: Apache-2.0
clip: {height: 32, width: 64, fps: 25, context: 9, least: 9, frames: 16, window: 25}
tokenizer: {kind: cosmos-dv, levels: [4, 4], channels: 8, multipliers: [1, 1, 1], blocks: 1, z_channels: 4, patch: 4,
  spatial_compression: 16, temporal_compression: 8, resolution: 64, attention: []}
transformer: {vocab: 16, dim: 16, layers: 1, heads: 2, kv_heads: 1, head_dim: 8, mlp_dim: 16, cross_dim: 12,
  positions: {kind: rope-3d}}
text: {length: 5}
decoding: {k: 2, d: 3}
"""
    )
    load_preset(preset)
    done = diagd("bench", "-p", preset, "--random-weights", "--batch", 2, "--repeats", 1, "--json")
    assert done.code == 0, done.err
    [report] = done.objects
    assert [(row["steps"], row["tokens"]) for row in report["rows"]] == [(16, 32), (9, 32)]
    assert report["models"][0]["pixels"]["frames"] == 25


@pytest.mark.parametrize("options", [[], ["--steps", 2]], ids=["whole", "extrapolated"])
def test_plot(bench, tmp_path, options):
    pytest.importorskip("matplotlib")
    target = tmp_path / "plots" / "speed.png"
    done = bench(
        "--decodings", "ntp,spatial,diagd:1:2", "--batch", "1,2", "--plot", target, *options
    )
    assert done.code == 0, done.err
    with Image.open(target) as image:
        assert (
            image.format == "PNG"
            and min(image.size) > 400
            and len(image.convert("RGB").getcolors(1 << 20)) > 20
        )
    assert [path.name for path in target.parent.iterdir()] == ["speed.png"]


def test_plot_needs_matplotlib(bench, tmp_path, monkeypatch):
    """Told at once."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = bench("--plot", tmp_path / "a.png")
    assert done.code == 1 and done.out == ""
    assert done.err == (
        "error: --plot needs the package matplotlib. Install it with: pip install 'diagd[report]'\n"
    )


@pytest.mark.parametrize(
    "options, message",
    [
        (
            ["--decodings", "ntp,fast"],
            "Invalid value for '--decodings': 'fast' is not one of ntp, exact, diagd",
        ),
        (["--decodings", "diagd:4"], "k is 4. On a 2x3 grid it must lie in 1..3"),
        (
            ["--batch", "1,0"],
            "Invalid value for '--batch': '1,0' is not whole numbers above 0, by comma",
        ),
        (
            ["--batch", "two"],
            "Invalid value for '--batch': 'two' is not whole numbers above 0, by comma",
        ),
        (
            ["--dtypes", "float32,int8"],
            "Unknown dtype 'int8'. Use auto, float32, bfloat16, float16",
        ),
        (["--steps", "0"], "Invalid value for '--steps': '0' is not a whole number, 1 or more"),
        (["--repeats", "0"], "Invalid value for '--repeats': '0' is not a whole number, 1 or more"),
        (["--context", "9"], "The context is 9 frame(s). The preset tiny takes 2 to 5"),
        (["--plot", "speed.pdf"], "--plot is 'speed.pdf'. Name a .png file"),
        (["--device", "abacus"], "Unknown device 'abacus'"),
    ],
)
def test_bad_options(bench, options, message):
    done = bench(*options)
    assert done.code == 2 and done.err.startswith(f"error: {message}") and done.out == ""


def test_clips_that_do_not_fit_are_refused_before_they_are_tried(bench):
    done = bench("--batch", "1,1000000000000")
    assert done.code == 1 and "GB are free on cpu" in done.err


@pytest.mark.parametrize("option, name", [("--output", "out.json"), ("--plot", "out.png")])
def test_existing_output(bench, tmp_path, option, name):
    target = tmp_path / name
    target.write_text("precious")
    done = bench(option, target)
    assert (
        done.code == 1
        and f"{target} exists already" in done.err
        and target.read_text() == "precious"
    )
    assert (
        bench(option, target, "--force", "--quiet").err == "" and target.read_bytes() != b"precious"
    )


def test_preset_that_is_missing(diagd, tmp_path):
    done = diagd("bench", "-p", tmp_path / "none.yaml")
    assert done.code == 2 and done.err.startswith(f"error: No preset file {tmp_path}/none.yaml")


def test_weights_of_8_bits_beside_floats(bench, int8_processor):
    """Each with its own NTP, its own rates of the machine, and fewer bytes to read."""
    done = bench("--dtypes", "float32,float32+int8", "--json")
    [report] = done.objects
    assert done.code == 0, done.err
    kinds = [row["dtype"] for row in report["rows"]]
    assert kinds == ["float32", "float32", "float32+int8", "float32+int8"]
    assert [row["baseline"] for row in report["rows"]] == [0, 0, 2, 2]
    assert list(report["machine"]["flops"]) == ["float32", "float32+int8"]
    assert [model["dtype"] for model in report["models"]] == ["float32", "float32+int8"]
    done = bench("--dtypes", "int8")
    assert done.code == 2 and "Unknown dtype 'int8'" in done.err
