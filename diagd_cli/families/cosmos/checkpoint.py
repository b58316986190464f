"""Official Cosmos weights: names of NVIDIA's checkpoints to ours, checked against the preset before
anything is loaded.

Both functions check the whole file first, without reading a weight, and then give (our name,
tensors whose rows, one under the other, are the parameter), each tensor mapped from the file only
while it is in use.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path

from diagd_cli.checkpoints.archive import Stored, read_weights
from diagd_cli.checkpoints.match import (
    Layout,
    Rows,
    Shape,
    compare,
    flat,
    gather,
    match,
    require,
    rows,
)
from diagd_cli.errors import WeightsError
from diagd_cli.families.cosmos.config import CosmosDvConfig
from diagd_cli.families.cosmos.tokenizer import COLOURS, parameter_shapes
from diagd_cli.model.config import TransformerConfig

LARGEST = 64  # levels and blocks that are looked for
TOKENIZER = "Cosmos-Tokenize1-DV8x16x16-720p"

_SMALL = {
    "dim": 4096,
    "layers": 16,
    "heads": 32,
    "kv_heads": 8,
    "head_dim": 128,
    "mlp_dim": 14336,
    "outputs": 64000,
}
_LARGE = {**_SMALL, "dim": 5120, "layers": 40}
_BASE, _TEXT = {"vocab": 64000, "cross_dim": 0}, {"vocab": 64064, "cross_dim": 1024}
OFFICIAL: dict[str, dict[str, int]] = {
    "cosmos-4b": {**_SMALL, **_BASE},
    "cosmos-12b": {**_LARGE, **_BASE},
    "cosmos-5b-video2world": {**_SMALL, **_TEXT},
    "cosmos-13b-video2world": {**_LARGE, **_TEXT},
}

# settings that decide which parameters there are, and that no file tells
FAMILY = {
    "activation": "swiglu",
    "norm": "rms",
    "block_norm_affine": True,
    "bias": False,
    "positions.kind": "rope-3d",
}

# Names of checkpoints trained with TransformerEngine -> the released ones, within a layer; the
# first match counts.
ENGINE_NAMES = {
    "self_attention.layernorm_qkv.layer_norm_weight": "attention_norm.weight",
    "self_attention.layernorm_qkv.query_weight": "attention.wq.weight",
    "self_attention.layernorm_qkv.key_weight": "attention.wk.weight",
    "self_attention.layernorm_qkv.value_weight": "attention.wv.weight",
    "self_attention.proj.weight": "attention.wo.weight",
    "self_attention.": "attention.",
    "layernorm_mlp.layer_norm_weight": "ffn_norm.weight",
    "layernorm_mlp.fc1_weight": "feed_forward.w13.weight",
    "layernorm_mlp.fc2_weight": "feed_forward.w2.weight",
    "inter_attention.layernorm_query.layer_norm_weight": "cross_attention_norm.weight",
    "inter_attention.layernorm_query.query_weight": "cross_attention.wq.weight",
    "inter_attention.key_value.key_weight": "cross_attention.wk.weight",
    "inter_attention.key_value.value_weight": "cross_attention.wv.weight",
    "inter_attention.proj.weight": "cross_attention.wo.weight",
    "inter_attention.": "cross_attention.",
}
FUSED = {  # tensors of some checkpoints -> the released ones whose rows they stack
    "attention.wqkv.weight": ("attention.wq.weight", "attention.wk.weight", "attention.wv.weight"),
    "feed_forward.w13.weight": ("feed_forward.w1.weight", "feed_forward.w3.weight"),
}

IGNORED = "_extra_state"  # in a transformer's name: TransformerEngine's own
# derived tables of exports
NOT_WEIGHTS = ("quantizer.", "inv_quant.", "encoder.patcher3d.", "decoder.unpatcher3d.")
# convolutions that the earliest tokenizers had and did not use
UNUSED = re.compile(r"\.(down|up)sample\.conv\d\.")


# ---- Transformer ---------------------------------------------------------------------------------


def transformer_tensors(path: Path, config: TransformerConfig) -> Rows:
    """The parameters of `Transformer(config, ...)` from an official `model.pt`, or from safetensors
    of the same names.

    Raises WeightsError when the file is damaged or of another model; the message says which preset
    it fits.
    """
    require("Cosmos", config, FAMILY)
    found = _released_names(read_weights(path, "model"))
    sizes = _transformer_sizes(found)
    if "dim" not in sizes or not sizes["layers"]:
        raise WeightsError(
            f"{path} holds no Cosmos transformer", "Give the model.pt of an official Cosmos model"
        )
    wanted = {**config.model_dump(), "outputs": config.logits}
    compare(
        path, "transformer", sizes, wanted, OFFICIAL, "No official Cosmos preset fits this file"
    )
    layout = transformer_layout(config)
    expected = flat(layout)
    _split_fused(found, expected)
    match(path, found, expected, "Give the model.pt of an official Cosmos model, or fetch it again")
    return rows(gather(layout, found).items())


def transformer_layout(config: TransformerConfig) -> Layout:
    """Our parameters -> the official tensors that make up their rows, with shapes."""
    d, size = config.dim, config.head_dim
    q, kv = config.heads * size, config.kv_heads * size
    block: Layout = {
        "attention_norm.weight": {"attention_norm.weight": (d,)},
        "attention.qkv.weight": {
            "attention.wq.weight": (q, d),
            **_pair("attention.wk", "attention.wv", (kv, d)),
        },
        "attention.out.weight": {"attention.wo.weight": (d, q)},
        "mlp_norm.weight": {"ffn_norm.weight": (d,)},
        "mlp.up.weight": _pair("feed_forward.w1", "feed_forward.w3", (config.mlp_dim, d)),
        "mlp.down.weight": {"feed_forward.w2.weight": (d, config.mlp_dim)},
    }
    if config.cross_dim:
        block |= {
            "cross_norm.weight": {"cross_attention_norm.weight": (d,)},
            "cross.q.weight": {"cross_attention.wq.weight": (q, d)},
            "cross.kv.weight": _pair(
                "cross_attention.wk", "cross_attention.wv", (kv, config.cross_dim)
            ),
            "cross.out.weight": {"cross_attention.wo.weight": (d, q)},
        }
    if config.qk_norm:
        for ours, theirs in [("attention", "attention"), ("cross", "cross_attention")][
            : 2 if config.cross_dim else 1
        ]:
            block |= {
                f"{ours}.{n}_norm.weight": {f"{theirs}.{n}_norm.weight": (size,)} for n in "qk"
            }
    layers = {
        f"blocks.{n}.{ours}": {f"layers.{n}.{name}": shape for name, shape in parts.items()}
        for n in range(config.layers)
        for ours, parts in block.items()
    }
    head: Layout = {} if config.tied else {"head.weight": {"output.weight": (config.logits, d)}}
    embed: Layout = {"embed.weight": {"tok_embeddings.weight": (config.vocab, d)}}
    return {**embed, **layers, "norm.weight": {"norm.weight": (d,)}, **head}


def _pair(first: str, second: str, shape: Shape) -> dict[str, Shape]:
    return {f"{first}.weight": shape, f"{second}.weight": shape}


def _released_names(found: dict[str, Stored]) -> dict[str, Stored]:
    """The file's tensors by the names of the released checkpoints, without the prefix `model.`."""
    renamed = {}
    for name, stored in found.items():
        if IGNORED not in name:
            layer = re.match(r"(?:model\.)?(layers\.\d+\.)?", name)
            assert layer is not None  # the pattern fits any name
            rest = name[layer.end() :]
            old = next((old for old in ENGINE_NAMES if layer[1] and rest.startswith(old)), "")
            renamed[(layer[1] or "") + ENGINE_NAMES.get(old, "") + rest.removeprefix(old)] = stored
    return renamed


