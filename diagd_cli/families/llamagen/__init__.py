"""LlamaGen (FoundationVision): images of a class or a text, on its own VQ-16, which
`families.vavim` has.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from diagd_cli.families.family import Checkpoint, Family

if TYPE_CHECKING:
    from diagd_cli.checkpoints.match import Rows
    from diagd_cli.model.config import TransformerConfig


def _transformer(paths: list[Path], config: TransformerConfig, positions: int) -> Rows:
    from diagd_cli.families.llamagen.checkpoint import transformer_tensors

    return transformer_tensors(paths[0], config)


FAMILY = Family("llamagen", checkpoint=Checkpoint(_transformer))
