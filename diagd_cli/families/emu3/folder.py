"""The tokenizer that a folder of Emu3 has beside its Transformer, as its `config.json` tells it.
Torch-free; it may be a stranger's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from diagd_cli.errors import WeightsError
from diagd_cli.families.emu3.config import TIMES, Emu3VqConfig


class _Settings(BaseModel):
    """What counts in `vq_config`, with what `transformers` takes where it does not say."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    codebook_size: int = 32768
    embed_dim: int = 4
    latent_channels: int = 4
    double_latent: bool = False
    base_channels: int = 256
    channel_multiplier: list[int] = [1, 2, 2, 4]
    num_res_blocks: int = 2
    attn_resolutions: list[int] = [3]
    hidden_size: int = 1024
    num_attention_heads: int = 1
    temporal_downsample_factor: int = TIMES


def tokenizer_of(path: Path, told: dict[str, Any]) -> Emu3VqConfig | None:
    """The tokenizer of a `config.json` with this content; None where it has none. Raises
    WeightsError for one that is not Emu3's.
    """
    own = told.get("vq_config")
    if told.get("model_type") != "emu3" or not isinstance(own, dict):
        return None
    try:
        seen = _Settings.model_validate(own)
        config = Emu3VqConfig(
            codebook=seen.codebook_size,
            channels=seen.base_channels,
            multipliers=tuple(seen.channel_multiplier),
            blocks=seen.num_res_blocks,
            latent=seen.latent_channels,
            code_dim=seen.embed_dim,
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise WeightsError(f"{path}: vq_config.{where}: {first['msg']}", "Fetch it again") from None
    fixed = {
        "double_latent": False,
        "attn_resolutions": [len(config.multipliers) - 1],
        "hidden_size": config.widths[-1],
        "num_attention_heads": 1,
        "temporal_downsample_factor": TIMES,
    }
    for name, value in fixed.items():
        if (given := getattr(seen, name)) != value:
            raise WeightsError(f"{path}: vq_config.{name} is {given}", f"diagd has {value} there")
    return config
