"""MineWorld (Microsoft): a VQ image tokenizer, and Minecraft's keys and camera."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from diagd_cli.families.family import Checkpoint, Family, TokenizerKind
from diagd_cli.families.mineworld.actions import MinecraftActions
from diagd_cli.families.mineworld.config import VqImageConfig
from diagd_cli.families.mineworld.memory import parameters, work

if TYPE_CHECKING:
    from diagd_cli.checkpoints.match import Rows
    from diagd_cli.families.mineworld.tokenizer import VqImageTokenizer
    from diagd_cli.model.config import TransformerConfig


def _build(config: VqImageConfig) -> VqImageTokenizer:
    from diagd_cli.families.mineworld.tokenizer import VqImageTokenizer

    return VqImageTokenizer(config)


def _transformer(paths: list[Path], config: TransformerConfig, positions: int) -> Rows:
    from diagd_cli.families.mineworld.checkpoint import transformer_tensors

    return transformer_tensors(paths[0], config)


def _tokenizer(paths: list[Path], config: VqImageConfig) -> Rows:
    from diagd_cli.families.mineworld.checkpoint import tokenizer_tensors

    return tokenizer_tensors(paths[0], config)


def _settings(config: VqImageConfig) -> dict:
    return {**config.model_dump(mode="json"), "code_dim": config.code_dim or config.latent}


FAMILY = Family(
    "mineworld",
    tokenizer=TokenizerKind(VqImageConfig, _build, parameters, work, _settings),
    actions=MinecraftActions,
    checkpoint=Checkpoint(_transformer, _tokenizer),
)
