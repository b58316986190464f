"""VaViM's tokenizer and its scaling of frames against the official code of both projects."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from families.agreement import assert_close
from families.vavim_golden import GOLDEN, LIMIT, facts, vq
from safetensors.torch import load_file

from diagd_cli.families.vavim.config import LlamaGenVqConfig
from diagd_cli.families.vavim.tokenizer import fit_bytes, shrink, to_frames, to_pixels

PREPROCESS = load_file(GOLDEN / "preprocess.safetensors")
each_image = pytest.mark.parametrize("tag", ["pair", "wide"])


@each_image
def test_encoder_and_codes(tag):
    model, data = vq()
    frames = data[f"{tag}.image_uint8"].movedim(1, -1)
    pixels = to_pixels(frames, model.codes)
    assert_close(pixels, data[f"{tag}.x"], 1e-6)
    with torch.inference_mode():
        assert_close(model.encoder(pixels), data[f"{tag}.encoder"], LIMIT)
        assert_close(model.embed(pixels), data[f"{tag}.pre_quant"], LIMIT)
    assert torch.equal(model.encode(frames), data[f"{tag}.indices"])
    assert_close(model.look_up(data[f"{tag}.indices"]).movedim(-1, 1), data[f"{tag}.quant"], 1e-6)


def test_codes_are_looked_up_as_unit_vectors():
    model, data = vq()
    lengths = model.codes.norm(dim=-1)
    assert (lengths - 1).abs().max() > 0.1  # in the file they are not
    assert_close(model.look_up(data["codes.indices"]), data["codes.vectors"], 1e-6)


@pytest.mark.parametrize("tag", ["pair", "wide", "random"])
def test_decoded_pixels_and_bytes(tag):
    """Bytes are cut off: where a pixel is within float error of a whole number, one may differ."""
    model, data = vq()
    codes = data[f"{tag}.indices"]
    with torch.inference_mode():
        assert_close(model.decode_pixels(codes), data[f"{tag}.decoded"], LIMIT)
    ours, theirs = model.decode(codes).int(), data[f"{tag}.decoded_uint8"].int()
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 1 and (ours != theirs).float().mean() < 1e-3


def test_frames_do_not_depend_on_their_neighbours():
    model, data = vq()
    frames = data["pair.image_uint8"].movedim(1, -1)
    assert torch.equal(model.encode(frames)[1:], model.encode(frames[1:]))
    with pytest.raises(ValueError, match="the tokenizer takes 3 channels, sides of 16n"):
        model.encode(frames[:, :-1])


@pytest.mark.parametrize("name", facts("preprocess")["cases"])
def test_frames_are_scaled_as_the_official_code_does(name):
    how, frames = facts("preprocess")["cases"][name], PREPROCESS[f"{name}.in"][None]
    frames = frames[:, how.get("top_crop", 0) :]
    if size := how.get("default_size"):
        frames = F.interpolate(
            frames.movedim(-1, 1), size, mode="bilinear", antialias=True
        ).movedim(1, -1)
    ours = to_pixels(shrink(frames, how["resize_factor"]), torch.zeros(1))
    assert torch.equal(ours[0], PREPROCESS[f"{name}.out"])


def test_the_way_back_to_bytes():
    assert torch.equal(to_frames(PREPROCESS["post.decoded"]), PREPROCESS["post.uint8"])


@pytest.mark.parametrize("size", [(90, 160), (108, 192), (36, 64), (90, 120), (60, 200), (20, 30)])
def test_frames_of_any_size_are_brought_to_one(size):
    """16:9 becomes what the official scaling by a factor makes of it; of others the centre is cut
    out.
    """
    frames = torch.randint(256, (2, *size, 3), dtype=torch.uint8)
    fitted = fit_bytes(frames, 36, 64)
    assert fitted.shape == (2, 36, 64, 3) and fitted.dtype == torch.uint8
    if size[0] * 16 == size[1] * 9:
        assert torch.equal(fitted, shrink(frames, size[0] / 36))
    else:
        assert abs(fitted.float().mean() - frames.float().mean()) < 10


def test_a_clip_of_another_size_is_scaled_before_it_is_encoded():
    model, data = vq()
    frames = data["pair.image_uint8"].movedim(1, -1)
    large = frames.repeat_interleave(2, 1).repeat_interleave(2, 2)
    codes = model.encode_resized(large.numpy(), 64, 96)
    assert codes.shape == (2, 4, 6)
    assert torch.equal(
        model.encode_resized(np.ascontiguousarray(frames.numpy()), 64, 96), model.encode(frames)
    )


def test_widths_that_the_norms_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"channels \(48\) must be a multiple of groups \(32\)"):
        LlamaGenVqConfig(channels=48)
