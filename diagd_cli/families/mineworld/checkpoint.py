"""MineWorld's official weights - .ckpt, .bin or safetensors of the same keys - by the names of our
modules.

The big checkpoint holds both models: keys `transformer.model.*` and `transformer.lm_head.*` are the
Transformer, `tokenizer.model.*` the tokenizer, which also comes alone (vae.ckpt), as `model.*`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import count, takewhile
from pathlib import Path

from diagd_cli.checkpoints.archive import Stored, read_weights
from diagd_cli.checkpoints.match import (
    Layout,
    Rows,
    compare,
    flat,
    gather,
    match,
    matrix,
    require,
    rows,
)
from diagd_cli.families.mineworld.config import VqImageConfig
from diagd_cli.families.mineworld.tokenizer import VqImageTokenizer
from diagd_cli.model.config import TransformerConfig
from diagd_cli.model.unset import Unset

NOT_OURS = "It is no MineWorld file, or not a whole one"
# settings that no file tells
FAMILY = {
    "activation": "swiglu",
    "norm": "rms",
    "block_norm_affine": True,
    "qk_norm": False,
    "bias": False,
    "tied": False,
    "cross_dim": 0,
    "positions.kind": "rope-1d",
    "positions.absolute": False,
}
_SHARED = {"vocab": 8262, "layers": 20, "kv_heads x head_dim": 256}
_300M = {**_SHARED, "dim": 1024, "heads x head_dim": 1024, "mlp_dim": 4096}
_700M = {**_SHARED, "dim": 2048, "heads x head_dim": 2048, "mlp_dim": 4096}
_1200M = {**_SHARED, "dim": 2048, "heads x head_dim": 2048, "mlp_dim": 8192}
# the variants for 16 and for 32 frames differ in no shape
OFFICIAL = {
    "mineworld-300m": _300M,
    "mineworld-700m": _700M,
    "mineworld-700m-32f": _700M,
    "mineworld-1200m": _1200M,
    "mineworld-1200m-32f": _1200M,
}


def transformer_tensors(path: Path, config: TransformerConfig) -> Rows:
    """(Our name, the tensors whose rows make it, one below the other) of every parameter of our
    Transformer.

    A head of fewer `outputs` takes the first rows. Names and shapes are checked before this
    returns. Raises WeightsError for a file that cannot be read, that lacks keys or has unknown
    ones, or whose sizes are not the configuration's.
    """
    require("MineWorld", config, FAMILY)
    found = _transformer_names(read_weights(path, "state_dict"))
    compare(path, "transformer", _sizes(path, found), _wanted(config), OFFICIAL)
    layout = transformer_layout(config)
    match(path, found, flat(layout), NOT_OURS)
    parts = gather(layout, found)
    parts["head.weight"] = [found["lm_head.weight"].rows(0, config.logits)]
    return rows(parts.items())


def tokenizer_tensors(path: Path, config: VqImageConfig) -> Rows:
    """(Our name, [the tensor]) of every parameter of `VqImageTokenizer`, as in
    `transformer_tensors`.

    From the stand-alone file or from the big checkpoint, whose Transformer is left aside. Raises
    WeightsError.
    """
    found = read_weights(path, "state_dict")
    big = any(name.startswith("tokenizer.") for name in found)
    if big:
        found = {
            name: stored for name, stored in found.items() if not name.startswith("transformer.")
        }
    prefix = "tokenizer.model." if big else "model."
    told = _tokenizer_sizes(found, f"{prefix}encoder.")
    compare(path, "tokenizer", told, config.model_dump(), {}, official_tokenizer(told))
    layout = tokenizer_layout(config, prefix)
    match(path, found, flat(layout), NOT_OURS)
    return rows(gather(layout, found).items())


def transformer_layout(config: TransformerConfig) -> Layout:
    """Official names and shapes of what makes each of our Transformer's parameters."""
    dim, mlp = config.dim, (config.mlp_dim, config.dim)
    q, kv = (config.heads * config.head_dim, dim), (config.kv_heads * config.head_dim, dim)
    layout: Layout = {"embed.weight": {"model.embed_tokens.weight": (config.vocab, dim)}}
    for i in range(config.layers):
        ours, key = f"blocks.{i}", f"model.layers.{i}"
        product = f"{key}.self_attn.{{}}_proj.weight".format
        layout |= {
            f"{ours}.attention_norm.weight": {f"{key}.input_layernorm.weight": (dim,)},
            f"{ours}.attention.qkv.weight": {product("q"): q, product("k"): kv, product("v"): kv},
            f"{ours}.attention.out.weight": {product("o"): q[::-1]},
            f"{ours}.mlp_norm.weight": {f"{key}.post_attention_layernorm.weight": (dim,)},
            f"{ours}.mlp.up.weight": {
                f"{key}.mlp.gate_proj.weight": mlp,
                f"{key}.mlp.up_proj.weight": mlp,
            },
            f"{ours}.mlp.down.weight": {f"{key}.mlp.down_proj.weight": mlp[::-1]},
        }
    ends = {
        "norm.weight": ("model.norm.weight", (dim,)),
        "head.weight": ("lm_head.weight", (config.vocab, dim)),
    }
    return layout | {ours: {key: shape} for ours, (key, shape) in ends.items()}