def _split_fused(found: dict[str, Stored], expected: Mapping[str, Shape]) -> None:
    """Replace stacked tensors by their parts where the heights fit; elsewhere `_match` finds them
    unexpected.
    """
    stacks = [(name, fused) for name in found for fused in FUSED if name.endswith(f".{fused}")]
    for name, fused in stacks:
        parts = [name.removesuffix(fused) + part for part in FUSED[fused]]
        ends = [0, *accumulate(expected[part][0] for part in parts if part in expected)]
        if len(ends) == len(parts) + 1 and found[name].shape[:1] == (ends[-1],):
            stacked = found.pop(name)
            found |= {
                part: stacked.rows(*rows) for part, rows in zip(parts, pairwise(ends), strict=True)
            }


def _transformer_sizes(found: Mapping[str, Stored]) -> dict[str, int]:
    """The hyper-parameters that a checkpoint's shapes reveal, by the names of
    `TransformerConfig`.
    """
    layer = "layers.0.attention."
    numbers = [int(n) for name in found for n in re.findall(r"^layers\.(\d+)\.", name)]
    head, q, kv = (
        _size(found, layer + "q_norm.weight"),
        _size(found, layer + "wo.weight", 1),
        _size(found, layer + "wk.weight"),
    )
    stacked = _size(found, layer + "wqkv.weight")
    if stacked and q:
        kv = (stacked - q) // 2
    sizes = {
        "vocab": _size(found, "tok_embeddings.weight"),
        "outputs": _size(found, "output.weight"),
        "dim": _size(found, "tok_embeddings.weight", 1),
        "layers": max(numbers, default=-1) + 1,
        "heads": q and head and q // head,
        "kv_heads": kv and head and kv // head,
        "head_dim": head,
        "mlp_dim": _size(found, "layers.0.feed_forward.w2.weight", 1),
        "cross_dim": _size(found, "layers.0.cross_attention.wk.weight", 1)
        or (0 if numbers else None),
    }
    return {key: value for key, value in sizes.items() if value is not None}


