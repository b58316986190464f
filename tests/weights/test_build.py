"""A preset's models without a file: their geometry, their tables, and random weights."""

import pytest
import torch
from families.golden_preset import preset_of

from diagd_cli.families.cosmos.config import CosmosDvConfig
from diagd_cli.families.freedoom.config import FsqImageConfig
from diagd_cli.families.mineworld.config import VqImageConfig
from diagd_cli.families.vavim.config import LlamaGenVqConfig
from diagd_cli.families.wham.config import VitVqConfig
from diagd_cli.model.config import Positions, TransformerConfig
from diagd_cli.model.transformer import Block, initialise
from diagd_cli.preset_files import load_preset
from diagd_cli.sections import Text
from diagd_cli.weights.load import (
    build_tokenizer,
    build_transformer,
    random_tokenizer,
    random_transformer,
)

SIZES = {
    "vocab": 300,
    "dim": 96,
    "layers": 2,
    "heads": 4,
    "kv_heads": 4,
    "head_dim": 24,
    "mlp_dim": 128,
}
COSMOS = {
    "norm": "rms",
    "qk_norm": True,
    "cross_dim": 16,
    "positions": Positions(kind="rope-3d", absolute=True),
}
WHAM = {
    "norm": "layer",
    "bias": True,
    "tied": True,
    "activation": "gelu-tanh",
    "positions": Positions(kind="learned"),
}
VAVIM = {
    "norm": "layer",
    "block_norm_affine": False,
    "final_norm_affine": False,
    "tied": True,
    "activation": "gelu",
    "attention_scale": 1 / 24,
    "logit_scale": 2.0,
    "positions": Positions(kind="learned", places=6),
}
FRAMES = {"height": 32, "width": 48, "window": 9}
PRESETS = {
    "fsq-image": preset_of(
        FsqImageConfig(levels=(8, 6, 5), channels=(8, 16)), TransformerConfig(**SIZES), **FRAMES
    ),
    "cosmos-dv": preset_of(
        CosmosDvConfig(channels=8, multipliers=(1, 2, 2), blocks=1, levels=(8, 6, 5)),
        TransformerConfig(**SIZES, **COSMOS),
        **FRAMES,
        prefix=(299,),
        text=Text(),
    ),
    "vq-image": preset_of(
        VqImageConfig(codebook=256, channels=(32,) * 5, blocks=1, latent=8),
        TransformerConfig(**SIZES),
        **FRAMES,
    ),
    "vit-vq": preset_of(
        VitVqConfig(
            height=32, width=48, patch=8, dim=32, layers=1, head_size=8, code_dim=8, codebook=256
        ),
        TransformerConfig(**SIZES, **WHAM),
        **FRAMES,
    ),
    "llamagen-vq": preset_of(
        LlamaGenVqConfig(codebook=256, channels=32, multipliers=(1,) * 5, blocks=1, latent=8),
        TransformerConfig(**SIZES, **VAVIM),
        **FRAMES,
    ),
}
every_family = pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
MAKE = {"transformer": random_transformer, "tokenizer": random_tokenizer}
each_model = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)


def equal(a, b) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


# ---- geometry ------------------------------------------------------------------------------------


@every_family
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_parameters_are_made_in_their_dtype_and_tables_keep_theirs(preset, dtype):
    transformer, tokenizer = (
        build_transformer(preset, dtype=dtype),
        build_tokenizer(preset, dtype=dtype),
    )
    for model in (transformer, tokenizer):
        assert {p.dtype for p in model.parameters()} == {dtype}
    exact = build_transformer(preset)
    for name, table in transformer.named_buffers():
        assert table.dtype == (torch.bfloat16 if name == "absolute" else torch.float32)
        assert torch.equal(table, exact.get_buffer(name))
    if hasattr(tokenizer, "quantiser"):
        assert tokenizer.quantiser.halfwidth.dtype == torch.float32


