"""Emu3 (BAAI): its VQ tokenizer of images, whose modules are those of the `transformers` library.
Its Transformer is a Llama's, see `families.huggingface`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from diagd_cli.families.emu3.config import Emu3VqConfig
from diagd_cli.families.emu3.memory import parameters, work
from diagd_cli.families.family import Checkpoint, Family, TokenizerKind

if TYPE_CHECKING:
    from diagd_cli.checkpoints.match import Rows
    from diagd_cli.families.emu3.tokenizer import Emu3VqTokenizer
    from diagd_cli.model.config import TransformerConfig


def _build(config: Emu3VqConfig) -> Emu3VqTokenizer:
    from diagd_cli.families.emu3.tokenizer import Emu3VqTokenizer

    return Emu3VqTokenizer(config)


def _transformer(
    paths: list[Path], config: TransformerConfig, positions: int, offset: int = 0
) -> Rows:
    from diagd_cli.families.huggingface.checkpoint import transformer_tensors

    return transformer_tensors(paths, config, positions, offset)


def _tokenizer(paths: list[Path], config: Emu3VqConfig) -> Rows:
    from diagd_cli.families.emu3.checkpoint import tokenizer_tensors

    return tokenizer_tensors(paths, config)


FAMILY = Family(
    "emu3",
    tokenizer=TokenizerKind(Emu3VqConfig, _build, parameters, work),
    checkpoint=Checkpoint(
        _transformer, _tokenizer, in_parts=("transformer", "tokenizer"), offsets=True
    ),
)
