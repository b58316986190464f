"""A model family of one's own, whole in this file: a tokenizer, actions, official weights, and a
preset that names them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from diagd_cli import families
from diagd_cli.checkpoints.archive import read_weights
from diagd_cli.checkpoints.match import flat, gather, match, rows
from diagd_cli.errors import PresetError, UsageError, WeightsError
from diagd_cli.model.config import Strict
from diagd_cli.preset_files import load_preset
from diagd_cli.weights.load import build_transformer

SIDE = 8  # pixels along each side of a token
HINT = "Give the toy's own file"


class ToyConfig(Strict):
    """A tokenizer whose codes are shades of grey."""

    kind: Literal["toy"] = "toy"
    shades: int = 16

    @property
    def codebook(self) -> int:
        return self.shades

    @property
    def spatial(self) -> int:
        return SIDE

    @property
    def temporal(self) -> int:
        return 1


class ToyTokenizer(nn.Module):
    """The mean of each square of pixels, through a learned brightness of every shade."""

    def __init__(self, config: ToyConfig):
        super().__init__()
        self.shades = nn.Parameter(torch.empty(config.shades))

    def encode(self, frames: Tensor) -> Tensor:
        """Codes int64 [T, h, w] of frames uint8 [F, H, W, 3]: the nearest shade."""
        grey = (
            frames.float().mean(-1).unfold(1, SIDE, SIDE).unfold(2, SIDE, SIDE).mean((-1, -2)) / 255
        )
        return (grey[..., None] - self.shades).abs().argmin(-1)

    def decode(self, codes: Tensor) -> Tensor:
        """Frames uint8 [F, H, W, 3] of codes int64 [T, h, w]."""
        grey = self.shades[codes].clamp(0, 1).repeat_interleave(SIDE, 1).repeat_interleave(SIDE, 2)
        return (255 * grey).round().to(torch.uint8).unsqueeze(-1).expand(-1, -1, -1, 3)


class ToyActions(Strict):
    """Two tokens a frame: the digits of a number from 0 to 99."""

    kind: Literal["toy-digits"] = "toy-digits"
    offset: int
    size: int = 2
    vocabulary: int = 10
    names: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = (".txt",)

    @property
    def rest(self) -> np.ndarray:
        return self._row(0)

    def _row(self, number: int) -> np.ndarray:
        return self.offset + np.array([number // 10, number % 10])

    def read(self, path: Path) -> np.ndarray:
        return self.parse(path.read_text().strip())

    def parse(self, text: str) -> np.ndarray:
        if not text.replace(",", "").isdecimal():
            raise UsageError(f"Cannot read the numbers {text!r}", "Write them by comma")
        return np.stack([self._row(int(part)) for part in text.split(",")])

    def describe(self, rows: np.ndarray) -> list[int]:
        return [int(10 * a + b) for a, b in rows - self.offset]


def official_transformer(paths, config, positions):
    """The toy's official file calls our parameters by their names in capital letters."""
    shapes = {
        name: tuple(p.shape)
        for name, p in build_transformer(preset_of(config), "meta").state_dict().items()
    }
    layout, found = (
        {name: {name.upper(): shape} for name, shape in shapes.items()},
        read_weights(paths[0]),
    )
    match(paths[0], found, flat(layout), HINT)
    return rows(gather(layout, found).items())


def official_tokenizer(paths, config):
    found = read_weights(paths[0])
    match(paths[0], found, {"SHADES": (config.shades,)}, HINT)
    return rows([("shades", [found["SHADES"]])])


FAMILY = families.Family(
    "toy",
    tokenizer=families.TokenizerKind(
        ToyConfig,
        ToyTokenizer,
        lambda config: config.shades,
        lambda config, frames, context, area, item: frames * area,
    ),
    actions=ToyActions,
    checkpoint=families.Checkpoint(official_transformer, official_tokenizer),
    recordings={".toy": lambda path: np.load(path, allow_pickle=False)},
)
PRESET = """
name: toy
about: A family that is whole in one test.
licence: Apache-2.0
clip: {height: 16, width: 24, fps: 10, context: 2, least: 1, frames: 3, window: 5, overlap: 2}
tokenizer: {kind: toy, shades: 16}
tokenizer_weights: {format: toy, file: tokenizer.safetensors}
transformer: {vocab: 26, outputs: 16, dim: 16, layers: 1, heads: 2, kv_heads: 1, head_dim: 8, mlp_dim: 16}
transformer_weights: {format: toy, file: transformer.safetensors}
actions: {kind: toy-digits, offset: 16}
decoding: {k: 1, d: 2}
"""


def preset_of(config):
    return load_preset(Path(FOLDER[0]) / "toy.yaml").model_copy(update={"transformer": config})


FOLDER: list[Path] = []  # of the preset in use


@pytest.fixture
def toy(tmp_path):
    """The family, registered, and its preset with weights in the official form."""
    with families.registered(FAMILY):
        FOLDER[:] = [tmp_path]
        (tmp_path / "toy.yaml").write_text(PRESET)
        preset = load_preset(tmp_path / "toy.yaml")
        torch.manual_seed(0)
        weights = {
            name.upper(): torch.randn(p.shape) * 0.5
            for name, p in build_transformer(preset).named_parameters()
        }
        save_file(weights, tmp_path / "transformer.safetensors")
        save_file({"SHADES": torch.linspace(0, 1, 16)}, tmp_path / "tokenizer.safetensors")
        np.save(
            tmp_path / "clip.npy", np.arange(4 * 16 * 24 * 3).reshape(4, 16, 24, 3).astype(np.uint8)
        )
        (tmp_path / "clip.npy").rename(tmp_path / "clip.toy")
        yield tmp_path


def test_a_new_family_is_one_record(toy, diagd):
    """Its presets are checked, its weights read, its recordings continued, steered by its
    actions.
    """
    done = diagd(
        "generate",
        toy / "clip.toy",
        "-p",
        toy / "toy.yaml",
        "-o",
        toy / "a.mp4",
        "--actions",
        "12,7",
        "--json",
    )
    assert done.code == 0, done.err
    [made] = done.objects
    assert (
        made["steered_by"] == [0, 12, 7, 7, 7] and made["new_frames"] == 3 and made["tokens"] == 18
    )
    checked = diagd("weights", "check", toy / "toy.yaml")
    assert checked.code == 0 and "names and shapes fit the preset" in checked.out, checked.err


def test_its_weights_are_checked(toy, diagd):
    save_file({"SHADES": torch.zeros(3)}, toy / "tokenizer.safetensors")
    done = diagd("generate", toy / "clip.toy", "-p", toy / "toy.yaml", "-o", toy / "a.mp4")
    assert (
        done.code == WeightsError.exit_code and "SHADES is (3,), the preset needs (16,)" in done.err
    )


def test_a_family_goes_as_it_came(toy):
    with pytest.raises(ValueError, match="there is a family toy already"):
        families.register(FAMILY)
    families._more.clear()
    with pytest.raises(PresetError, match="there is no 'toy'"):
        load_preset(toy / "toy.yaml")
    families.register(FAMILY)
