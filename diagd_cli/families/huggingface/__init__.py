"""Causal language models as the `transformers` library of Hugging Face saves them: Llama, Mistral,
Qwen2 and Qwen3. They bring no tokenizer of frames.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from diagd_cli.families.family import Checkpoint, Family

if TYPE_CHECKING:
    from diagd_cli.checkpoints.match import Rows
    from diagd_cli.model.config import TransformerConfig


def _transformer(
    paths: list[Path], config: TransformerConfig, positions: int, offset: int = 0
) -> Rows:
    from diagd_cli.families.huggingface.checkpoint import transformer_tensors

    return transformer_tensors(paths, config, positions, offset)


FAMILY = Family(
    "huggingface", checkpoint=Checkpoint(_transformer, in_parts=("transformer",), offsets=True)
)
