"""diagd attention: the picture, the shares, and what is refused before the model is loaded."""

import sys

import pytest
from PIL import Image

from diagd_cli.report.attention import NEIGHBOURS, PARTS


@pytest.fixture
def attention(diagd, tiny, tmp_path):
    def run(*options, clip=tiny.clip):
        return diagd("attention", clip, "-p", tiny.preset, "-o", tmp_path / "map.png", *options)

    return run


def test_shipped_preset_looks_at_its_neighbours(diagd, clips):
    """Near tokens, in the frame and at the same place before, get many times what uniform attention
    would give.
    """
    done = diagd("attention", clips / "rooms.mp4", "--no-picture", "--json")
    assert done.code == 0, done.err
    [facts] = done.objects
    assert (facts["frame"], facts["grid"], facts["positions"], len(facts["layers"])) == (
        4,
        [15, 20],
        1504,
        8,
    )
    for name in ("same_row", "row_above", "near", "near_before", "same_place_before"):
        assert facts["shares"][name] > 2 * facts["uniform"][name]
    for shares in (facts["shares"], facts["uniform"], *facts["layers"]):
        assert sum(shares[name] for name in PARTS) == pytest.approx(1, abs=1e-4) and set(
            shares
        ) == set(NEIGHBOURS)
    mean = sum(layer["near"] for layer in facts["layers"]) / 8
    assert facts["shares"]["near"] == pytest.approx(mean, abs=1e-5)


@pytest.mark.parametrize("options", [[], ["--layer", 0, "--head", 1, "--frame", 0, "-r", 0]])
def test_picture_and_table(attention, tmp_path, options):
    pytest.importorskip("matplotlib")
    done = attention(*options)
    assert done.code == 0 and done.out == f"{tmp_path}/map.png\n", done.err
    with Image.open(tmp_path / "map.png") as image:
        assert (
            image.format == "PNG"
            and min(image.size) > 400
            and len(image.convert("RGB").getcolors(1 << 20)) > 20
        )
    assert [path.name for path in tmp_path.iterdir()] == ["map.png"]
    lines = done.err.splitlines()
    assert lines[0].startswith("tiny, walk.mp4: attention of frame ") and max(map(len, lines)) <= 80
    shares = {
        label.strip(): figures
        for line in lines[4:]
        for label, *figures in [line.rsplit(maxsplit=3)]
    }
    assert shares["this frame"][0].endswith("%") and shares["the token itself"]


def test_table_without_a_picture(attention, tmp_path):
    done = attention("--no-picture", "--layer", 0, "--k", 2, "--d", 3)
    assert (done.code, done.err, list(tmp_path.iterdir())) == (0, "", [])
    assert "layer 0, all heads" in done.out and "not yet made by DiagD k=2 d=3" in done.out


def test_ntp_hides_nothing(attention):
    table = attention("--no-picture", "--decoding", "ntp").out
    assert table.splitlines()[-1].split() == [
        "not",
        "yet",
        "made",
        "by",
        "NTP",
        "0.0%",
        "0.0%",
        "-",
    ]
    [facts] = attention("--no-picture", "--decoding", "ntp", "--json").objects
    assert facts["shares"]["not_yet_made"] == 0 and facts["decoding"]["label"] == "NTP"
    [facts] = attention("--no-picture", "--json").objects
    assert facts["shares"]["not_yet_made"] > 0 and facts["decoding"]["label"] == "DiagD k=1 d=2"


def test_actions_lead_to_the_frame_that_is_looked_at(attention):
    left, right, recorded = (
        attention("--no-picture", "--json", *given).objects[0]["shares"]
        for given in (["--actions", "left"], ["--actions", "right"], [])
    )
    assert left != right and recorded in (left, right)


def test_random_weights(diagd, tiny, tmp_path):
    preset = tmp_path / "tiny.yaml"
    preset.write_text(tiny.preset.read_text())
    options = [
        "attention",
        tiny.clip,
        "-p",
        preset,
        "--no-picture",
        "--json",
        "--weights-dir",
        tmp_path / "none",
    ]
    assert "weights of tiny are missing" in diagd(*options).err
    assert diagd(*options, "--random-weights", "--seed", 1).objects[0]["frame"] == 2


def test_needs_matplotlib(attention, tmp_path, monkeypatch):
    """Told at once; the shares need no picture."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = attention()
    assert (done.code, done.out, list(tmp_path.iterdir())) == (1, "", [])
    assert done.err == (
        "error: The picture (leave it out with --no-picture) needs the package matplotlib. "
        "Install it with: pip install 'diagd[report]'\n"
    )
    assert attention("--no-picture").code == 0


@pytest.mark.parametrize(
    "options, message",
    [
        (["--layer", 1], "--layer is 1. The preset tiny has 1: give 0 to 0"),
        (["--head", 2], "--head is 2. The preset tiny has 2: give 0 to 1"),
        (["--frame", 5], "The frame is 5. The preset tiny holds frames 0 to 4"),
        (["--frame", "-1"], "Invalid value for '--frame': '-1' is not a whole number, 0 or more"),
        (["--k", 4], "k is 4. On a 2x3 grid it must lie in 1..3"),
        (["-o", "map.pdf"], "-o is 'map.pdf'. Name a .png file"),
    ],
)
def test_bad_options(attention, tmp_path, options, message):
    done = attention(*options)
    assert (done.code, done.out, list(tmp_path.iterdir())) == (2, "", [])
    assert done.err.startswith(f"error: {message}")


def test_clip_that_is_too_short(attention):
    done = attention("--start", 6)
    assert done.code == 1 and "too few to read 3 from frame 6 on" in done.err


def test_existing_picture(attention, tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "map.png").write_text("precious")
    done = attention()
    assert (
        done.code == 1
        and "exists already" in done.err
        and (tmp_path / "map.png").read_text() == "precious"
    )
    assert (
        attention("--force", "-q").err == "" and (tmp_path / "map.png").read_bytes() != b"precious"
    )
