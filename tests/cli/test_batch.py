"""Clips in batches: the videos are those made one by one, and what is wrong with one is its own."""

import json
import shutil

import numpy as np
import pytest
from tiny import moving, save_clip, save_walks

from diagd_cli.clip.image import write_png
from diagd_cli.clip.read import read_clip


@pytest.fixture
def generate(diagd, tiny, tmp_path):
    """Continues clips by the tiny preset, which here takes still images too, into tmp_path/out."""
    preset = tmp_path / "tiny.yaml"
    preset.write_text(tiny.preset.read_text().replace("  least: 2", "  least: 1"))

    def run(*arguments, output=tmp_path / "out"):
        return diagd(
            "generate", *arguments, "-p", preset, "-o", output, DIAGD_WEIGHTS=str(tiny.folder)
        )

    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return save_walks(tmp_path_factory.mktemp("walks"))


@pytest.fixture
def walks(made, tmp_path):
    """Three clips of different pixels and recorded actions."""
    folder = shutil.copytree(made, tmp_path / "in")
    return [folder / f"{n}.mp4" for n in range(3)]


def codes(folder):
    """The tokens of every output, by name."""
    return {path.stem: np.load(path)["codes"].tolist() for path in folder.glob("*.npz")}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("frames", [3, 8])
def test_batches_of_any_size_make_the_same(generate, walks, tmp_path, frames):
    """Two and one left over, or all three; also where the window rolls."""
    made = {}
    for size in (1, 2, 3):
        options = ("--seed", 3, "--frames", frames, "--save-tokens", "--json", "--batch", size)
        done = generate(*walks, *options, output=tmp_path / f"by{size}")
        assert done.code == 0, done.err
        made[size] = codes(tmp_path / f"by{size}")
        assert [told["batch"] for told in done.objects] == {
            1: [1, 1, 1],
            2: [2, 2, 1],
            3: [3, 3, 3],
        }[size]
    assert made[1] == made[2] == made[3] and made[1].keys() == {"0", "1", "2"}


def test_what_a_batch_shares_is_told_with_each_clip(generate, walks):
    done = generate(*walks[:2], "--batch", 2, "--json")
    first, second = done.objects
    assert first["seconds"]["decode"] == second["seconds"]["decode"] and first["tokens"] == 18
    rate = 2 * 18 / first["seconds"]["decode"]
    assert first["rates"]["tokens_per_second"] == pytest.approx(rate, rel=0.05)
    assert done.err.count(" in a batch of 2 ") == 2


def test_samples_have_seeds_and_names_of_their_own(generate, tiny, tmp_path):
    done = generate(tiny.clip, "--samples", 3, "--batch", 2, "--seed", 7, "--save-tokens", "--json")
    assert [told["settings"]["seed"] for told in done.objects] == [7, 8, 9]
    assert [told["output"] for told in done.objects] == [
        f"{tmp_path}/out/walk-{n}.mp4" for n in (1, 2, 3)
    ]
    together = codes(tmp_path / "out")
    for n in (1, 2, 3):
        generate(
            tiny.clip, "--seed", 6 + n, "--save-tokens", output=tmp_path / "alone" / f"walk-{n}.mp4"
        )
    assert (
        codes(tmp_path / "alone") == together
        and len({str(tokens) for tokens in together.values()}) == 3
    )


def test_samples_of_one_file_and_of_several_clips(generate, walks, tmp_path):
    assert generate(walks[0], "--samples", 2, output=tmp_path / "a.mp4").code == 0
    assert (tmp_path / "a-1.mp4").is_file() and (tmp_path / "a-2.mp4").is_file()
    assert generate(*walks[:2], "--samples", 2, "--batch", 4).code == 0
    assert [name for name in names(tmp_path / "out") if name.endswith(".mp4")] == [
        "0-1.mp4", "0-2.mp4", "1-1.mp4", "1-2.mp4"
    ]  # fmt: skip


def test_the_last_seed_is_followed_by_the_first(generate, tiny):
    told = generate(tiny.clip, "--samples", 2, "--seed", 2**64 - 1, "--json").objects
    assert [made["settings"]["seed"] for made in told] == [2**64 - 1, 0]