# ---- tokenizer -----------------------------------------------------------------------------------


def tokenizer_tensors(paths: Sequence[Path], config: CosmosDvConfig) -> Rows:
    """The parameters of `CosmosTokenizer(config)` from `encoder.jit` and `decoder.jit`, or one file
    with both.

    That may be `autoencoder.jit`, a native checkpoint or safetensors. Raises WeightsError.
    """
    expected = parameter_shapes(config)
    found: dict[str, Stored] = {}
    for path in paths:
        found |= _tokenizer_names(path)
    label = " and ".join(str(path) for path in paths)
    wanted = {**config.model_dump(), "number of levels": len(config.levels)}
    hint = (
        f"Give the files of {TOKENIZER}"
        if config == CosmosDvConfig()
        else "Give the files that fit the preset"
    )
    compare(label, "tokenizer", _tokenizer_sizes(found), wanted, {}, hint)
    weights = {
        n: s
        for n, s in found.items()
        if n in expected or not (n.startswith(NOT_WEIGHTS) or UNUSED.search(n))
    }
    match(
        label,
        weights,
        expected,
        f"Give both encoder.jit and decoder.jit of {TOKENIZER}, or its autoencoder.jit",
    )
    return rows((name, [weights[name]]) for name in expected)


def _tokenizer_names(path: Path) -> dict[str, Stored]:
    """The file's tensors by their native names: what stands before them in a training checkpoint is
    removed.
    """
    found = read_weights(path, "model")
    anchor = re.compile(r"(^|.*\.)(encoder|decoder)\.conv_in\.0\.conv3d\.weight")
    prefixes = {hit[1] for hit in map(anchor.fullmatch, found) if hit}
    if not prefixes:
        raise WeightsError(
            f"{path} holds no Cosmos video tokenizer", f"Give the files of {TOKENIZER}"
        )
    prefix = min(prefixes, key=len)
    return {
        name.removeprefix(prefix): stored
        for name, stored in found.items()
        if name.startswith(prefix)
    }


def _tokenizer_sizes(found: Mapping[str, Stored]) -> dict[str, object]:
    """The hyper-parameters that the shapes and an export's tables reveal, by the names of
    `CosmosDvConfig`.
    """
    first, inner = (
        "encoder.conv_in.0.conv3d.weight",
        "encoder.down.{}.block.{}.conv1.0.conv3d.weight",
    )
    channels, values = _size(found, first), _size(found, first, 1)
    widths = [_size(found, inner.format(level, 0)) for level in range(LARGEST)]
    digits = _size(found, "quant_conv.conv3d.weight") or _size(
        found, "post_quant_conv.conv3d.weight", 1
    )
    sizes: dict[str, object] = {
        "channels": channels,
        "patch": values and round((values / COLOURS) ** (1 / 3)),
        "multipliers": channels and tuple(width // channels for width in widths if width),
        "blocks": channels
        and sum(_size(found, inner.format(0, block)) is not None for block in range(LARGEST)),
        "z_channels": _size(found, "decoder.conv_in.0.conv3d.weight", 1)
        or _size(found, "quant_conv.conv3d.weight", 1),
        "number of levels": digits,
    }
    levels = found.get("quantizer._levels", found.get("inv_quant.quantizer._levels"))
    if levels is not None and levels.shape == (digits,):
        sizes["levels"] = tuple(levels.load().int().tolist())
    return {key: value for key, value in sizes.items() if value}


def _size(found: Mapping[str, Stored], name: str, axis: int = 0) -> int | None:
    """One side of a tensor, if there is such a tensor."""
    stored = found.get(name)
    return stored.shape[axis] if stored and len(stored.shape) > axis else None