@every_family
def test_tables_reach_past_the_window_and_rotary_positions_everywhere(preset):
    """A window of 9 frames is 2 latent frames of Cosmos."""
    model, length = build_transformer(preset), preset.grid.length(preset.window)
    if preset.transformer.positions.places:
        assert (len(model.learned.frames.weight), len(model.learned.places.weight)) == (9, 6)
        initialise(model, seed=0)
        assert torch.equal(model.learned(torch.tensor([length])), model.learned(torch.tensor([48])))
    elif model.learned is not None:
        assert len(model.learned.weight) == length + 1
    else:
        cos, sin = model.rotary(torch.tensor([0, length, 10**9]), torch.float32)
        assert cos.isfinite().all() and len(sin.unique()) > 2
    assert preset.window == (2 if preset.tokenizer.temporal == 8 else 9)


def test_only_our_own_tokenizer_lies_channels_last():
    """The order of sums decides the last bits, and what is truncated to bytes: official models keep
    the official one.
    """
    for name, preset in PRESETS.items():
        weights = [
            p for p in build_tokenizer(preset).parameters() if p.ndim == 4 and min(p.shape[1:]) > 1
        ]
        last = [p.is_contiguous(memory_format=torch.channels_last) for p in weights]
        assert any(last) == (name == "fsq-image")


# ---- random weights ------------------------------------------------------------------------------


@every_family
@each_model
def test_random_weights_are_a_function_of_the_seed(preset, make):
    before = torch.get_rng_state()
    first = make(preset, 1)
    assert equal(first, make(preset, 1)) and not equal(first, make(preset, 2))
    assert torch.equal(torch.get_rng_state(), before)  # nobody else's numbers change
    assert not first.training and not any(p.requires_grad for p in first.parameters())
    half = make(preset, 1, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16} and equal(
        half, first.bfloat16()
    )


@every_family
def test_scale_of_random_weights(preset):
    model = random_transformer(preset, 0)
    layers = sum(isinstance(module, Block) for module in model.modules())
    for name, p in model.named_parameters():
        if p.ndim == 1:
            assert (p == name.endswith("weight")).all()
        else:
            wanted = (
                0.02 / (2 * layers) ** 0.5 if name.endswith(("out.weight", "down.weight")) else 0.02
            )
            assert (
                p.std().item() == pytest.approx(wanted, rel=0.1)
                and abs(p.mean().item()) < wanted / 5
            )


def test_a_matrix_of_more_numbers_than_are_drawn_repeats_no_row():
    config = TransformerConfig(
        **{**SIZES, "vocab": 3000, "dim": 1024, "layers": 1, "mlp_dim": 16, "head_dim": 4}
    )
    rows = random_transformer(
        preset_of(FsqImageConfig(levels=(8, 5)), config, **FRAMES), 0
    ).embed.weight
    assert rows.numel() > 2**21 and len(rows[:, :8].unique(dim=0)) == 3000


@every_family
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_logits_of_random_weights_are_finite_and_differ(preset, dtype):
    model = random_transformer(preset, 0, dtype=dtype)
    length = preset.grid.length(preset.window)
    ids = torch.randint(300, (1, length), generator=torch.Generator().manual_seed(0))
    text = torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    cross = model.cross_context(text) if preset.text else None
    logits = model(ids, torch.arange(length), cross=cross)[0].float()
    assert logits.isfinite().all()
    assert len(logits.argmax(-1).unique()) > length / 5
    assert (logits.std(0) > 0.01).all() and (logits.std(1) > 0.01).all()


@every_family
def test_random_tokenizers_make_many_codes_and_pictures(preset):
    model = random_tokenizer(preset, 0)
    noise = torch.Generator().manual_seed(0)
    frames = torch.randint(256, (9, 32, 48, 3), dtype=torch.uint8, generator=noise)
    codes = model.encode(frames)
    assert (
        codes.shape == (preset.window, preset.grid.h, preset.grid.w)
        and 0 <= codes.min() <= codes.max() < 256
    )
    assert len(codes.unique()) > codes[0].numel() / 4
    decoded = model.decode(torch.randint(240, codes.shape, generator=noise))
    assert decoded.shape == frames.shape and decoded.float().std() > 5


def test_every_shipped_preset_can_be_built():
    """Without allocating it: as shapes."""
    for name in ("freedoom", "cosmos-4b", "mineworld-300m", "wham-200m", "vavim-s"):
        preset = load_preset(name)
        for build in (build_transformer, build_tokenizer):
            assert all(p.is_meta for p in build(preset, "meta").parameters())