def test_images_and_videos_are_batches_apart(generate, walks, tmp_path):
    """An image is a context of one frame, a video of two."""
    stills = [tmp_path / "in" / f"still{n}.png" for n in range(2)]
    for n, path in enumerate(stills):
        write_png(path, moving(2, 20, 20)[n])
    done = generate(
        walks[0], stills[0], walks[1], stills[1], walks[2], "--batch", 2, "--json", "--seed", 0
    )
    facts = [
        (told["output"].split("/")[-1], told["context_frames"], told["batch"])
        for told in done.objects
    ]
    assert facts == [
        ("0.mp4", 2, 2), ("1.mp4", 2, 2), ("still0.mp4", 1, 2), ("still1.mp4", 1, 2), ("2.mp4", 2, 1)
    ]  # fmt: skip
    assert len(read_clip(tmp_path / "out" / "still1.mp4", 4).frames) == 4


def test_a_clip_that_fails_leaves_the_batch_to_the_others(generate, walks, tmp_path):
    bad, short = tmp_path / "in" / "bad.mp4", save_clip(tmp_path / "in" / "short.mp4", moving(1))
    bad.write_text("text")
    done = generate(walks[0], bad, walks[1], short, "--batch", 2, "--samples", 2, "--json")
    assert done.code == 1 and len(done.objects) == 4
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert [f"{bad} is not a video" in errors[0], f"{short} has 1 frame" in errors[1]] == [
        True,
        True,
    ]
    assert errors[2:] == [f"error: 2 of 4 clips failed: {bad}, {short}"]


def test_an_output_that_may_not_be_replaced_fails_alone(generate, walks, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "1.mp4").write_bytes(b"precious")
    done = generate(*walks, "--batch", 3, "--json")
    assert done.code == 1 and [told["batch"] for told in done.objects] == [2, 2]
    assert (
        "1.mp4 exists already" in done.err
        and (tmp_path / "out" / "1.mp4").read_bytes() == b"precious"
    )


def test_resume_makes_only_what_is_missing(generate, walks, tmp_path):
    generate(*walks, "--samples", 2, "--batch", 3, "--seed", 1)
    out, before = tmp_path / "out", {}
    (out / "1-2.mp4").unlink()
    (out / "2-1.mp4").write_bytes(b"cut short")
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.mp4")}
    done = generate(*walks, "--samples", 2, "--batch", 3, "--seed", 1, "--resume", "--json")
    assert done.code == 0 and done.err.count("is there already") == 4 and len(done.objects) == 6
    made = {
        path.name for path in out.glob("*.mp4") if path.stat().st_mtime_ns != before.get(path.name)
    }
    assert made == {"1-2.mp4", "2-1.mp4"}
    seeds = {
        path.stem: json.loads(path.read_text())["settings"]["seed"] for path in out.glob("*.json")
    }
    assert seeds == {"0-1": 1, "0-2": 2, "1-1": 1, "1-2": 2, "2-1": 1, "2-2": 2}


def test_dry_run_shows_every_sample(generate, tiny, tmp_path):
    lines = generate(tiny.clip, "--samples", 2, "--dry-run").out.splitlines()
    assert [line.split(" -> ")[1].split(":")[0] for line in lines] == [
        f"{tmp_path}/out/walk-{n}.mp4" for n in (1, 2)
    ]
    told = generate(tiny.clip, "--samples", 2, "--dry-run", "--json", "--seed", 4).objects
    assert [made["settings"]["seed"] for made in told] == [4, 5]


def test_a_sample_may_not_replace_an_input(diagd, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(tiny.clip, "walk-continued-2.mp4"), shutil.copy(tiny.clip, "walk.mp4")
    done = diagd(
        "generate", "walk.mp4", "walk-continued-2.mp4", "-p", tiny.preset, "--samples", 2, "--force"
    )
    assert done.code == 2 and "The output walk-continued-2.mp4 is an input too" in done.err


@pytest.mark.parametrize(
    "option, value", [("--batch", 0), ("--samples", 0), ("--samples", 1001), ("--batch", "two")]
)
def test_sizes_that_cannot_be(generate, tiny, option, value):
    done = generate(tiny.clip, option, value)
    assert done.code == 2 and f"'{value}' is not a whole number" in done.err
