"""Weights of LlamaGen's VQ tokenizers by the names of our modules, which are the official ones: the
.pt that LlamaGen has published, or the two TorchScript archives that VaViM comes with.

An archive is read as data, its code is not looked at. What stands before the names in one is not
known, and may be anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count, takewhile
from pathlib import Path

import torch

from diagd_cli.checkpoints.archive import Stored, read_weights
from diagd_cli.checkpoints.match import Layout, Rows, compare, flat, gather, match, rows
from diagd_cli.errors import WeightsError
from diagd_cli.families.vavim.config import LlamaGenVqConfig
from diagd_cli.families.vavim.tokenizer import LlamaGenVqTokenizer
from diagd_cli.model.unset import Unset

NOT_OURS = "It is no tokenizer of LlamaGen's, or not a whole one"
CODES, STATISTIC = "quantize.embedding.weight", "quantize.codebook_used"
ANCHORS = ("encoder.conv_in.weight", "decoder.conv_in.weight", CODES)
PACKAGES = ("argparse",)  # of what a .pt says of its training


def tokenizer_tensors(paths: list[Path], config: LlamaGenVqConfig) -> Rows:
    """(Our name, [the tensor]) of every parameter of `LlamaGenVqTokenizer`.

    paths: one file of both halves, or a file of each. Names and shapes are checked before this
        returns.

    Raises WeightsError for files that cannot be read, that lack names or have unknown ones, or
    whose sizes are not the configuration's.
    """
    files = [_named(path) for path in paths]
    label = " and ".join(map(str, paths))
    codes = [found[CODES] for found in files if CODES in found]
    if any(not _equal(codes[0], other) for other in codes[1:]):
        raise WeightsError(f"{label} have different codes", "Give two files of one tokenizer")
    found = {name: stored for file in files for name, stored in file.items()}
    told = _sizes(found)
    compare(label, "tokenizer", told, config.model_dump(), {}, _official(told))
    layout = tokenizer_layout(config)
    match(label, found, flat(layout), NOT_OURS)
    return rows(gather(layout, found).items())


def tokenizer_layout(config: LlamaGenVqConfig) -> Layout:
    """Official name and shape of each parameter of our `LlamaGenVqTokenizer`: they are ours."""
    with Unset("meta"):
        parameters = LlamaGenVqTokenizer(config).state_dict()
    return {name: {name: tuple(tensor.shape)} for name, tensor in parameters.items()}


def _named(path: Path) -> dict[str, Stored]:
    """A file's tensors without what stands before the official names, and without what is no
    parameter.
    """
    found = read_weights(path, "model", "ema", "state_dict", stand_ins=PACKAGES)
    known = (name.removesuffix(end) for end in ANCHORS for name in found if name.endswith(end))
    prefix = next(known, "")
    own = {name.removeprefix(prefix): stored for name, stored in found.items()}
    own.pop(STATISTIC, None)
    return own


def _equal(a: Stored, b: Stored) -> bool:
    equal = a.shape == b.shape and torch.equal(a.load(), b.load())
    a.release()
    b.release()
    return equal


def _sizes(found: Mapping[str, Stored]) -> dict[str, object]:
    """The hyper-parameters that the shapes reveal, by the names of `LlamaGenVqConfig`; nothing
    where the encoder is not there.
    """

    def side(name: str, axis: int = 0) -> int:
        stored = found.get(f"{name}.weight")
        return stored.shape[axis] if stored and len(stored.shape) > axis else 0

    block = "encoder.conv_blocks.{}.res.{}.conv2".format
    channels = side("encoder.conv_in")
    widths = takewhile(bool, (side(block(level, 0)) for level in count()))
    told: dict[str, object] = {
        "codebook": side("quantize.embedding"),
        "code_dim": side("quantize.embedding", 1),
        "channels": channels,
        "multipliers": tuple(width // channels for width in widths) if channels else (),
        "blocks": len(list(takewhile(bool, (side(block(0, n)) for n in count())))),
        "latent": side("encoder.conv_out"),
    }
    return {name: value for name, value in told.items() if value}


def _official(told: Mapping[str, object]) -> str:
    """What to do about a tokenizer that is another one."""
    vq16 = LlamaGenVqConfig()
    for name, config in (
        ("VQ-16", vq16),
        ("VQ-8", vq16.model_copy(update={"multipliers": (1, 2, 2, 4)})),
    ):
        official = config.model_dump()
        if told and all(official[key] == value for key, value in told.items()):
            multipliers = list(config.multipliers)
            return f"It is {name}: use multipliers {multipliers}, and leave other sizes out"
    return "Correct them under tokenizer in the preset"
