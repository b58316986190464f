"""Presets: what they hold, and what is refused. The messages for bad files are tested in
cli/bad.
"""

import pytest
import yaml

from diagd_cli.errors import DiagdWarning, PresetError, UsageError
from diagd_cli.preset import Preset, is_plain
from diagd_cli.preset_files import load_preset, option_word, preset_names
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.tokens.grid import Grid


def test_shipped_presets():
    for name in preset_names():
        preset = load_preset(name)
        assert preset.name == name and preset.about and preset.licence
    assert load_preset("freedoom").tokenizer_weights and load_preset("freedoom").transformer_weights


def test_tiny(tiny):
    preset = load_preset(tiny.preset)
    assert preset.path == tiny.preset and preset.grid == Grid(2, 3, conditioning=1)
    assert preset.decoding.decoding == Decoding("diagd", k=1, d=2, stand_in="previous-frame")
    assert preset.actions.encode(list(preset.actions.names)).tolist() == [[25], [26], [27], [28]]


def test_what_names_a_preset_in_a_command(tiny, monkeypatch):
    """A preset of one's own is found by its path alone, whatever it is called."""
    monkeypatch.chdir(tiny.preset.parent)
    own = load_preset(tiny.preset.name)
    assert option_word(own) == tiny.preset.name
    assert option_word(own, absolute=True) == str(tiny.preset)
    for absolute in (False, True):
        assert option_word(load_preset("freedoom"), absolute) == "freedoom"


def test_presets_do_not_change(tiny):
    with pytest.raises(ValueError, match="frozen"):
        load_preset(tiny.preset).name = "other"


def test_temperatures_of_wham_end_where_its_official_code_ends_them():
    """It takes none below 0.1; 0 is greedy everywhere in diagd. What is changed is told."""
    for name in ("wham-200m", "wham-1.6b"):
        preset = load_preset(name)
        for temperature in (0, 0.1, 0.5):
            assert preset.sampling(temperature=temperature).temperature == temperature
        with pytest.warns(
            DiagdWarning,
            match=r"temperature 0\.05 counts as 0\.1, as in this model's official code",
        ):
            assert preset.sampling(temperature=0.05).temperature == 0.1
    assert load_preset("freedoom").sampling(temperature=0.05).temperature == 0.05


def test_without_actions_the_grid_has_no_conditioning(tiny):
    settings = yaml.safe_load(tiny.preset.read_text()) | {"actions": None}
    assert Preset(**settings).grid == Grid(2, 3)


@pytest.mark.parametrize("name", ["", "no/such", "no.yaml", "freedoom.yml", "freed\0om", "x" * 300])
def test_unknown(name):
    with pytest.raises(PresetError, match=r"Unknown preset|No preset file"):
        load_preset(name)


def test_directory(tmp_path):
    with pytest.raises(PresetError, match="cannot be read: is a directory"):
        load_preset(f"{tmp_path}/")


def test_merges_are_refused(tmp_path):
    """Ten levels of ten merges each: 10^10 keys if anything merged them."""
    lines = ["m0: &m0 {a: 1}"]
    lines += [f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 10)}]}}" for n in range(1, 11)]
    (tmp_path / "a.yaml").write_text("\n".join(lines))
    with pytest.raises(
        PresetError,
        match="line 2, column 10: not valid YAML: << is not supported, write the keys out",
    ):
        load_preset(tmp_path / "a.yaml")


def test_names_in_any_script():
    assert all(
        is_plain(name)
        for name in ("a", "wham-1.6b", "my preset (2)", "\u0939\u093f\u0928\u094d\u0926\u0940")
    )
    assert not any(
        is_plain(name) for name in ("", ".", "..", "a/b", "a\\b", "C:", "~\n", "\u202ea", "a" * 61)
    )


def test_aliases_that_multiply_are_harmless(tmp_path):
    """Ten levels of ten aliases each: 10^10 entries if anything walked them."""
    lines = ["a0: &a0 [x]"] + [
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 11)
    ]
    (tmp_path / "a.yaml").write_text("\n".join([*lines, "name: *a10"]))
    with pytest.raises(PresetError) as caught:
        load_preset(tmp_path / "a.yaml")
    assert len(str(caught.value)) < 300


def test_a_learned_place_is_one_of_a_frame(tmp_path):
    """The table of places would be read askew by frames of another number of tokens."""
    settings = load_preset("vavim-s").model_dump(mode="json")
    settings["clip"]["width"] = 256
    message = r"transformer\.positions\.places \(576\) must be the 288 tokens of a frame"
    with pytest.raises(ValueError, match=message):
        Preset.model_validate(settings)
    settings["transformer"]["positions"]["kind"] = "rope-1d"
    with pytest.raises(ValueError, match=r"places \(576\) are of learned positions, not rope-1d"):
        Preset.model_validate(settings)


# ---- windows -------------------------------------------------------------------------------------

WHY = {
    "freedoom": "",
    "mineworld-300m": "",
    "wham-200m": "its positions are learned, and end where the window does",
    "vavim-s": "its positions are learned, and end where the window does",
    "cosmos-5b-video2world": "its positions are absolute, and end where the window does",
    "cosmos-4b": "the first latent frame of its tokenizer stands for one frame only",
}


@pytest.mark.parametrize("name", WHY)
def test_which_windows_can_slide(name):
    """Those of models that know how far apart two frames are, and not where they are."""
    preset, slides = load_preset(name), Decoding("diagd", window="slide")
    assert preset.why_rolls == WHY[name]
    if WHY[name]:
        with pytest.raises(UsageError, match=f"cannot slide: {WHY[name]}. Let it roll"):
            preset.check_window(slides)
        defaults = preset.decoding.model_copy(update={"window": "slide"})
        with pytest.raises(UsageError, match="cannot slide"):
            Preset.model_validate({**preset.model_dump(), "decoding": defaults.model_dump()})
    else:
        preset.check_window(slides)


@pytest.mark.parametrize(
    "decoding, message",
    [
        (Decoding(sinks=1), "sinks is 1, and the window rolls"),
        (Decoding(sinks=8, window="slide"), "sinks is 8. Use at most 7, for a window of 8"),
        (Decoding(sinks=2, attend=2, window="slide"), "sinks is 2. Use at most 1, for a"),
        (Decoding(attend=9, window="slide"), "slides over 9 latent frames. Use at most 8"),
    ],
)
def test_sinks_and_what_is_attended_to_are_of_a_window_that_slides(decoding, message):
    with pytest.raises(UsageError, match=message):
        load_preset("freedoom").check_window(decoding)


def test_where_a_window_cannot_roll_it_may_slide():
    """With no overlap nothing is left when it is full."""
    preset = load_preset("freedoom")
    preset = preset.model_copy(update={"clip": preset.clip.model_copy(update={"overlap": 0})})
    with pytest.raises(UsageError, match="cannot make 5 frames after 4"):
        preset.check_frames(4, 5)
    preset.check_frames(4, 5, slides=True)
