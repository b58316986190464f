"""Every benchmark runs, says the same on paper and in JSON, and compares contestants that make the
same tokens.
"""

import io
import json
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image
from tiny import moving, save_clip

from benchmarks import (
    busy,
    common,
    curves,
    decodings,
    exact,
    film,
    gpu,
    growth,
    health,
    plain_loop,
    play,
    step,
)
from benchmarks.common import Lap, Prompted
from diagd_cli import Decoding, load, play_app, random_transformer
from diagd_cli.processor import native_int8

GROWTH = [
    "--frames",
    "1",
    "--grids",
    "5x6",
    "--batches",
    "2",
    "--contexts",
    "1",
    "--new",
    "1",
    "--layers",
    "1",
]


@pytest.fixture(scope="module")
def clip() -> Prompted:
    """One frame of 4x6 random tokens, to be followed by two more; tokens vary."""
    preset = common.plain_mineworld("tiny", 3)
    model = random_transformer(preset, seed=0)
    common.enliven(model.embed)
    return Prompted(preset, model, context=1, frames=2)


@pytest.fixture(scope="module")
def transformers_generate():
    """The script, which imports transformers: that takes seconds, and no other test here needs it."""
    from benchmarks import transformers_generate

    return transformers_generate


@pytest.fixture
def bench(tmp_path, capsys):
    """Runs a script once; returns the rows of its JSON file, having checked that its table is
    theirs.
    """

    def run(script, *options) -> list[dict]:
        script.main([*options, "--repeats", "1", "--threads", "1", "--out", str(tmp_path)])
        name = script.__name__.removeprefix("benchmarks.")
        facts = json.loads((tmp_path / f"{name}.json").read_text())
        assert facts["benchmark"] == name
        assert facts["settings"]["repeats"] == facts["machine"]["threads"] == 1
        assert "torch" in facts["machine"]["versions"]
        assert capsys.readouterr().out == common.table(facts["rows"]) + "\n"
        assert all(row["ms/step"] > 0 and row["tokens/s"] > 0 for row in facts["rows"])
        return facts["rows"]

    return run


def test_transformers_makes_our_tokens(bench, transformers_generate):
    rows = bench(transformers_generate, "--sizes", "tiny", "--tokens", "5", "--frames", "2")
    same = {row["contestant"]: row["same tokens"] for row in rows}
    for name in (
        "transformers, dynamic, float32",
        "transformers, static, float32",
        "diagd, NTP, float32",
    ):
        assert same[name] == "6/6"
    forms = ["float32", "bfloat16", *(["float32+int8"] if native_int8() else [])]
    assert {row["contestant"] for row in rows if row["same tokens"] is None} == {
        f"diagd, {label}, {form}"
        for label in ("spatial DiagD k=2", "spatial DiagD k=1", "DiagD k=2 d=8", "DiagD k=1 d=4")
        for form in forms
    }
    assert (
        max(row["times their best"] for row in rows if row["contestant"].startswith("transformers"))
        == 1
    )


def test_agreement_counts_the_tokens_before_the_first_that_differs(transformers_generate):
    assert transformers_generate.agreement([1, 2, 3], [1, 5, 3]) == "1/3"


def test_the_authors_figures_stand_next_to_their_own_setting_only(transformers_generate):
    rows = transformers_generate.orientation("tiny", repeats=1)
    assert [row["threads"] for row in rows] == [1] * 5
    assert all(row["authors' tokens/s"] is None for row in rows)


def test_the_plain_loop_makes_our_tokens(bench):
    rows = bench(plain_loop, "--sizes", "tiny", "--tokens", "30", "--no-compile")
    assert [(row["contestant"], row["same tokens"]) for row in rows] == [
        ("plain loop, eager", "31/31"),
        ("diagd, NTP", "31/31"),
    ]