def tokenizer_layout(config: VqImageConfig, prefix: str = "model.") -> Layout:
    """Official name and shape of each parameter of our `VqImageTokenizer`: they are ours, with a
    prefix.
    """
    with Unset("meta"):
        parameters = VqImageTokenizer(config).state_dict()
    return {name: {prefix + name: tuple(tensor.shape)} for name, tensor in parameters.items()}


def _transformer_names(found: Mapping[str, Stored]) -> dict[str, Stored]:
    """The Transformer's tensors, without the prefix that the big checkpoint gives them.

    Left out: the tokenizer's, and the rotary tables that older files hold; they are derived.
    """
    return {
        name.removeprefix("transformer."): stored
        for name, stored in found.items()
        if not name.startswith("tokenizer.") and not name.endswith("rotary_emb.inv_freq")
    }


def _sizes(path: Path, found: Mapping[str, Stored]) -> dict[str, int]:
    """The hyper-parameters that the shapes reveal. Raises WeightsError where the telling tensors
    are not there.
    """
    layer, hint = (
        "model.layers.0",
        "It holds a tokenizer" if "model.encoder.conv_in.weight" in found else NOT_OURS,
    )
    vocab, dim = matrix(path, found, "model.embed_tokens.weight", hint)
    return {
        "layers": len(
            {hit[1] for name in found if (hit := re.match(r"model\.layers\.(\d+)\.", name))}
        ),
        "vocab": vocab,
        "dim": dim,
        "heads x head_dim": matrix(path, found, f"{layer}.self_attn.q_proj.weight", hint)[0],
        "kv_heads x head_dim": matrix(path, found, f"{layer}.self_attn.k_proj.weight", hint)[0],
        "mlp_dim": matrix(path, found, f"{layer}.mlp.gate_proj.weight", hint)[0],
    }


def _tokenizer_sizes(found: Mapping[str, Stored], encoder: str) -> dict[str, object]:
    """The hyper-parameters that the encoder's shapes reveal, by the names of `VqImageConfig`;
    nothing where it is not there.
    """

    def rows(name: str) -> int:
        stored = found.get(f"{encoder}{name}.weight")
        return stored.shape[0] if stored and len(stored.shape) == 4 else 0

    block = "down_blocks.{}.resnets.{}.conv1".format
    widths = tuple(takewhile(bool, (rows(block(level, 0)) for level in count())))
    blocks = len(list(takewhile(bool, (rows(block(0, n)) for n in count()))))
    told = {"channels": widths, "blocks": blocks, "latent": rows("conv_out")}
    return {name: value for name, value in told.items() if value}


def official_tokenizer(told: Mapping[str, object]) -> str:
    """What to do about a tokenizer that is another one."""
    official = VqImageConfig().model_dump()
    if told and all(official[name] == value for name, value in told.items()):
        return (
            "It is the official one, which the presets mineworld-* describe: leave these settings "
            "out"
        )
    return "Correct them under tokenizer in the preset"


def _wanted(config: TransformerConfig) -> dict[str, object]:
    """The configuration, by the same names."""
    products = {"heads x head_dim": config.heads, "kv_heads x head_dim": config.kv_heads}
    return {
        **config.model_dump(),
        **{name: count * config.head_dim for name, count in products.items()},
    }
