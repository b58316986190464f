"""Cosmos (NVIDIA): a causal video tokenizer; weights as released, as exports, or by the names of
training checkpoints.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from diagd_cli.families.cosmos.config import CosmosDvConfig
from diagd_cli.families.cosmos.memory import parameters, work
from diagd_cli.families.family import Checkpoint, Family, TokenizerKind

if TYPE_CHECKING:
    from diagd_cli.checkpoints.match import Rows
    from diagd_cli.families.cosmos.tokenizer import CosmosTokenizer
    from diagd_cli.model.config import TransformerConfig


def _build(config: CosmosDvConfig) -> CosmosTokenizer:
    from diagd_cli.families.cosmos.tokenizer import CosmosTokenizer

    return CosmosTokenizer(config)


def _transformer(paths: list[Path], config: TransformerConfig, positions: int) -> Rows:
    from diagd_cli.families.cosmos.checkpoint import transformer_tensors

    return transformer_tensors(paths[0], config)


def _tokenizer(paths: list[Path], config: CosmosDvConfig) -> Rows:
    from diagd_cli.families.cosmos.checkpoint import tokenizer_tensors

    return tokenizer_tensors(paths, config)


def _settings(config: CosmosDvConfig) -> dict:
    # That levels attend or not shows in the shapes, and nothing else follows from these two.
    return config.model_dump(mode="json", exclude={"resolution", "attention"})


FAMILY = Family(
    "cosmos",
    tokenizer=TokenizerKind(CosmosDvConfig, _build, parameters, work, _settings),
    checkpoint=Checkpoint(_transformer, _tokenizer, in_parts=("tokenizer",)),
)
