"""VaViM's official weights, a Lightning .pt or safetensors of the same keys, by the names of our
modules.

Keys are `network.transformer.*` and `network.lm_head.weight`, which is the embedding. A .pt also
holds pickled settings, the only place that tells how wide a head is, and what muP scales by.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diagd_cli.checkpoints.archive import Stored, pickled, read_weights
from diagd_cli.checkpoints.match import (
    Layout,
    Rows,
    compare,
    flat,
    gather,
    match,
    matrix,
    require,
    tied,
)
from diagd_cli.checkpoints.unpickle import StandIn
from diagd_cli.errors import WeightsError
from diagd_cli.model.config import TransformerConfig

NOT_VAVIM = "It is no VaViM file, or not a whole one"
TOP = "network.transformer"
EMBEDDING, HEAD = f"{TOP}.wie.weight", "network.lm_head.weight"
FRAMES, PLACES = f"{TOP}.wte.weight", f"{TOP}.wse.weight"
# whose classes a checkpoint's bookkeeping may name; none is imported
PACKAGES = (
    *("omegaconf", "mup", "typing", "vam", "world_model", "torchmetrics", "torchdata", "deepspeed"),
    *("pytorch_lightning", "lightning", "lightning_fabric"),
)
# settings that no file tells
FAMILY = {
    "norm": "layer",
    "norm_eps": 1e-5,
    "block_norm_affine": False,
    "final_norm_affine": False,
    "activation": "gelu",
    "qk_norm": False,
    "bias": False,
    "tied": True,
    "cross_dim": 0,
    "positions.kind": "learned",
    "positions.absolute": False,
}
BASE_WIDTH = 256  # of the models that muP takes the released ones from
_SHARED = {"vocab": 16385, "layers": 24, "head_dim": 128, "positions.places": 576}
OFFICIAL = {
    name: {**_SHARED, "dim": dim, "heads": dim // 128, "mlp_dim": 4 * dim}
    for name, dim in (("vavim-s", 768), ("vavim-b", 1024), ("vavim-l", 2048))
}


def transformer_tensors(path: Path, config: TransformerConfig, positions: int) -> Rows:
    """(Our name, the tensors whose rows make it, one below the other) of every parameter of our
    Transformer.

    positions: that the model's tables reach; the file's may reach further. Names, shapes and
        settings are checked before this returns.

    Raises WeightsError for a file that cannot be read, has names missing or left over, or is of
    another model.
    """
    heads = {"kv_heads": config.heads, "head_dim": config.dim // config.heads}
    require("VaViM", config, {**FAMILY, **heads})
    found = read_weights(path, "state_dict", stand_ins=PACKAGES)
    if any(name.startswith("vam.") for name in found):
        raise WeightsError(f"{path} holds VaVAM, a model of actions", "Give the file of VaViM")
    _compare(path, found, config)
    frames, stored = config.positions.frames(positions), found[FRAMES].shape[0]
    if frames > stored:
        raise WeightsError(
            f"{path} has {stored} frames, the preset's window {frames}", "Lower clip.window"
        )
    layout = transformer_layout(config, stored)
    match(path, found, flat(layout), NOT_VAVIM)
    parts = gather(layout, found)
    parts["learned.frames.weight"] = [found[FRAMES].rows(0, frames)]
    (head,), (embedding,) = parts.pop("head.weight"), parts["embed.weight"]
    return tied(path, head, embedding, parts.items())


def transformer_layout(config: TransformerConfig, frames: int) -> Layout:
    """Official name and shape of each of our Transformer's parameters."""
    dim, mlp, rows = config.dim, config.mlp_dim, (config.vocab, config.dim)
    layout: Layout = {
        "embed.weight": {EMBEDDING: rows},
        "head.weight": {HEAD: rows},
        "learned.frames.weight": {FRAMES: (frames, dim)},
        "learned.places.weight": {PLACES: (config.positions.places, dim)},
    }
    for i in range(config.layers):
        ours, key = f"blocks.{i}", f"{TOP}.h.{i}"
        layout |= {
            f"{ours}.attention.qkv.weight": {f"{key}.attn.c_attn.weight": (3 * dim, dim)},
            f"{ours}.attention.out.weight": {f"{key}.attn.c_proj.weight": (dim, dim)},
            f"{ours}.mlp.up.weight": {f"{key}.mlp.c_fc.weight": (mlp, dim)},
            f"{ours}.mlp.down.weight": {f"{key}.mlp.c_proj.weight": (dim, mlp)},
        }
    return layout