def test_guesses_make_the_tokens_of_our_ntp(bench, tiny, tmp_path):
    picture = tmp_path / "proved.png"
    options = ["--preset", str(tiny.preset), "--clips", str(tiny.clip), "--frames", "2"]
    options += ["--windows", "4", "--raster", "3", "--picture", str(picture)]
    rows = bench(exact, *options)
    names = [row["decoding"] for row in rows]
    assert names[:4] == [
        "NTP",
        "exact, 7 guesses, in a row, random",
        "exact, 3 guesses, in a row",
        "exact, 4 guesses, ours",
    ]
    assert all(row["same"] == "100%" for row in rows if "exact" in row["decoding"])
    assert all(row["passes a frame"] <= rows[0]["passes a frame"] for row in rows)
    assert Image.open(picture).size == (exact.PIXELS * (2 * 3 + 1), exact.PIXELS * 2)


def test_decodings_are_compared_with_our_ntp(bench):
    rows = bench(decodings, "--families", "tiny", "--steps", "0")
    assert rows[0]["decoding"] == "NTP" and rows[0]["speed-up"] == rows[0]["share"] == 1
    for row in rows:
        assert row["steps timed"] == row["steps"] - 1 and not row["extrapolated"]
        assert row["schedule's"] == rows[0]["steps"] / row["steps"]
        assert row["share"] == pytest.approx(row["speed-up"] / row["schedule's"])


def test_some_steps_stand_for_all(bench):
    rows = bench(decodings, "--families", "tiny", "--steps", "4")
    assert {row["steps timed"] for row in rows} == {4}
    assert {row["extrapolated"] for row in rows} == {"yes"}


@pytest.mark.parametrize("name", decodings.families())
def test_every_family_has_its_decodings(name):
    family = decodings.families()[name]
    grid = family.preset.grid
    labels = [walk.label(grid) for walk in decodings.decodings(family.preset)]
    assert labels[0] == "NTP" and len(labels) == len(set(labels)) >= 5
    assert family.context + family.frames <= family.preset.window


def test_growth_has_a_row_for_every_point(bench):
    rows = bench(growth, *GROWTH)
    assert [(row["grows"], row["to"]) for row in rows] == [
        ("frames", 1),
        ("batch", 2),
        ("grid", "5x6"),
        ("context", 1),
    ]


def test_a_plan_begins_as_it_goes_on(clip):
    plan, greedy = clip.plan(Decoding("ntp")), common.Sampling(8262, temperature=0)
    whole, part = clip.run(plan, greedy), clip.run(common.pick(plan, np.arange(10)), greedy)
    assert part.ids == whole.ids[:10]
    assert len(set(whole.ids)) > 10
    assert (part.steps, part.tokens) == (9, 9)  # the first is not timed


def test_picked_steps_are_as_wide_as_in_the_whole_plan(clip):
    plan, steps = clip.plan(Decoding("diagd", k=2, d=8)), np.array([0, 3, 9, 17])
    part = common.pick(plan, steps)
    assert part.widths.tolist() == plan.widths[steps].tolist()
    assert part.outputs.tolist() == plan.outputs[steps].tolist()
    assert part.prefill == plan.prefill


def test_contestants_take_turns_after_a_warm_up():
    turns = []

    def contestant(name, seconds):
        def run() -> Lap:
            turns.append(name)
            return Lap(next(seconds), steps=2, tokens=4)

        return run

    contestants = {
        "a": contestant("a", iter([9.0, 3, 1, 2])),
        "b": contestant("b", iter([9.0, 8, 8, 8])),
    }
    laps = common.interleave(contestants, repeats=3)
    assert turns == ["a", "b"] * 4
    assert common.median(laps["a"]).seconds == 2
    assert common.figures(laps["a"])["tokens/s"] == 2


