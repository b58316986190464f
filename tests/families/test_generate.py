"""Every official preset, shrunk and with random weights, from a clip to an MP4 through the command
line.
"""

import shutil

import numpy as np
import pytest
import yaml
from families.small import steer, write_small
from tiny import moving, save_clip

from diagd_cli.clip.read import read_clip
from diagd_cli.preset_files import load_preset, preset_names
from diagd_cli.weights.load import random_tokenizer, random_transformer, save_weights

# those of images are in test_images
OFFICIAL = [
    name for name in preset_names() if "freedoom" not in name and not load_preset(name).still
]


@pytest.fixture
def small(tmp_path):
    """Writes an official preset, shrunk; everything else is as it ships."""
    return lambda name, **more: write_small(name, tmp_path, **more)


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip") / "walk.mp4", moving(12, 40, 64))


@pytest.fixture
def clip(walk, tmp_path):
    """A clip of 12 frames, alone in its folder."""
    return shutil.copy(walk, tmp_path / "walk.mp4")


def made(diagd, clip, preset, *options, random=True):
    weights = ["--random-weights"] if random else []
    done = diagd("generate", clip, "--preset", preset, *weights, "--seed", 5, "--json", *options)
    assert done.code == 0, done.err
    return done.objects[0]


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_preset_end_to_end(name, small, clip, tmp_path, diagd):
    path, target = small(name), tmp_path / "out.mp4"
    steer(clip, name)
    preset = load_preset(path)
    frames = 8 if name.startswith("cosmos") else 2
    facts = made(diagd, clip, path, "--frames", frames, "-o", target)
    grid, (k, d) = preset.grid, (facts["settings"]["decoding"][name] for name in "kd")
    new = preset.new_latents(frames)
    # WHAM's window holds one new frame at a time
    if preset.overlap and preset.context + new > preset.window:
        assert facts["steps"] == new * ((grid.h - 1) * k + grid.w)
    else:
        assert facts["steps"] == (new - 1) * d + (grid.h - 1) * k + grid.w
    assert facts["tokens"] == new * grid.area
    seen = read_clip(target, context=1, start=0, future=99)
    assert len(seen.frames) + len(seen.future) == facts["context_frames"] + frames
    assert seen.frames.shape[1:3] == (
        preset.clip.height + preset.clip.height % 2,
        preset.clip.width,
    )


@pytest.mark.parametrize("name", ["cosmos-4b", "mineworld-300m", "wham-200m"])
def test_a_still_image_is_context_enough(name, small, tmp_path, diagd):
    from diagd_cli.clip.image import write_png

    write_png(tmp_path / "still.png", moving(1, 40, 64)[0])
    # not a whole latent frame of Cosmos: what is too much is left out
    frames = 5 if name == "cosmos-4b" else 1
    facts = made(
        diagd, tmp_path / "still.png", small(name), "--frames", frames, "-o", tmp_path / "out.mp4"
    )
    assert (facts["context_frames"], facts["new_frames"]) == (1, frames)


def test_a_temperature_below_the_least_of_wham_is_told(small, clip, tmp_path, diagd):
    arguments = [
        "generate",
        clip,
        "-p",
        small("wham-200m"),
        "--temperature",
        0.01,
        "--random-weights",
        "--dry-run",
        "--json",
    ]
    done = diagd(*arguments, "-o", tmp_path / "out.mp4")
    assert done.objects[0]["settings"]["temperature"] == 0.1
    assert done.err == (
        "warning: temperature 0.01 counts as 0.1, as in this model's official code; 0 is greedy\n"
    )


def test_actions_decide_what_is_made(small, clip, tmp_path, diagd):
    """MineWorld: other keys, other tokens; without a file, as with no key pressed."""
    preset, target, tokens = small("mineworld-300m"), tmp_path / "o.mp4", {}
    for actions in ("forward*2", "yaw=40*2", "none", None):
        given = ("--actions", actions) if actions else ()
        options = ("--frames", 2, "--temperature", 0, "-o", target, "--save-tokens", "--force")
        facts = made(diagd, clip, preset, *options, *given)
        tokens[actions] = np.load(target.with_suffix(".npz"))["codes"][1:].tolist()
    assert tokens["forward*2"] != tokens["yaw=40*2"] != tokens["none"] != tokens["forward*2"]
    assert tokens["none"] == tokens[None] and facts["steered_by"] == [{}] * 3


def test_a_recording_of_wham_is_clip_and_actions(small, tmp_path, diagd):
    """An official .npz: images [F, 3, H, W] and actions [F, 16]; frame 0 of each output token row
    is never id 0.
    """
    actions = np.zeros((14, 16), np.float32)
    actions[:, 12:], actions[:, 0] = 5, np.arange(14) % 2
    images = moving(14, 35, 40).transpose(0, 3, 1, 2)
    np.savez(tmp_path / "game.npz", images=images, actions=actions)
    preset = small("wham-200m")
    facts = made(
        diagd,
        tmp_path / "game.npz",
        preset,
        "--start",
        1,
        "--frames",
        2,
        "-o",
        tmp_path / "out.mp4",
    )
    assert facts["steered_by"] == actions[1:13].astype(int).tolist()
    assert facts["input"]["fps"] == 10
    seen = read_clip(tmp_path / "out.mp4", context=12, start=0).frames
    corner = seen[:, 9:23, -60:-10].astype(int)
    assert (corner.max((1, 2, 3)) > 200).all()  # the stamp that the licence asks for


def test_frames_beyond_the_window(small, clip, diagd):
    """Cosmos holds 33 frames and cannot roll; the message says how many are left."""
    done = diagd(
        "generate", clip, "--preset", small("cosmos-4b"), "--frames", 25, "--random-weights"
    )
    assert done.code == 2
    assert "cannot make 25 frames after 9. Ask for at most 24" in done.err


