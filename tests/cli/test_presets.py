"""diagd presets: list, show, check."""

import shutil

import yaml

from diagd_cli.preset_files import load_preset, preset_names


def test_list(diagd):
    for done in (diagd("presets"), diagd("presets", "list")):
        assert (
            done.code == 0 and [line.split()[0] for line in done.out.splitlines()] == preset_names()
        )
        assert "Freedoom rooms" in done.out
    listed = diagd("presets", "list", "--json").objects
    assert [preset["name"] for preset in listed] == preset_names() and all(
        preset["about"] for preset in listed
    )


def test_what_show_prints_is_a_preset(diagd, tmp_path):
    done = diagd("presets", "show", "freedoom")
    (tmp_path / "mine.yaml").write_text(done.out)
    shown, shipped = load_preset(tmp_path / "mine.yaml"), load_preset("freedoom")
    assert shown.model_dump() == shipped.model_dump()
    assert diagd("presets", "show", "freedoom", "--json").objects == [yaml.safe_load(done.out)]


def test_show_says_why_a_window_cannot_slide(diagd):
    last = lambda name: diagd("presets", "show", name).out.splitlines()[-1]  # noqa: E731
    assert last("freedoom") == "# window of frames: slide or roll"
    why = "its positions are learned, and end where the window does"
    assert last("wham-200m") == f"# window of frames: it cannot slide: {why}"


def test_check(diagd, tiny, tmp_path):
    assert (
        diagd("presets", "check", tiny.preset).out
        == "tiny: the preset is valid and its weights fit\n"
    )
    shutil.copy(tiny.preset, tmp_path / "alone.yaml")
    done = diagd("presets", "check", tmp_path / "alone.yaml")
    assert done.code == 1 and done.err.startswith(
        "error: The transformer weights of tiny are missing: no transformer.safetensors"
    )
    done = diagd("presets", "check", "nothing.yaml")
    assert done.code == 2 and done.err.startswith("error: No preset file nothing.yaml")


def test_shipped_preset_is_valid(diagd):
    assert diagd("presets", "check", "freedoom").code == 0
