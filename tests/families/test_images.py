"""Images of nothing but a label, through the command line: LlamaGen's preset, shrunk."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from families.small import write_small_models
from PIL import Image

from diagd_cli.clip.read import Clip
from diagd_cli.errors import PresetError
from diagd_cli.pipeline import continue_clip, load
from diagd_cli.preset_files import load_preset


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    """4x5 tokens, and weights that have opinions."""
    return write_small_models("llamagen-c2i-b-256", tmp_path_factory.mktemp("small"), sharp=True)


@pytest.fixture
def image(diagd, preset, tmp_path):
    """Makes an image: image("--label", 3) -> its codes and its sidecar."""

    def make(*options, seed=0):
        out = ("--save-tokens", "--force", "-o", tmp_path / "a.png")
        done = diagd("generate", "-p", preset, "--seed", seed, "--json", *out, *options)
        assert done.code == 0, done.err
        with np.load(tmp_path / "a.npz") as file:
            assert file["context"] == 0 and file["codes"].shape == (1, 4, 5)
            return file["codes"].tolist(), done.objects[0]

    return make


def test_an_image_of_a_label(image, tmp_path):
    codes, told = image("--label", 207)
    with Image.open(tmp_path / "a.png") as seen:
        assert (seen.size, seen.mode) == ((80, 64), "RGB")
    assert told == json.loads((tmp_path / "a.json").read_text())
    assert told["settings"]["label"] == 207
    assert told["settings"]["guidance"] == {"scale": 4.0, "tokens": 0}
    assert told["input"]["path"] is None and told["context_frames"] == 0
    assert (told["steps"], told["tokens"]) == (3 * 2 + 5, 20)
    assert image("--label", 207)[0] == codes


def test_what_decides_the_image(image):
    """Its label, its guidance and its seed; and exact makes the one of next-token prediction."""
    first = image("--label", 3)[0]
    others = [
        image("--label", 4)[0],
        image()[0],
        image("--label", 3, seed=1)[0],
        image("--label", 3, "--guidance", 1)[0],
        image("--label", 3, "--guidance", 2.5)[0],
    ]
    assert first not in others
    raster = [image("--label", 3, "--decoding", name)[0] for name in ("ntp", "exact")]
    assert raster[0] == raster[1]
    assert "guidance" not in image("--label", 3, "--guidance", 1)[1]["settings"]


def test_images_of_several_labels_are_those_of_each(image, diagd, preset, tmp_path):
    words = ("generate", "-p", preset, "--seed", 0, "--save-tokens", "-o", tmp_path / "out/")
    done = diagd(*words, "--label", "3,4,5", "--batch", 2)
    assert done.code == 0, done.err
    names = [f"llamagen-c2i-b-256-{n}.png" for n in (3, 4, 5)]
    assert [line.split("/")[-1] for line in done.out.splitlines()] == names
    for label in (3, 4, 5):
        with np.load(tmp_path / "out" / f"llamagen-c2i-b-256-{label}.npz") as file:
            assert file["codes"].tolist() == image("--label", label)[0]
    done = diagd(*words, "--label", "4,6", "--resume")
    assert done.code == 0 and "-4.png is there already" in done.err
    assert (tmp_path / "out" / "llamagen-c2i-b-256-6.png").is_file()
    done = diagd(*words, "--label", "4", "--guidance", 3, "--resume")
    assert done.code == 0 and "is there already" not in done.err


def test_what_images_are_not(diagd, preset, tmp_path, tiny):
    for words, told in (
        (["generate", tiny.clip], "makes images of nothing. Leave"),
        (
            ["generate", "--label", "1000"],
            "The label is 1000. The labels of llamagen-c2i-b-256 are 0",
        ),
        (["generate", "--label", "x"], "'x' is not a whole number"),
        (["generate", "--label", "1,2", "-o", "a.png"], "is one file for 2 clips"),
        (["generate", "-o", "a.mp4"], "does not end in .png"),
        (["generate", "--frames", 2], "cannot make 2 frames after 0"),
        (["generate", "--stream"], "makes images, and --stream needs videos"),
        (["generate", "--stand-in", "previous-frame"], "needs a context frame"),
        (["compare", tiny.clip], "makes images, and compare needs videos"),
        (["eval", tiny.clip], "makes images, and eval needs videos"),
    ):
        done = diagd(*words, "-p", preset)
        assert done.code == 2 and told in done.err, done.err
    done = diagd("generate", tiny.clip, "-p", tiny.preset, "--label", 1)
    assert done.code == 2 and "takes no labels" in done.err
    done = diagd("generate", tiny.clip, "-p", tiny.preset, "--guidance", 2)
    assert done.code == 2 and "has no guidance" in done.err


def test_the_same_from_python(image, preset):
    loaded = load(preset)
    request = loaded.request(label=3, guidance=2.5, seed=0)
    result = continue_clip(loaded, Clip.nothing(Path("dog")), request)
    assert result.codes.tolist() == image("--label", 3, "--guidance", 2.5)[0]
    assert result.frames.shape == (1, 64, 80, 3)


def test_commands_that_need_no_clip(diagd, preset):
    for words in (("plan",), ("bench", "--repeats", 1), ("generate", "--dry-run", "--label", 1)):
        done = diagd(*words, "-p", preset)
        assert done.code == 0, done.err


def test_presets_that_cannot_be(preset, tmp_path):
    shipped = yaml.safe_load(preset.read_text())
    for change, told in (
        ({"prefix": [], "guidance": None}, "clip.least 0 needs a prefix"),
        ({"guidance": {"scale": 2, "nothing": []}}, "guidance.nothing has 0 ids, the prefix 1"),
        ({"labels": {"offset": 16384, "count": 1002}}, "is below the 17386 tokens in use"),
        ({"guidance": {"scale": 2, "nothing": [17385]}}, "is below the 17386 tokens in use"),
    ):
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(shipped | change))
        with pytest.raises(PresetError, match=told):
            load_preset(tmp_path / "mine.yaml")
