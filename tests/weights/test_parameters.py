"""Parameters that are counted by arithmetic are those of the modules."""

import pytest
import torch

from diagd_cli import families
from diagd_cli.families.cosmos.config import CosmosDvConfig
from diagd_cli.families.freedoom.config import FsqImageConfig
from diagd_cli.families.mineworld.config import VqImageConfig
from diagd_cli.families.vavim.config import LlamaGenVqConfig
from diagd_cli.families.wham.config import VitVqConfig
from diagd_cli.model.config import Positions, TransformerConfig
from diagd_cli.model.transformer import Transformer
from diagd_cli.weights.parameters import tokenizer_parameters, transformer_parameters

ROPE, LEARNED = Positions(kind="rope-3d"), Positions(kind="learned")
COSMOS = {
    "dim": 4096,
    "layers": 16,
    "heads": 32,
    "kv_heads": 8,
    "head_dim": 128,
    "mlp_dim": 14336,
    "qk_norm": True,
}
COSMOS |= {"vocab": 64000, "outputs": 64000, "positions": ROPE}
LARGE, TEXT = {"dim": 5120, "layers": 40}, {"vocab": 64064, "cross_dim": 1024}
MINEWORLD = {"vocab": 8262, "layers": 20, "kv_heads": 4, "head_dim": 64}
WHAM = {
    "vocab": 16452,
    "tied": True,
    "bias": True,
    "norm": "layer",
    "activation": "gelu-tanh",
    "positions": LEARNED,
}

OFFICIAL = {
    "Cosmos 4B": (COSMOS, 4_014_088_192),
    "Cosmos 12B": (COSMOS | LARGE, 11_560_975_360),
    "Cosmos 5B Video2World": (COSMOS | TEXT, 4_584_845_312),
    "Cosmos 13B Video2World": (COSMOS | LARGE | TEXT, 13_323_125_760),
    "MineWorld 300M": (MINEWORLD | {"dim": 1024, "heads": 16, "mlp_dim": 4096}, 321.0),
    "MineWorld 700M": (MINEWORLD | {"dim": 2048, "heads": 32, "mlp_dim": 4096}, 726.0),
    "MineWorld 1200M": (MINEWORLD | {"dim": 2048, "heads": 32, "mlp_dim": 8192}, 1229.3),
    "WHAM 200M": (
        WHAM
        | {"dim": 1024, "layers": 16, "heads": 16, "kv_heads": 16, "head_dim": 64, "mlp_dim": 4096}
        | {"block_norm_affine": False},
        224_016_384,
    ),
    "WHAM 1.6B": (
        WHAM
        | {
            "dim": 2304,
            "layers": 24,
            "heads": 18,
            "kv_heads": 18,
            "head_dim": 128,
            "mlp_dim": 9216,
        },
        1_580_262_912,
    ),
}
SMALL = {
    "vocab": 11,
    "dim": 12,
    "layers": 2,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 6,
    "mlp_dim": 10,
}
CODECS = [
    FsqImageConfig(levels=(5, 4, 3), channels=(4, 6), encoder=(1, 2), decoder=(2, 0), kernel=3),
    VitVqConfig(height=13, width=24, patch=4, dim=8, layers=2, head_size=4, code_dim=3, codebook=7),
    VqImageConfig(codebook=9, channels=(4, 8, 8, 12), blocks=1, latent=5, code_dim=3, groups=4),
    VqImageConfig(codebook=9, channels=(4, 8), blocks=3, latent=5, groups=2),
    LlamaGenVqConfig(
        codebook=9, channels=4, multipliers=(2, 1, 3), blocks=1, latent=5, code_dim=3, groups=2
    ),
    CosmosDvConfig(levels=(5, 3), channels=4, multipliers=(1, 2, 2), blocks=1, z_channels=3),
    CosmosDvConfig(
        channels=2,
        multipliers=(1, 2, 3),
        blocks=2,
        spatial_compression=8,
        resolution=64,
        attention=(8,),
    ),
]


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_transformers(name):
    sizes, known = OFFICIAL[name]
    count = transformer_parameters(TransformerConfig(**sizes), positions=5560)
    assert (
        count == known
        if isinstance(known, int)
        else round(count / 1e6, 1) == pytest.approx(known, abs=0.051)
    )


def test_official_tokenizers():
    assert round(tokenizer_parameters(CosmosDvConfig()) / 1e6, 1) == 110.9
    assert round(tokenizer_parameters(VqImageConfig()) / 1e6, 1) == 146.2
    assert tokenizer_parameters(VitVqConfig()) == 304_355_660


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"outputs": 9, "qk_norm": True, "cross_dim": 5},
        {
            "norm": "layer",
            "bias": True,
            "qk_norm": True,
            "cross_dim": 5,
            "block_norm_affine": False,
        },
        {
            "norm": "layer",
            "bias": True,
            "activation": "gelu-tanh",
            "tied": True,
            "positions": LEARNED,
        },
        {"norm": "layer", "positions": Positions(kind="rope-3d", absolute=True)},
        {"final_norm_affine": False, "positions": Positions(kind="learned", places=5)},
        {"bias": "qkv", "cross_dim": 5},
        {"bias": "attention", "norm": "layer", "cross_dim": 5},
        {"bias": "mlp", "activation": "gelu"},
    ],
)
def test_transformers(changes):
    config = TransformerConfig(**{**SMALL, **changes})
    model = Transformer(config, torch.zeros(17, 3, dtype=torch.long))
    assert transformer_parameters(config, 17) == parameters(model)


@pytest.mark.parametrize("config", CODECS, ids=lambda config: config.kind)
def test_tokenizers(config):
    assert tokenizer_parameters(config) == parameters(
        families.tokenizer_kind(config.kind).build(config)
    )
