"""Cosmos' tokenizer against the outputs of its official modules: codes, pixels, and what goes in
and comes out.
"""

import pytest
import torch
from families.agreement import assert_close
from families.cosmos_golden import golden, official_weights
from families.golden_preset import preset_of
from safetensors.torch import save_file

from diagd_cli.families.cosmos import layers as cosmos_layers
from diagd_cli.families.cosmos.config import CosmosDvConfig
from diagd_cli.families.cosmos.layers import patch, unpatch
from diagd_cli.families.cosmos.tokenizer import CosmosTokenizer, to_frames
from diagd_cli.model.config import TransformerConfig
from diagd_cli.tokens.fit import fit_pixels
from diagd_cli.weights.load import load_tokenizer

CLIPS, CODES = ["clip9", "clip17", "image"], ["dec3x1x2", "dec2x2x3", "dec1x2x3"]


def tokenizer_config() -> CosmosDvConfig:
    settings = golden("tokenizer_dv8x16x16_tiny")[0]["config"]
    return CosmosDvConfig(
        levels=settings["levels"],
        channels=settings["channels"],
        multipliers=settings["channels_mult"],
        blocks=settings["num_res_blocks"],
        z_channels=settings["z_channels"],
        patch=settings["patch_size"],
        spatial_compression=settings["spatial_compression"],
        temporal_compression=settings["temporal_compression"],
        resolution=settings["resolution"],
        attention=settings["attn_resolutions"],
    )


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> CosmosTokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.safetensors"
    save_file(official_weights("tokenizer_dv8x16x16_tiny"), path)
    sizes = {
        "vocab": 64000,
        "dim": 8,
        "layers": 1,
        "heads": 1,
        "kv_heads": 1,
        "head_dim": 8,
        "mlp_dim": 8,
    }
    preset = preset_of(tokenizer_config(), TransformerConfig(**sizes), 32, 48, window=17)
    return load_tokenizer(preset, files=[path])


def tokens(name: str) -> torch.Tensor:
    return golden("tokenizer_dv8x16x16_tiny")[1][name]


@pytest.mark.parametrize("clip", CLIPS)
def test_codes_of_a_clip(tokenizer, clip):
    frames, wanted = tokens(f"{clip}.video_u8"), tokens(f"{clip}.indices").long()
    pixels = frames.float() / 255 * 2 - 1
    with torch.inference_mode():
        z = tokenizer.encoder(pixels)
        assert_close(z, tokens(f"{clip}.encoder_z"))
        assert_close(tokenizer.quant_conv(z), tokens(f"{clip}.pre_quant"))
    assert torch.equal(tokenizer.encode_pixels(pixels), wanted)
    assert torch.equal(tokenizer.encode(frames[0].movedim(0, -1)), wanted[0])
    assert torch.equal(tokenizer.quantiser.codes(wanted).movedim(-1, 1), tokens(f"{clip}.codes"))


@pytest.mark.parametrize("clip", CODES)
def test_pixels_of_codes(tokenizer, clip):
    codes, wanted = tokens(f"{clip}.indices"), tokens(f"{clip}.video")
    assert torch.equal(tokenizer.quantiser.codes(codes).movedim(-1, 1), tokens(f"{clip}.codes"))
    assert_close(tokenizer.decode_pixels(codes), wanted)
    truncated = ((wanted * 0.5 + 0.5).clamp(0, 1) * 255).to(torch.uint8)[0].movedim(0, -1)
    apart = (tokenizer.decode(codes[0]).int() - truncated.int()).abs()
    # where another order of a sum crosses a whole level
    assert apart.max() <= 1 and apart.float().mean() < 1e-3


def test_large_clips_go_frame_by_frame_to_the_same_end(tokenizer, monkeypatch):
    monkeypatch.setattr(cosmos_layers, "AT_ONCE", 0)
    assert torch.equal(
        tokenizer.encode_pixels(tokens("clip9.video_u8").float() / 255 * 2 - 1),
        tokens("clip9.indices"),
    )
    pixels = tokenizer.decode_pixels(tokens("dec2x2x3.indices"))
    assert_close(pixels, tokens("dec2x2x3.video"))


