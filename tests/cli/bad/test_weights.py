"""Weights that are missing, damaged, of another model, or programs."""

import pickle
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tiny import Tiny

from diagd_cli.weights.locate import digest


def broken(tiny, folder, damage, known=True):
    """A copy of the tiny preset whose Transformer file `damage(path)` has changed; its SHA-256 is
    made to fit if `known`.
    """
    copy = Tiny(folder, folder / "tiny.yaml", folder / "walk.mp4")
    shutil.copytree(tiny.folder, folder, dirs_exist_ok=True)
    path = folder / "transformer.safetensors"
    before = digest(path)
    damage(path)
    if known:
        copy.preset.write_text(copy.preset.read_text().replace(before, digest(path)))
    return copy.preset


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def reshape(path):
    tensors = load_file(path)
    save_file(tensors | {"embed.weight": tensors["embed.weight"][:, :8].contiguous()}, path)


def drop(path):
    save_file({k: v for k, v in load_file(path).items() if "mlp" not in k}, path)


def add(path):
    save_file(load_file(path) | {"secret.weight": load_file(path)["norm.weight"].clone()}, path)


@pytest.mark.parametrize("damage", [flip, truncate])
def test_corrupt_weights(refused, tiny, tmp_path, damage):
    preset = broken(tiny, tmp_path / "p", damage, known=False)
    digests = [
        digest(folder / "transformer.safetensors")[:12] for folder in (tmp_path / "p", tiny.folder)
    ]
    message = (
        "p/transformer.safetensors is damaged or another version: SHA-256 {}, where the preset "
        "says {}"
    )
    hint = "Fetch the file again, or put its SHA-256 into the preset"
    assert refused(preset=preset) == (1, f"{message.format(*digests)}. {hint}")


@pytest.mark.parametrize(
    "damage, message",
    [
        (truncate, "p/transformer.safetensors is not a readable safetensors file: "),
        (reshape, "p/transformer.safetensors: embed.weight is (29, 8), the preset needs (29, 16). "
                  "Check the preset's sizes"),
        (drop, "p/transformer.safetensors lacks blocks.0.mlp.down.weight, and 2 more names differ. "
               "The file belongs to another"),
        (add, "p/transformer.safetensors holds secret.weight, which the preset's model has not. "
              "The file belongs to another"),
        (lambda path: path.write_bytes(b""), "p/transformer.safetensors is not a readable "
                                             "safetensors file: "),
    ],
)  # fmt: skip
def test_weights_of_another_model(refused, tiny, tmp_path, damage, message):
    code, line = refused(preset=broken(tiny, tmp_path / "p", damage))
    assert code == 1 and line.startswith(message)


class Trap:
    """A pickle that leaves a file behind when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickle_is_refused_and_does_not_run(refused, tiny, tmp_path):
    sprung = tmp_path / "sprung"
    preset = broken(tiny, tmp_path / "p", lambda path: path.write_bytes(pickle.dumps(Trap(sprung))))
    code, line = refused(preset=preset)
    assert code == 1 and "transformer.safetensors is not a readable safetensors file" in line
    assert not sprung.exists()


def test_weights_are_missed_before_a_text_encoder_is_fetched(diagd, tmp_path):
    asked = ("-p", "llamagen-t2i-xl-256", "--prompt", "A fox", "-o", tmp_path / "fox.png")
    done = diagd("generate", *asked, HF_HUB_OFFLINE="1")
    assert done.code == 1
    assert "The transformer weights of llamagen-t2i-xl-256 are missing" in done.err


def test_missing_weights(refused, tiny, tmp_path):
    preset = broken(tiny, tmp_path / "p", Path.unlink, known=False)
    code, line = refused(preset=preset)
    assert code == 1 and line.startswith(
        "The transformer weights of tiny are missing: no transformer.safetensors. Looked in p, "
    )
    assert line.endswith("name their folder with --weights-dir or DIAGD_WEIGHTS")
