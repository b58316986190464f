"""How these tests ask for embeddings, and of what size."""

import json
from pathlib import Path

from torch import Tensor

from diagd_cli.sections import Text
from diagd_cli.tokens.text import embed_prompts

DIM, LENGTH = 16, 8
PROMPT, IDS = "a robot walks", [3, 4, 5, 1]


def embed(
    encoder: Path | str, *prompts: str, length: int = LENGTH, dim: int = DIM, **options
) -> list[Tensor]:
    return embed_prompts(list(prompts), Text(encoder=str(encoder), length=length), dim, **options)


def change(path: Path, **values) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
