"""LlamaGen's official weights, by the names of our modules.

A class is one token before the image: its table is the end of our vocabulary, after the codes. A
text is as many as the text that asks for nothing has, which the file holds as features. The file
turns pairs of neighbouring channels, our Transformer channels that are half a head apart: rows
of queries and keys change places.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from diagd_cli.checkpoints.archive import Stored, read_weights
from diagd_cli.checkpoints.match import (
    Layout,
    Rows,
    Shape,
    compare,
    flat,
    gather,
    match,
    matrix,
    require,
    rows,
)
from diagd_cli.errors import WeightsError
from diagd_cli.model.config import TransformerConfig

NOT_LLAMAGEN = "It is no LlamaGen file, or not a whole one"
CODES, CLASSES = "tok_embeddings.weight", "cls_embedding.embedding_table.weight"
TEXT, NOTHING = "cls_embedding.cap_proj.fc", "cls_embedding.uncond_embedding"
IGNORED = "freqs_cis"  # the rotary table, which some savers keep
# settings that no file tells
FAMILY = {
    "activation": "swiglu",
    "norm": "rms",
    "norm_eps": 1e-5,
    "block_norm_affine": True,
    "final_norm_affine": True,
    "qk_norm": False,
    "bias": False,
    "tied": False,
    "cross_dim": 0,
    "attention_scale": 0.0,
    "logit_scale": 1.0,
    "positions.kind": "rope-2d",
    "positions.prefix": "zero",
    "positions.absolute": False,
    "positions.base": 10000.0,
}
_SIZES = {
    "b": (12, 768, 2048),
    "l": (24, 1024, 2816),
    "xl": (36, 1280, 3584),
    "xxl": (48, 1536, 4096),
    "3b": (24, 3200, 8704),
}
OFFICIAL = {
    f"llamagen-c2i-{name}-{side}": {
        **{"vocab": 17385, "outputs": 16384},
        **{"layers": layers, "dim": dim, "mlp_dim": mlp},
    }
    for name, (layers, dim, mlp) in _SIZES.items()
    for side in ((256, 384) if name in "bl" else (384,))
}
_LAYERS, _DIM, _MLP = _SIZES["xl"]
OFFICIAL |= {
    f"llamagen-t2i-xl-{side}": {
        **{"vocab": 16384, "outputs": 16384, "prefix_dim": 2048},
        **{"layers": _LAYERS, "dim": _DIM, "mlp_dim": _MLP},
    }
    for side in (256, 512)
}


def transformer_tensors(path: Path, config: TransformerConfig) -> Rows:
    """(Our name, the tensors whose rows make it, one below the other) of every parameter of our
    Transformer. Names, shapes and settings are checked before this returns.

    Raises WeightsError for a file that cannot be read, has names missing or left over, or is of
    another model.
    """
    require("LlamaGen", config, {**FAMILY, "kv_heads": config.heads})
    found = read_weights(path, "model", "module", "state_dict", stand_ins=("argparse",))
    found.pop(IGNORED, None)
    by_text = any(name.startswith(TEXT) for name in found)
    if by_text != bool(config.prefix_dim):
        kinds = ("a class, c2i", "a text, t2i")[:: -1 if by_text else 1]
        message = f"{path} holds a model of {kinds[0]}, and the preset is of {kinds[1]}"
        raise WeightsError(message, "Give the preset its own file")
    compare(path, "transformer", _told(path, found), config.model_dump(), OFFICIAL)
    layout = transformer_layout(config)
    match(path, found, flat(layout), NOT_LLAMAGEN)
    parts = gather(layout, found)
    width = config.heads * config.head_dim
    for name in [name for name in parts if name.endswith("qkv.weight")]:
        [qkv] = parts[name]
        turned = half_split(qkv.rows(0, 2 * width), config.head_dim)
        parts[name] = [turned, qkv.rows(2 * width, 3 * width)]
    return rows(parts.items())


def half_split(stored: Stored, head_dim: int) -> Stored:
    """A matrix [heads * head_dim, inputs] whose pairs of neighbouring rows, in each head, are half
    a head apart.
    """

    def load() -> Tensor:
        given = stored.load()
        pairs = given.reshape(-1, head_dim // 2, 2, given.shape[1])
        return pairs.transpose(1, 2).reshape(given.shape)

    return Stored(stored.shape, stored.dtype, load, stored.release)


def transformer_layout(config: TransformerConfig) -> Layout:
    """Official names and shapes of each of our Transformer's parameters."""
    dim, mlp, codes = config.dim, config.mlp_dim, config.logits
    width = config.heads * config.head_dim
    before: dict[str, Shape] = {CLASSES: (config.vocab - codes, dim)}
    layout: Layout = {
        "embed.weight": {CODES: (codes, dim)} | ({} if config.prefix_dim else before),
        "head.weight": {"output.weight": (codes, dim)},
        "norm.weight": {"norm.weight": (dim,)},
    }
    if config.prefix_dim:
        layout |= {
            "caption.up.weight": {f"{TEXT}1.weight": (dim, config.prefix_dim)},
            "caption.down.weight": {f"{TEXT}2.weight": (dim, dim)},
            "caption.nothing": {NOTHING: (config.prefix_tokens, config.prefix_dim)},
        }
    for i in range(config.layers):
        ours, key = f"blocks.{i}", f"layers.{i}"
        gates: dict[str, Shape] = {
            f"{key}.feed_forward.{name}.weight": (mlp, dim) for name in ("w1", "w3")
        }
        layout |= {
            f"{ours}.attention.qkv.weight": {f"{key}.attention.wqkv.weight": (3 * width, dim)},
            f"{ours}.attention.out.weight": {f"{key}.attention.wo.weight": (dim, width)},
            f"{ours}.mlp.up.weight": gates,
            f"{ours}.mlp.down.weight": {f"{key}.feed_forward.w2.weight": (dim, mlp)},
            f"{ours}.attention_norm.weight": {f"{key}.attention_norm.weight": (dim,)},
            f"{ours}.mlp_norm.weight": {f"{key}.ffn_norm.weight": (dim,)},
        }
    return layout


def _told(path: Path, found: Mapping[str, Stored]) -> dict[str, Any]:
    """What the file's shapes say, by the names of our configuration; heads are not among it."""
    codes, dim = matrix(path, found, CODES, NOT_LLAMAGEN)
    by_text, before = f"{TEXT}1.weight" in found, 0
    if not by_text:
        before = matrix(path, found, CLASSES, NOT_LLAMAGEN)[0]
    return {
        "vocab": codes + before,
        "prefix_dim": matrix(path, found, f"{TEXT}1.weight", NOT_LLAMAGEN)[1] if by_text else 0,
        "outputs": codes,
        "dim": dim,
        "layers": len({hit[1] for name in found if (hit := re.match(r"layers\.(\d+)\.", name))}),
        "mlp_dim": matrix(path, found, "layers.0.feed_forward.w1.weight", NOT_LLAMAGEN)[0],
    }
