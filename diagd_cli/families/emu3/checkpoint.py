"""Weights of Emu3's tokenizer by the names of our modules, which are those of `transformers`.

Files: safetensors of the whole model as `transformers` saves it, in one file or in parts, of which
two generations of names are about; of its tokenizer alone; or of BAAI/Emu3-VisionTokenizer.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

from diagd_cli.checkpoints.archive import Stored, read_weights
from diagd_cli.checkpoints.match import Layout, Rows, flat, gather, match, rows
from diagd_cli.errors import WeightsError
from diagd_cli.families.emu3.config import Emu3VqConfig
from diagd_cli.families.emu3.tokenizer import Emu3VqTokenizer
from diagd_cli.model.unset import Unset

OTHERWISE = "It is no tokenizer of Emu3 of these sizes, or not a whole one"
BEFORE = ("model.vqmodel.", "vqmodel.")  # of the whole model, since 4.52 and until then
TEXT = re.compile(r"(model\.)?text_model\.|lm_head\.|model\.(embed_tokens|layers|norm)\.")
STATISTIC = ".num_batches_tracked"
OFFICIAL = (  # names of BAAI's own code, and those of `transformers`
    (r"^(encoder)\.down\.", r"\1.down_block.down."),
    (r"^(decoder)\.up\.", r"\1.up_block.up."),
    (r"^(encoder|decoder)\.mid\.", r"\1.middle_block."),
    (r"\.attn_1\.norm\.", ".attn_norm."),
    (r"\.attn\.(\d+)\.norm\.", r".attn_norms.\1."),
    (r"(\.attn(_1|\.\d+))\.([qkv])\.", r"\1.\3_proj."),
    (r"(\.attn(_1|\.\d+))\.proj_out\.", r"\1.out_proj."),
)


def tokenizer_tensors(paths: list[Path], config: Emu3VqConfig) -> Rows:
    """(Our name, [the tensor]) of every parameter and statistic of `Emu3VqTokenizer`.

    paths: files of weights; a `config.json` among them is passed over.

    Names and shapes are checked before this returns. Raises WeightsError for files that cannot be
    read, that lack names or have unknown ones, or whose sizes are not the configuration's.
    """
    weights = [path for path in paths if path.suffix != ".json"]
    if not weights:
        raise WeightsError("Weights of emu3 are safetensors", "Name them")
    found: dict[str, Stored] = {}
    for path in weights:
        found |= _named(path)
    layout = tokenizer_layout(config)
    label = weights[0] if len(weights) == 1 else weights[0].parent
    match(label, found, flat(layout), OTHERWISE)
    return rows(gather(layout, found).items())


def tokenizer_layout(config: Emu3VqConfig) -> Layout:
    """Name and shape in the files of each parameter and statistic of our `Emu3VqTokenizer`."""
    with Unset("meta"):
        own = Emu3VqTokenizer(config).state_dict()
    return {name: {name.removeprefix("vq."): tuple(tensor.shape)} for name, tensor in own.items()}


def _named(path: Path) -> dict[str, Stored]:
    """A file's tensors of the tokenizer, by the names of `transformers`."""
    found = {}
    for name, stored in read_weights(path).items():
        if TEXT.match(name) or name.endswith(STATISTIC):
            continue
        for before in BEFORE:
            name = name.removeprefix(before)
        for theirs, ours in OFFICIAL:
            name = re.sub(theirs, ours, name)
        if name.endswith("_proj.weight") and stored.shape[2:] == (1, 1):  # a convolution of 1x1
            stored = _as_matrix(stored)
        found[name] = stored
    return found


def _as_matrix(stored: Stored) -> Stored:
    """A kernel [o, i, 1, 1] as the matrix [o, i]."""

    def load() -> torch.Tensor:
        return stored.load()[:, :, 0, 0]

    return Stored(stored.shape[:2], stored.dtype, load)
