"""No tokenizer: clips are files of tokens, and so is what is made of them. For models whose
tokenizer is somebody else's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diagd_cli.families.family import Family, TokenizerKind
from diagd_cli.families.none.config import NoTokenizerConfig

if TYPE_CHECKING:
    from diagd_cli.families.none.tokenizer import TokenFrames


def _build(config: NoTokenizerConfig) -> TokenFrames:
    from diagd_cli.families.none.tokenizer import TokenFrames

    return TokenFrames(config)


def _parameters(config: NoTokenizerConfig) -> int:
    return 0


def _work(config: NoTokenizerConfig, frames: int, context: int, area: int, item: int) -> float:
    return 8 * frames * area  # the tokens themselves, int64


FAMILY = Family(
    "none", tokenizer=TokenizerKind(NoTokenizerConfig, _build, _parameters, _work, pixels=False)
)