@pytest.mark.parametrize("context, code", [(1, 0), (9, 0), (10, 2), (41, 2)])
def test_context(context, code, small, clip, tmp_path, diagd):
    options = (
        "--preset",
        small("cosmos-4b"),
        "--context",
        context,
        "--frames",
        8,
        "--random-weights",
    )
    done = diagd("generate", clip, *options, "-o", tmp_path / "o.mp4")
    assert done.code == code, done.err
    assert (
        code == 0 or f"The context is {context} frame(s)" in done.err or "cannot make" in done.err
    )


# ---- text ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def video2world(tmp_path_factory):
    """A shrunk cosmos-5b-video2world whose text encoder is a real T5, small and random, beside the
    preset.
    """
    from small_t5 import make_t5

    folder = tmp_path_factory.mktemp("video2world")
    make_t5(folder / "t5", 16)
    files = {
        f"{part}_weights": {"file": f"{part}.safetensors"} for part in ("tokenizer", "transformer")
    }
    text = {"transformer": {"cross_dim": 16}, "text": {"encoder": "t5", "length": 12}}
    path = write_small("cosmos-5b-video2world", folder, **text, **files)
    preset = load_preset(path)
    model = random_transformer(preset, seed=0)
    for block in model.blocks:
        block.cross.out.weight.mul_(100)  # so that the text counts for something
    save_weights(folder / "transformer.safetensors", model.state_dict())
    save_weights(folder / "tokenizer.safetensors", random_tokenizer(preset, seed=0).state_dict())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIAGD_CACHE", str(folder / "cache"))
        yield path


def codes_of(diagd, clip, preset, *options):
    target = preset.with_name("out.mp4")
    options = (
        "--frames",
        8,
        "--temperature",
        0,
        "--save-tokens",
        "--force",
        "-o",
        target,
        *options,
    )
    facts = made(diagd, clip, preset, *options, random=False)
    return facts, np.load(target.with_suffix(".npz"))["codes"][2:].tolist()


def test_a_prompt_steers_however_it_is_given(video2world, clip, tmp_path, diagd):
    """On the command line, in a file, beside the clip, or embedded before: the tokens are
    the same.
    """
    facts, wanted = codes_of(diagd, clip, video2world, "--prompt", "a robot walks")
    assert facts["prompt"] == "a robot walks"
    assert codes_of(diagd, clip, video2world, "--prompt", "through the snow")[1] != wanted
    (tmp_path / "prompt.txt").write_text("a robot walks\n")
    assert codes_of(diagd, clip, video2world, "--prompt-file", tmp_path / "prompt.txt")[1] == wanted
    clip.with_suffix(".txt").write_text("a robot walks")
    assert codes_of(diagd, clip, video2world)[1] == wanted
    done = diagd(
        "embed", "a robot walks", "--preset", video2world, "-o", tmp_path / "p.safetensors"
    )
    assert (done.code, done.out) == (0, f"{tmp_path}/p.safetensors\n")
    facts, tokens = codes_of(
        diagd, clip, video2world, "--prompt-embedding", tmp_path / "p.safetensors"
    )
    assert tokens == wanted and len(facts["prompt_embedding"]) == 64


def test_a_negative_prompt_is_kept_away_from(video2world, clip, tmp_path, diagd):
    """Where the preset guides; the sidecar tells it."""
    settings = yaml.safe_load(video2world.read_text())
    settings |= {"name": "guided", "guidance": {"scale": 30, "nothing": settings["prefix"]}}
    guided = video2world.with_name("guided.yaml")
    guided.write_text(yaml.safe_dump(settings))
    words = clip, guided, "--prompt", "a robot walks"
    facts, plain = codes_of(diagd, *words)
    assert "negative_prompt" not in facts
    facts, without = codes_of(diagd, *words, "--negative-prompt", "through the snow")
    assert facts["negative_prompt"] == "through the snow" and without != plain
    # what is kept away from is what is asked for: guidance changes nothing
    same = codes_of(diagd, *words, "--negative-prompt", "a robot walks")[1]
    assert same == codes_of(diagd, clip, video2world, "--prompt", "a robot walks")[1]
    done = diagd("embed", "a robot walks", "-p", guided, "-o", tmp_path / "p.safetensors")
    assert done.code == 0
    given = ("--prompt-embedding", tmp_path / "p.safetensors")
    assert codes_of(diagd, *words[:2], *given, "--negative-prompt", "through the snow")[1] == (
        without
    )


@pytest.mark.parametrize(
    "preset, options, message",
    [
        (
            "freedoom",
            ["--negative-prompt", "x"],
            "The preset freedoom has no text, and --negative-prompt needs it. Leave it out",
        ),
        (
            "small",
            ["--prompt", "x", "--negative-prompt", "x"],
            "The preset cosmos-5b-video2world has no guidance, and --negative-prompt needs it",
        ),
        (
            "freedoom",
            ["--prompt", "x"],
            "The preset freedoom takes no text, and --prompt gives one",
        ),
        (
            "small",
            ["--prompt", "x", "--prompt-embedding", "p.safetensors"],
            "--prompt and --prompt-embedding both give",
        ),
        ("small", [], "The preset cosmos-5b-video2world needs a prompt for "),
        ("small", ["--prompt-file", "none.txt"], "The prompt file none.txt cannot be read"),
    ],
)
def test_refused_prompts(preset, options, message, video2world, clip, diagd):
    done = diagd(
        "generate", clip, "--preset", video2world if preset == "small" else preset, *options
    )
    assert done.code == 2 and done.err.startswith(f"error: {message}")