def test_the_first_codes_do_not_depend_on_later_frames(tokenizer):
    frames = tokens("clip17.video_u8")[0].movedim(0, -1)
    for count, latents in ((1, 1), (9, 2)):
        assert torch.equal(tokenizer.encode(frames[:count]), tokenizer.encode(frames)[:latents])


def test_patches_and_their_inverse():
    size = golden("tokenizer_dv8x16x16_tiny")[0]["config"]["patch_size"]
    assert_close(patch(tokens("patch.in"), size), tokens("patch.out"), 1e-5)
    assert_close(unpatch(tokens("unpatch.in"), size), tokens("unpatch.out"), 1e-5)


def test_finite_scalar_quantisation(tokenizer):
    fsq = tokenizer.quantiser
    assert torch.equal(fsq.codes(tokens("fsq.indices")), tokens("fsq.codes"))
    assert torch.equal(fsq.indices(tokens("fsq.z")), tokens("fsq.z_indices").long())
    assert torch.equal(fsq.quantise(tokens("fsq.z")), tokens("fsq.z_codes"))
    every = torch.arange(fsq.size)
    assert torch.equal(
        ((fsq.codes(every) * fsq.middle + fsq.middle).long() * fsq.basis).sum(-1), every
    )


OTHERS = {
    "more levels": {"multipliers": (1, 2, 2, 3), "resolution": 2048},
    "less compression": {"spatial_compression": 8, "temporal_compression": 8},
    "patches alone in time": {"spatial_compression": 8, "temporal_compression": 4},
    "small patches": {
        "patch": 2,
        "multipliers": (1, 1, 1, 1),
        "spatial_compression": 8,
        "temporal_compression": 8,
    },
    "attention in a level": {"attention": (128,)},
    "other codes": {"levels": (4, 3), "z_channels": 5},
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_sizes_of_other_tokenizers(change):
    config = CosmosDvConfig(**{"channels": 2, "blocks": 1, **change})
    model, frames = CosmosTokenizer(config), 1 + config.temporal
    clip = torch.randint(0, 256, (frames, 2 * config.spatial, config.spatial, 3), dtype=torch.uint8)
    codes = model.encode(clip)
    assert (
        codes.shape == (2, 2, 1)
        and codes.min() >= 0
        and codes.max() < model.codebook == config.codebook
    )
    assert model.decode(codes).shape == clip.shape
    names = {name.split(".block.")[0] for name in model.state_dict() if ".attn." in name}
    assert bool(names) == ("attention" in change)


@pytest.mark.parametrize("shape", [(8, 16, 16), (0, 16, 16), (9, 24, 16), (9, 16, 8)])
def test_clips_of_the_wrong_size_are_refused(shape):
    config = CosmosDvConfig(channels=1, blocks=1)
    with pytest.raises(ValueError, match=f"clip is {shape[0]}x{shape[1]}x{shape[2]}"):
        CosmosTokenizer(config).encode(torch.zeros(*shape, 3, dtype=torch.uint8))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"patch": 3}, "patch .3. must be a power of two"),
        ({"spatial_compression": 2}, "cannot be below patch"),
        (
            {"temporal_compression": 32, "multipliers": (1,) * 9},
            "cannot exceed spatial_compression",
        ),
        ({"multipliers": (1, 2)}, "too few to reach"),
        ({"temporal_compression": 16}, "too few to reach"),
    ],
)
def test_settings_that_cannot_be(change, message):
    with pytest.raises(ValueError, match=message):
        CosmosDvConfig(**change)


# ---- pixels in and out ---------------------------------------------------------------------------


@pytest.mark.parametrize("n", range(5))
def test_input_is_resized_and_cropped_as_officially(n):
    """Up to the order of a sum, which depends on the instructions of the processor."""
    settings, data = golden("preprocess")
    resized = fit_pixels(data[f"resize{n}.in"], *settings["cases"][n]["resolution"])
    assert_close(resized, data[f"resize{n}.out"], 1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_output_frames_are_truncated(dtype):
    _, data = golden("preprocess")
    pixels = data["post.decoded"].to(getattr(torch, dtype))
    assert torch.equal(to_frames(pixels), data[f"post.uint8_from_{dtype}"])
