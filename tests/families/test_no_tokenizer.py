"""A preset without a tokenizer: files of tokens in, files of tokens out."""

import numpy as np
import pytest
import yaml
from tiny import TINY

from diagd_cli.clip.read import read_clip
from diagd_cli.clip.tokens import holds_codes, read_codes
from diagd_cli.errors import ClipError
from diagd_cli.preset_files import load_preset

CODES = np.random.default_rng(0).integers(25, size=(4, 2, 3))


@pytest.fixture
def preset(tiny):
    """The tiny preset's Transformer, whose grid is told in tokens."""
    settings = yaml.safe_load(tiny.preset.read_text()) | {"name": "bare", "tokenizer": "none"}
    settings["clip"] |= {"height": 2, "width": 3}
    del settings["tokenizer_weights"]
    path = tiny.folder / "bare.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture
def walk(tmp_path):
    np.savez(tmp_path / "walk.npz", codes=CODES, context=2)
    return tmp_path / "walk.npz"


def test_its_codes_are_the_transformers_outputs(preset):
    made = load_preset(preset)
    assert (made.tokenizer.kind, made.tokenizer.codebook, made.pixels) == ("none", 25, False)
    assert (made.grid.h, made.grid.w) == (2, 3)


def test_the_tokens_are_those_that_are_made_of_pixels(preset, tiny, diagd, tmp_path):
    """The same continuation, by the preset with the tokenizer and by the one without it."""
    options = ("--seed", 3, "--frames", 3, "--actions", "left*3")
    done = diagd(
        "generate",
        tiny.clip,
        "-p",
        tiny.preset,
        *options,
        "--save-tokens",
        "-o",
        tmp_path / "a.mp4",
    )
    assert done.code == 0, done.err
    with np.load(tmp_path / "a.npz") as file:
        whole = file["codes"]
    np.savez(tmp_path / "walk.npz", codes=whole[:2])
    recorded = tiny.clip.with_suffix(".jsonl").read_text().splitlines()
    # of the clip's last frames, which are the context
    (tmp_path / "walk.jsonl").write_text("\n".join(recorded[-2:]))
    done = diagd(
        "generate", tmp_path / "walk.npz", "-p", preset, *options, "-o", tmp_path / "out/", "--json"
    )
    assert done.code == 0, done.err
    [made] = done.objects
    assert made["output"] == str(tmp_path / "out" / "walk.npz") and made["new_frames"] == 3
    with np.load(tmp_path / "out" / "walk.npz") as file:
        assert file["context"] == 2 and np.array_equal(file["codes"], whole)


def test_it_is_resumed_and_never_replaced(preset, walk, diagd, tmp_path):
    command = ("generate", walk, "-p", preset, "--seed", 1, "-o", tmp_path / "out/")
    assert diagd(*command).code == 0
    before = (tmp_path / "out" / "walk.npz").read_bytes()
    assert diagd(*command).code == 1
    done = diagd(*command, "--resume")
    assert done.code == 0 and "is there already" in done.err
    assert (tmp_path / "out" / "walk.npz").read_bytes() == before


def test_commands_that_need_no_pixels(preset, walk, diagd, tmp_path):
    for words in (
        ("plan", "-p", preset),
        ("weights", "check", preset),
        ("bench", "-p", preset, "--repeats", 1),
    ):
        done = diagd(*words)
        assert done.code == 0, done.err
    assert diagd("attention", walk, "-p", preset, "--no-picture").code == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["compare", "WALK", "-o", "OUT/c.mp4"], "has no tokenizer, and compare needs pixels"),
        (
            ["generate", "WALK", "--stream", "-o", "OUT/c.npz"],
            "has no tokenizer, and --stream needs pixels",
        ),
        (["generate", "WALK", "-o", "OUT/c.mp4"], "does not end in .npz"),
        (
            ["generate", "VIDEO", "-o", "OUT/c.npz"],
            "has pixels, and the preset bare has no tokenizer",
        ),
    ],
)
def test_what_needs_pixels_says_so(preset, walk, tiny, diagd, tmp_path, words, told):
    names = {"WALK": str(walk), "VIDEO": str(tiny.clip), "OUT": str(tmp_path)}
    for name, path in names.items():
        words = [word.replace(name, path) for word in words]
    done = diagd(*words, "-p", preset)
    assert done.code == 2 and told in done.err, done.err


def test_a_preset_with_a_tokenizer_takes_no_tokens(tiny, walk, diagd, tmp_path):
    done = diagd("generate", walk, "-p", tiny.preset, "-o", tmp_path / "a.mp4")
    assert (
        done.code == 2 and f"{walk} is a file of tokens. The preset tiny takes videos" in done.err
    )


def test_tokens_of_another_model_are_refused(preset, diagd, tmp_path):
    for codes, told in (
        (CODES + 25, "A token of the clip is"),
        (CODES[:, :1], "has 1x3 tokens a frame"),
    ):
        np.savez(tmp_path / "other.npz", codes=codes)
        done = diagd("generate", tmp_path / "other.npz", "-p", preset, "-o", tmp_path / "o.npz")
        assert done.code == 2 and told in done.err, done.err


@pytest.mark.parametrize("codes", [CODES.astype(float), CODES[0], CODES[:0], np.array([None])])
def test_files_that_hold_something_else(tmp_path, codes):
    """Objects would be pickles, which are never read."""
    np.savez(tmp_path / "a.npz", codes=codes)
    with pytest.raises(ClipError, match=r"a\.npz"):
        read_codes(tmp_path / "a.npz")


def test_a_file_of_tokens_is_known_by_its_field(walk, tmp_path):
    assert holds_codes(walk) and not holds_codes(tmp_path / "none.npz")
    clip = read_clip(walk, 2)
    assert np.array_equal(clip.frames, CODES[2:]) and (clip.first, clip.fps) == (2, None)


def test_the_yaml_that_a_preset_of_none_needs(tmp_path):
    settings = yaml.safe_load(TINY) | {"tokenizer": None}
    settings["clip"] |= {"height": 2, "width": 3}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(settings))
    assert load_preset(tmp_path / "a.yaml").tokenizer.kind == "none"
