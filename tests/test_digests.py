"""The same seed gives the same tokens, from one version of diagd to the next: digests of what the
command line has made.

The shipped weights, and random ones of the official presets' shrunken forms; every decoding,
stand-in and way of sampling; windows that roll, batches and samples. `PYTHONPATH=tests:. python
tests/test_digests.py` writes them anew: only where tokens are meant to change. They are of one
version of torch and one instruction set; elsewhere these tests are skipped.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from families.small import steer, write_small, write_small_models
from safetensors.numpy import save_file
from tiny import moving, save_clip

DIGESTS = Path(__file__).with_suffix(".json")
SHIPPED = {
    "diagd, and the window rolls": ["--frames", 5],
    "diagd, and the window slides": ["--frames", 5, "--window", "slide"],
    "fine-tuned, steered": [
        "--frames",
        1,
        "-p",
        "freedoom-diagonal",
        "--actions",
        "left",
        "--seed",
        3,
    ],
    "samples in a batch, from the start": [
        "--frames",
        1,
        "--samples",
        2,
        "--batch",
        2,
        "--start",
        3,
        "--context",
        2,
    ],
}
MINEWORLD = {
    "diagd": ["--frames", 3, "--decoding", "diagd", "--k", 1, "--d", 2],
    "ntp": ["--frames", 2, "--decoding", "ntp"],
    "spatial": ["--frames", 2, "--decoding", "spatial"],
    "zipar": ["--frames", 2, "--decoding", "zipar", "--k", 3],
    "greedy": ["--frames", 2, "--temperature", 0],
    "warm": [
        "--frames",
        2,
        "--temperature",
        1.2,
        "--top-k",
        50,
        "--top-p",
        0.9,
        "--top-p-rule",
        "strict",
    ],
    "no repair": ["--frames", 2, "--no-repair"],
    "above": ["--frames", 2, "--stand-in", "above"],
    "newest": ["--frames", 2, "--stand-in", "newest"],
    "prompt-frame": ["--frames", 2, "--stand-in", "prompt-frame"],
    "previous-frame-target": ["--frames", 2, "--stand-in", "previous-frame-target"],
    "steered": ["--frames", 2, "--actions", "forward+jump,yaw=15"],
    "samples": ["--frames", 2, "--samples", 3, "--batch", 2],
}
FAMILIES = {
    "cosmos-4b": ["--frames", 16],
    "cosmos-12b": ["--frames", 8, "--decoding", "ntp"],
    "cosmos-5b-video2world": ["--frames", 16],
    "mineworld-700m-32f": ["--frames", 3],
    "wham-200m": ["--frames", 3],
    "wham-1.6b": ["--frames", 2, "--decoding", "ntp"],
    "vavim-s": ["--frames", 6, "--temperature", 1.3, "--top-k", 0],
} | {f"mineworld-300m {name}": how for name, how in MINEWORLD.items()}
# the ways of one model, each of which must be another: by weights and frames that tell them apart
SHARP = [f"mineworld-300m {name}" for name in MINEWORLD]
LARGER = {"height": 48, "width": 64}


def tokens(run, folder: Path, *arguments) -> str:
    """A digest of all codes that a command makes."""
    out = folder / "out"
    run("generate", *arguments, "--save-tokens", "--force", "-q", "-o", out)
    digest = hashlib.sha256()
    for path in sorted(out.glob("*.npz")):
        codes = np.load(path)["codes"].astype("<i8")
        digest.update(repr(codes.shape).encode() + codes.tobytes())
        path.unlink()
    return digest.hexdigest()[:16]


def shipped(run, folder: Path, clips: Path, name: str) -> str:
    seed = [] if "--seed" in SHIPPED[name] else ["--seed", 1]
    return tokens(run, folder, clips / "rooms.mp4", *seed, *SHIPPED[name])


def write_sharp(folder: Path) -> Path:
    """The preset, with its weights beside it, that all of SHARP are of."""
    return write_small_models(SHARP[0].split()[0], folder, sharp=True, clip=LARGER)


def of_family(run, folder: Path, sharp: Path, name: str) -> str:
    preset = name.split()[0]
    clip = save_clip(folder / "walk.mp4", moving(12, 40, 64))
    clip.with_suffix(".jsonl").unlink()
    steer(clip, preset)
    how = list(FAMILIES[name])
    if "video2world" in name:
        rows = np.random.default_rng(0).standard_normal((7, 1024)).astype(np.float32)
        save_file({"embedding": rows}, folder / "text.safetensors")
        how += ["--prompt-embedding", folder / "text.safetensors"]
    if name in SHARP:
        weights = ["-p", sharp]
    else:
        weights = ["-p", write_small(preset, folder), "--random-weights"]
    return tokens(run, folder, clip, *weights, "--seed", 4, *how)


def kernels() -> str:
    """What decides the last bits of a product, and so of the random tokenizers' codes that are
    nearly a tie.
    """
    return f"torch {torch.__version__.split('+')[0]}, {torch.backends.cpu.get_cpu_capability()}"


@pytest.fixture(scope="module")
def known() -> dict:
    made = json.loads(DIGESTS.read_text())
    if kernels() not in made:
        pytest.skip(f"the digests are of {' and of '.join(made)}, and this is {kernels()}")
    return made[kernels()]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights(diagd, clips, tmp_path, known, name):
    assert shipped(diagd, tmp_path, clips, name) == known["shipped"][name]


@pytest.fixture(scope="module")
def sharp(tmp_path_factory) -> Path:
    return write_sharp(tmp_path_factory.mktemp("sharp"))


@pytest.mark.parametrize("name", FAMILIES)
def test_families(diagd, tmp_path, known, sharp, name):
    assert of_family(diagd, tmp_path, sharp, name) == known["families"][name]


def test_no_two_digests_are_the_same(known):
    """Else they could not tell one way of decoding from another."""
    made = [digest for kind in known.values() for digest in kind.values()]
    assert len(made) == len(set(made))


def test_no_digest_is_without_a_test(known):
    assert {kind: set(made) for kind, made in known.items()} == {
        "shipped": set(SHIPPED),
        "families": set(FAMILIES),
    }


def main() -> None:
    import tempfile

    from typer.testing import CliRunner

    from diagd_cli.cli.app import app
    from diagd_cli.preset_files import preset_folder

    torch.set_num_threads(1)

    def run(*arguments):
        done = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.stderr

    made: dict[str, dict[str, str]] = {"shipped": {}, "families": {}}
    for kind, names in (("shipped", SHIPPED), ("families", FAMILIES)):
        for name in names:
            with tempfile.TemporaryDirectory() as folder:
                where = Path(folder)
                own = (
                    shipped(run, where, preset_folder() / "freedoom" / "clips", name)
                    if kind == "shipped"
                    else None
                )
                made[kind][name] = own or of_family(run, where, write_sharp(where), name)
    DIGESTS.write_text(json.dumps({kernels(): made}, indent=1) + "\n")


if __name__ == "__main__":
    main()
