"""VaViM (valeo.ai): driving video on LlamaGen's VQ-16; nothing steers it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from diagd_cli.families.family import Checkpoint, Family, TokenizerKind
from diagd_cli.families.vavim.config import LlamaGenVqConfig
from diagd_cli.families.vavim.memory import parameters, work

if TYPE_CHECKING:
    from diagd_cli.checkpoints.match import Rows
    from diagd_cli.families.vavim.tokenizer import LlamaGenVqTokenizer
    from diagd_cli.model.config import TransformerConfig


def _build(config: LlamaGenVqConfig) -> LlamaGenVqTokenizer:
    from diagd_cli.families.vavim.tokenizer import LlamaGenVqTokenizer

    return LlamaGenVqTokenizer(config)


def _transformer(paths: list[Path], config: TransformerConfig, positions: int) -> Rows:
    from diagd_cli.families.vavim.checkpoint import transformer_tensors

    return transformer_tensors(paths[0], config, positions)


def _tokenizer(paths: list[Path], config: LlamaGenVqConfig) -> Rows:
    from diagd_cli.families.vavim.codec_files import tokenizer_tensors

    return tokenizer_tensors(paths, config)


FAMILY = Family(
    "vavim",
    tokenizer=TokenizerKind(LlamaGenVqConfig, _build, parameters, work),
    checkpoint=Checkpoint(_transformer, _tokenizer, in_parts=("tokenizer",)),
)