def test_the_shares_of_a_step_are_its_whole(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(step, "DECODINGS", {"DiagD": (2, Decoding("diagd", k=1, d=2))})
    # what ships takes long
    monkeypatch.setattr(step, "load", lambda name, own=step.load: own(str(tiny.preset)))
    step.main(["--threads", "1", "--out", str(tmp_path / "step.json")])
    [row] = json.loads((tmp_path / "step.json").read_text())["rows"]
    shares = [row[kind] for kind in (*step.KINDS, step.OTHER, step.PYTHON)]
    assert sum(shares) == pytest.approx(100, abs=0.5) and min(shares) > 0
    assert row["steps"] == 8 and row["products"] > row["norms"]
    assert [
        cell.strip() for cell in capsys.readouterr().out.splitlines()[0].strip("|").split("|")
    ] == list(row)


def test_curves_have_a_panel_for_each_log(tmp_path, capsys):
    curves.main(["-o", str(tmp_path / "all.png")])
    assert capsys.readouterr().out == f"{tmp_path}/all.png\n"
    curves.main([str(curves.SHIPPED[0]), "-o", str(tmp_path / "one.png")])
    assert Image.open(tmp_path / "all.png").width > 2.5 * Image.open(tmp_path / "one.png").width


def test_a_resumed_runs_steps_are_drawn_once(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text(
        "".join(
            json.dumps({"step": step, "loss": loss}) + "\n"
            for step, loss in ((2, 5), (1, 6), (2, 4))
        )
    )
    assert curves.read(log) == [{"step": 1, "loss": 6}, {"step": 2, "loss": 4}]


def test_health_tells_the_likelihood_frame_by_frame(tiny, tmp_path, capsys):
    for split in ("train", "val"):
        save_clip(tmp_path / split / "walk.mp4", moving(8))
    health.main([str(tmp_path), "--preset", str(tiny.preset), "--windows", "3"])
    *frames, overall = capsys.readouterr().out.splitlines()
    values = [float(line.split()[2]) for line in frames]
    assert [line.split(":")[0] for line in frames] == [f"frame {n}" for n in range(1, 6)]
    change = 100 * (np.mean(values[3:]) / values[0] - 1)
    assert (
        overall.endswith(f"; last 2 frames {change:+.1f} % against the first") and min(values) > 0
    )


def test_a_busy_machine_is_compared_with_a_quiet_one(tiny, tmp_path, capsys, monkeypatch):
    """The command line is run as everybody runs it; of the others, that they are there, and gone
    afterwards.
    """
    runs, there = [], []
    monkeypatch.setattr(
        busy, "others", lambda count, own=busy.others: there.append(count) or own(count)
    )
    real = busy.generate

    def generate(args, variables, *options):
        runs.append((variables, options))
        return real(args, variables, *options) if len(runs) == 1 else Lap(2.0, 10, 100)

    monkeypatch.setattr(busy, "generate", generate)
    monkeypatch.setenv("DIAGD_PRESET", str(tiny.preset))  # what ships takes long
    monkeypatch.setattr(busy, "CLIP", tiny.clip)
    busy.main(["--frames", "1", "--repeats", "1", "--threads", "2", "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "busy.json").read_text())["rows"]
    names = ["as it comes", "2 threads", "one thread", "2 threads that do not spin"]
    assert [row["contestant"] for row in rows] == 2 * names and there[0] == 0 < there[1]
    assert [row["other processes"] for row in rows] == [n for n in there for _ in names]
    assert rows[0]["steps timed"] == 4 and rows[0]["tokens/s"] > 0 and rows[1]["tokens/s"] == 50
    assert runs[:4] == [
        ({}, ()),
        ({}, ("--threads", 2)),
        ({}, ("--threads", 1)),
        ({"GOMP_SPINCOUNT": "0"}, ("--threads", 2)),
    ]


def test_what_those_get_who_play(tiny, bench, monkeypatch):
    @contextmanager
    def served(args, sessions):  # without a process of its own, which takes seconds to start
        app = play_app(load(args.preset), args.clip, seed=1, pace=0, sessions=sessions)
        with play.here(app) as (address, _):
            yield address

    monkeypatch.setattr(play, "served", served)
    options = ["--preset", str(tiny.preset), "--clip", str(tiny.clip), "--seconds", "0.3"]
    rows = bench(play, *options, "--players", "1", "2")
    assert [(row["decoding"], row["players"]) for row in rows] == [
        ("NTP", 1),
        ("spatial DiagD k=1", 1),
        ("DiagD k=1 d=2", 1),
        ("DiagD k=1 d=2", 2),
    ]
    for row in rows:
        assert 0 < row["key to picture, median ms"] <= row["95th percentile"]
        assert row["tokens/s"] == pytest.approx(row["frames/s each"] * row["players"] * 6)


def test_a_film_shows_each_picture_for_as_long_as_it_stood(tmp_path):
    """The last one for half a second."""
    shots = []
    for time, grey in ((1.0, 0), (1.1, 120), (1.4, 240)):
        shot = io.BytesIO()
        Image.new("RGB", (32, 16), (grey, grey, grey)).save(shot, "JPEG")
        shots.append((time, shot.getvalue()))
    film.write(tmp_path / "film.webp", shots)
    with Image.open(tmp_path / "film.webp") as made:
        lasted = []
        for frame in range(made.n_frames):
            made.seek(frame)
            made.load()
            lasted.append(made.info["duration"])
    assert lasted == [100, 300, 500]


def test_a_long_play_tells_what_grows_and_what_is_left(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(play, "SETTLED", 0.5)
    monkeypatch.setattr(play, "harass", lambda address: (0, play.come_and_go(address, 2)))
    options = ["--preset", str(tiny.preset), "--clip", str(tiny.clip), "--soak", "0.01"]
    play.main([*options, "--threads", "1", "--out", str(tmp_path)])
    first, gone, closed = json.loads((tmp_path / "play_soak.json").read_text())["rows"]
    assert first["minute"] == 1 and first["connections"] == 1 and first["frames/s"] > 0
    assert gone["connections"] == 0 and gone["tasks"] < first["tasks"]
    assert closed["threads"] == 0


def test_the_run_that_is_prepared_for_a_gpu(tmp_path, capsys, int8_processor, monkeypatch):
    """All of it, at tiny sizes on the CPU; on each of the ways it takes tokens are the same.

    Of the four families one whose window slides and one that has a text: that all are made right
    by replayed steps, in a batch and with weights of 8 bits is what the engine's tests are for.
    """
    monkeypatch.setattr(gpu, "FAMILIES", ("freedoom", "cosmos-5b-video2world"))
    names = ["freedoom", "cosmos-4b"]
    gpu.main(["--tiny", "--device", "cpu", "--models", *names, "--out", str(tmp_path)])
    facts = json.loads((tmp_path / "gpu.json").read_text())
    rows, said = facts["rows"], capsys.readouterr().out.splitlines()
    assert facts["tiny"] and sum(line.startswith("part ") for line in said) == len(rows)
    assert not [row for row in rows if "failed" in row or "left out" in row]
    correct = [row for row in rows if row["part"].startswith("correct")]
    parts = {f"correct, {name}" for name in (*gpu.FAMILIES, "8 bits")}
    assert {row["part"] for row in correct} == parts
    assert {"roll", "slide"} == {row["window"] for row in correct}
    for row in correct:
        assert row["graphs = eager"] == row.get("GPU = CPU", 1) == row["alone = in a batch"] == 1
    assert set(names) < {model.preset for model in gpu.MODELS}
    for model in (model for model in gpu.MODELS if model.preset in names):
        for kind in model.numbers:
            own = [row for row in rows if row["part"] == f"{model.preset}, {kind}"]
            assert sum("tokens/s" in row for row in own) == len(model.decodings)
            assert any("decode pixels s" in row for row in own)
            assert any("estimated GB" in row for row in own)
    for model in (model for model in gpu.MODELS if model.preset in names):
        part = [row for row in rows if row["part"] == f"profile of {model.preset}, bfloat16"]
        for decoding in {row["decoding"] for row in part}:
            own = [row.get("share", 1) for row in part if row["decoding"] == decoding]
            assert own == sorted(own, reverse=True) and len(own) > 3 and sum(own[1:]) <= 1
    for row in (row for row in rows if row["part"] == "endless"):
        assert row["frames/s"] > 0 and row["gap ms"] <= row["longest"]
    assert [row["guesses"] for row in rows if row["part"] == "passes"] == [0, 8]


def test_a_run_for_a_gpu_that_is_cut_off_tells_what_it_has(tmp_path):
    """A part that fails is told in a line, and what there is no time for."""

    def fails(*arguments):
        raise RuntimeError("out of memory\nand more")
        yield

    log = gpu.Log(tmp_path / "gpu.json", {"benchmark": "gpu"}, seconds=60)
    log.take("one", lambda: fails())
    log.ends = 0
    log.take("two", lambda: iter([{"never": 1}]))
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert rows == [
        {"part": "one", "failed": "RuntimeError: out of memory"},
        {"part": "two", "left out": "no time was left"},
    ]