def _compare(path: Path, found: Mapping[str, Stored], config: TransformerConfig) -> None:
    """Raise WeightsError where the file is another model than the preset's."""
    matrix(path, found, FRAMES, NOT_VAVIM)
    wanted = {**config.model_dump(), "positions.places": config.positions.places}
    told = {**_shapes_tell(path, found), **_settings_tell(path)}
    # scales are quotients, which whoever writes a preset may have rounded
    told |= {
        name: wanted[name]
        for name in ("attention_scale", "logit_scale")
        if name in told and math.isclose(told[name], wanted[name], rel_tol=1e-6)
    }
    compare(path, "transformer", told, wanted, OFFICIAL)


def _shapes_tell(path: Path, found: Mapping[str, Stored]) -> dict[str, Any]:
    """What the file's shapes say, by the names of our configuration."""
    vocab, dim = matrix(path, found, EMBEDDING, NOT_VAVIM)
    return {
        "vocab": vocab,
        "dim": dim,
        "layers": len({hit[1] for name in found if (hit := re.search(r"\.h\.(\d+)\.", name))}),
        "mlp_dim": matrix(path, found, f"{TOP}.h.0.mlp.c_fc.weight", NOT_VAVIM)[0],
        "positions.places": matrix(path, found, PLACES, NOT_VAVIM)[0],
    }


# ---- what a .pt says of itself -------------------------------------------------------------------


def _settings_tell(path: Path) -> dict[str, Any]:
    """The same of what a .pt's settings say beyond its shapes; {} where it says nothing."""
    network = settings(path)
    width, head = (network.get(name, 0) for name in ("embedding_dim", "dim_heads"))
    if not (width > 0 and head > 0):
        return {}
    base = network.get("mup_base_width", BASE_WIDTH)
    return {
        "head_dim": head,
        "attention_scale": network.get("attn_scale", 1.0) / head,
        "logit_scale": network.get("output_scale", 1.0) * base / width,
    }


def settings(path: Path) -> dict[str, int | float]:
    """Numbers in a .pt's hyper_parameters["network"], by its own names, and `mup_base_width`, the
    width of the model that muP takes it from; {} for safetensors.

    Raises WeightsError for a file that cannot be read.
    """
    root = pickled(path, PACKAGES)
    if not isinstance(root, dict):
        return {}
    nodes = _members(_members(root.get("hyper_parameters")).get("network"))
    numbers = {name: _value(node) for name, node in nodes.items()}
    base = _base_width(_members(root.get("mup_base_shapes")))
    told = {**numbers, "mup_base_width": base}
    return {
        name: value
        for name, value in told.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def _members(value: Any) -> dict[str, Any]:
    """What a mapping holds: a dict, or a stand-in for OmegaConf's DictConfig."""
    if isinstance(value, StandIn):
        value = value.attributes.get("_content")
    return value if isinstance(value, dict) else {}


def _value(node: Any) -> Any:
    """A value itself, or in a stand-in for one of OmegaConf's nodes."""
    return node.attributes.get("_val") if isinstance(node, StandIn) else node


def _base_width(shapes: dict[str, Any]) -> Any:
    """The width of the embedding's base shape: of muP's InfShape, a tuple of InfDim; None where it
    is not told.
    """
    shape = next((shape for name, shape in shapes.items() if str(name).endswith("wie.weight")), ())
    dims = shape.args[0] if isinstance(shape, StandIn) and shape.args else shape
    last = dims[-1] if isinstance(dims, (tuple, list)) and dims else None
    return last.attributes.get("base_dim") if isinstance(last, StandIn) else last
