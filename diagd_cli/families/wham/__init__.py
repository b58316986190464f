"""WHAM (Microsoft): a ViT-VQGAN, and a gamepad; one file holds both models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diagd_cli.families.family import Checkpoint, Family, TokenizerKind
from diagd_cli.families.wham.actions import GamepadActions, read_npz
from diagd_cli.families.wham.config import VitVqConfig
from diagd_cli.families.wham.memory import parameters, work

if TYPE_CHECKING:
    from diagd_cli.checkpoints.match import Rows
    from diagd_cli.families.wham.tokenizer import VitVqTokenizer
    from diagd_cli.model.config import TransformerConfig


def _build(config: VitVqConfig) -> VitVqTokenizer:
    from diagd_cli.families.wham.tokenizer import VitVqTokenizer

    return VitVqTokenizer(config)


def _transformer(paths: list[Path], config: TransformerConfig, positions: int) -> Rows:
    from diagd_cli.families.wham.checkpoint import transformer_tensors

    return transformer_tensors(paths[0], config, positions)


def _tokenizer(paths: list[Path], config: VitVqConfig) -> Rows:
    from diagd_cli.families.wham.checkpoint import tokenizer_tensors

    return tokenizer_tensors(paths[0], config)


def _frames(path: Path) -> np.ndarray:
    return read_npz(path).images


FAMILY = Family(
    "wham",
    tokenizer=TokenizerKind(VitVqConfig, _build, parameters, work),
    actions=GamepadActions,
    checkpoint=Checkpoint(_transformer, _tokenizer),
    recordings={".npz": _frames},
)
