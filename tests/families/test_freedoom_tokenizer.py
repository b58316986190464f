"""The image tokenizer: frames to codes and back."""

import pytest
import torch

from diagd_cli.clip.read import read_clip
from diagd_cli.families.freedoom.config import FsqImageConfig
from diagd_cli.families.freedoom.tokenizer import FsqImageTokenizer, to_frames, to_pixels
from diagd_cli.metrics import psnr
from diagd_cli.preset_files import load_preset
from diagd_cli.weights.load import load_tokenizer


@pytest.fixture(scope="module")
def shipped():
    return load_tokenizer(load_preset("freedoom"))


@pytest.mark.parametrize("name", ["hall", "lights", "maze", "rooms"])
def test_shipped_clips_survive(shipped, clips, name):
    frames = read_clip(clips / f"{name}.mp4", 2).frames
    codes = shipped.encode(torch.from_numpy(frames))
    assert (codes.shape, codes.dtype) == ((2, 15, 20), torch.int64)
    assert codes.min() >= 0 and codes.max() < shipped.codebook
    decoded = shipped.decode(codes)
    assert (decoded.shape, decoded.dtype) == ((2, 120, 160, 3), torch.uint8)
    assert psnr(decoded.numpy(), frames).min() > 20


def test_frames_are_independent(shipped, clips):
    frames = torch.from_numpy(read_clip(clips / "hall.mp4", 3).frames)
    together = shipped.encode(frames)
    assert all(torch.equal(shipped.encode(frames[t : t + 1])[0], together[t]) for t in range(3))


@pytest.mark.parametrize(
    "kernel, encoder, decoder", [(1, (0, 0), (0, 0)), (3, (1, 0), (0, 1)), (5, (1, 1), (1, 1))]
)
def test_sizes(kernel, encoder, decoder):
    config = FsqImageConfig(
        levels=(5, 3), channels=(4, 8), kernel=kernel, encoder=encoder, decoder=decoder
    )
    model = FsqImageTokenizer(config)
    codes = model.encode(torch.randint(256, (2, 16, 40, 3), dtype=torch.uint8))
    assert codes.shape == (2, 2, 5) and codes.max() < 15 and config.codebook == model.codebook == 15
    assert model.decode(codes).shape == (2, 16, 40, 3)


def test_forward_is_decode_of_encode():
    torch.manual_seed(0)
    model = FsqImageTokenizer(FsqImageConfig(levels=(5, 3), channels=(4, 8), kernel=3))
    frames = torch.randint(256, (2, 16, 24, 3), dtype=torch.uint8)
    trained = to_frames(model(to_pixels(frames, model.decoder[0].weight)))
    assert torch.equal(trained, model.decode(model.encode(frames)))


def test_pixels_round_trip():
    frames = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3)
    pixels = to_pixels(frames, torch.zeros(1))
    assert (pixels.min(), pixels.max()) == (-1, 1) and torch.equal(to_frames(pixels), frames)
    assert to_frames(torch.full((1, 3, 1, 1), 7.0)).max() == 255
