"""Images of nothing but a label or a text, through the command line: LlamaGen's presets, shrunk."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from families.small import write_small_models
from PIL import Image

from diagd_cli.clip.read import Clip
from diagd_cli.errors import PresetError
from diagd_cli.pipeline import continue_clip, continue_clips, load
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


@pytest.fixture(scope="module")
def by_text(tmp_path_factory):
    """A preset of texts, and beside it a real text encoder, small and random."""
    from small_t5 import make_t5

    folder = tmp_path_factory.mktemp("text")
    make_t5(folder / "t5", 16)
    small = {"dim": 32, "layers": 2, "heads": 2, "kv_heads": 2, "head_dim": 16, "mlp_dim": 64}
    sizes = {"transformer": {**small, "prefix_dim": 16, "prefix_tokens": 12}}
    text = {"text": {"encoder": "t5", "length": 12}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIAGD_CACHE", str(folder / "cache"))
        yield write_small_models("llamagen-t2i-xl-256", folder, sharp=True, **sizes, **text)


def test_images_of_a_text(diagd, by_text, tmp_path):
    """Its words alone count, guidance and what it is to keep away from; the sidecar tells them."""

    def made(*options):
        out = ("--save-tokens", "--force", "--seed", 0, "--json", "-o", tmp_path / "a.png")
        done = diagd("generate", "-p", by_text, *out, *options)
        assert done.code == 0, done.err
        with np.load(tmp_path / "a.npz") as file:
            return file["codes"].tolist(), done.objects[0]

    codes, told = made("--prompt", "A ROBOT walks")
    with Image.open(tmp_path / "a.png") as seen:
        assert (seen.size, seen.mode) == ((80, 64), "RGB")
    assert told["prompt"] == "A ROBOT walks" and "negative_prompt" not in told
    assert told["settings"]["guidance"] == {"scale": 7.5, "tokens": 0}
    assert made("--prompt", "a robot walks")[0] == codes
    others = [
        made("--prompt", "a robot walks", "--guidance", 1)[0],
        made("--prompt", "a robot walks", "--negative-prompt", "snow")[0],
        made("--prompt", "a robot walks", "--negative-prompt", "through the snow")[0],
    ]
    assert len({str(each) for each in (codes, *others)}) == 4
    raster = [made("--prompt", "a robot", "--decoding", name)[0] for name in ("ntp", "exact")]
    assert raster[0] == raster[1]
    same = ("--negative-prompt", "a robot walks")  # two equal rows: nothing to lead away from
    assert made("--prompt", "a robot walks", *same)[0] == others[0]
    done = diagd("embed", "a robot walks", "-p", by_text, "-o", tmp_path / "p.safetensors")
    assert done.code == 0, done.err
    assert made("--prompt-embedding", tmp_path / "p.safetensors")[0] == codes


def test_an_image_needs_a_text(diagd, by_text, preset):
    done = diagd("generate", "-p", by_text)
    assert done.code == 2 and "llamagen-t2i-xl-256 needs a prompt" in done.err
    assert done.err.rstrip().endswith("--prompt-embedding FILE")
    done = diagd("generate", "-p", by_text, "--prompt", "a", "--label", 3)
    assert done.code == 2 and "takes no labels" in done.err
    done = diagd("generate", "-p", preset, "--prompt", "a")
    assert done.code == 2 and "takes no text, and --prompt gives one" in done.err


def test_texts_of_a_batch_are_each_for_its_own_image(by_text):
    """However long they are, and with a text to keep away from, or none."""
    loaded = load(by_text)
    rows = torch.randn(3, 12, 16, generator=torch.Generator().manual_seed(0))
    texts = [rows[0, :3], rows[1, :9], rows[2], None]
    clips = [Clip.nothing(Path("a"))] * 4
    for negative in (None, rows[2, :5]):
        requests = [loaded.request(text=text, negative=negative, seed=1) for text in texts]
        together = continue_clips(loaded, clips, requests)
        for clip, request, own in zip(clips, requests, together, strict=True):
            assert continue_clip(loaded, clip, request).codes.tolist() == own.codes.tolist()
        assert len({own.codes.tobytes() for own in together}) == 4


def test_presets_of_texts_that_cannot_be(by_text, tmp_path):
    shipped = yaml.safe_load(by_text.read_text())
    sizes = shipped["transformer"]
    for change, told in (
        ({"text": None}, "text and transformer.cross_dim or prefix_dim go together"),
        ({"text": {"length": 7}}, r"prefix_tokens \(12\) must be text.length \(7\)"),
        ({"prefix": [1], "guidance": None}, "prefix has 1 ids, where the text is the prefix"),
        ({"transformer": sizes | {"prefix_tokens": 0}}, "prefix_tokens .0. go together"),
        ({"transformer": sizes | {"cross_dim": 16}}, "are two ways of a text"),
        ({"guidance": {"scale": 2, "nothing": [1]}}, "guidance.nothing has 1 ids, the prefix 0"),
    ):
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(shipped | change))
        with pytest.raises(PresetError, match=told):
            load_preset(tmp_path / "mine.yaml")


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
