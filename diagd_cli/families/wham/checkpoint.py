"""WHAM's official weights, a Lightning .ckpt or safetensors of the same keys, by the names of our
modules.

One official file holds both models: keys `predictor.gpt_model.*` are the Transformer,
`context_encoders.images.*` the tokenizer. A .ckpt also holds pickled hyper-parameters, the only
place that tells how many heads there are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

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
    resized,
    rows,
    tied,
)
from diagd_cli.errors import WeightsError
from diagd_cli.families.wham.config import VitVqConfig
from diagd_cli.families.wham.lightning import IMAGE_FIELDS, PACKAGES, hyper_parameters
from diagd_cli.model.config import TransformerConfig

NOT_WHAM = "It is no WHAM file, or not a whole one"
TRANSFORMER, TOKENIZER = "predictor.gpt_model.", "context_encoders.images."
# constant masks of full attention, and what training alone needs
IGNORED = re.compile(
    rf"{re.escape(TOKENIZER)}(.*\.attn\.attn_mask|(patch_gan|target_patchgan|lpips_model)\..*)"
)
# settings that no file tells
FAMILY = {
    "norm": "layer",
    "norm_eps": 1e-5,
    "activation": "gelu-tanh",
    "qk_norm": False,
    "cross_dim": 0,
    "positions.kind": "learned",
    "positions.absolute": False,
}
# name in the file's hyper-parameters -> (layers, heads, dim)
SIZES = {
    "chinchilla-251M": (16, 16, 1024),
    "chinchilla-1018M": (23, 14, 1792),
    "wham-4kvocab-1.6b": (24, 18, 2304),
    "wham-3b": (30, 24, 3072),
}
_SHARED = {"vocab": 16452, "bias": True}
OFFICIAL = {
    "wham-200m": {
        **_SHARED,
        "layers": 16,
        "heads": 16,
        "dim": 1024,
        "mlp_dim": 4096,
        "block_norm_affine": False,
    },
    "wham-1.6b": {
        **_SHARED,
        "layers": 24,
        "heads": 18,
        "dim": 2304,
        "mlp_dim": 9216,
        "block_norm_affine": True,
    },
}


def transformer_tensors(
    path: Path, config: TransformerConfig, positions: int | None = None
) -> Rows:
    """The tensors of every parameter of our Transformer; the rows of a parameter's tensors make it,
    one under the other.

    positions: rows of the model's position table, by default the file's. It may be shorter, or one
        row longer (the scratch slot of padded plans, zeros). Names, shapes and hyper-parameters are
        checked before this returns.

    Raises WeightsError for a file that cannot be read, has names missing or left over, or is of
    another model.
    """
    require(
        "WHAM", config, {**FAMILY, "kv_heads": config.heads, "head_dim": config.dim // config.heads}
    )
    found = _part(path, TRANSFORMER)
    compare(path, "transformer", _transformer_told(path, found), config.model_dump(), OFFICIAL)
    stored = matrix(path, found, f"{TRANSFORMER}transformer.wpe.weight", NOT_WHAM)[0]
    layout = transformer_layout(config, stored)
    match(path, found, flat(layout), NOT_WHAM)
    positions = positions or stored
    if positions > stored + 1:
        raise WeightsError(
            f"{path} has {stored} positions, the preset needs {positions - 1}", "Lower clip.window"
        )
    parts = gather(layout, found)
    parts["learned.weight"] = resized(parts["learned.weight"][0], positions)
    (head,), (embedding,) = parts.pop("head.weight"), parts["embed.weight"]
    if config.tied:
        return tied(path, head, embedding, parts.items())
    return rows({**parts, "head.weight": [head.rows(0, config.logits)]}.items())


def tokenizer_tensors(path: Path, config: VitVqConfig) -> Rows:
    """The tensors of every parameter of our `VitVqTokenizer`, as in `transformer_tensors`. Raises
    WeightsError.
    """
    found = _part(path, TOKENIZER)
    wanted = {**config.model_dump(), "tokens": config.rows * config.columns}
    official = VitVqConfig().model_dump(exclude={"kind"})
    compare(
        path, "tokenizer", _tokenizer_told(path, found), wanted, dict.fromkeys(OFFICIAL, official)
    )
    layout = tokenizer_layout(config)
    match(path, found, flat(layout), NOT_WHAM)
    return rows(gather(layout, found).items())


def _part(path: Path, prefix: str) -> dict[str, Stored]:
    """The file's tensors, without those of the other model and those that are no weights."""
    other = TOKENIZER if prefix == TRANSFORMER else TRANSFORMER
    found = read_weights(path, "state_dict", stand_ins=PACKAGES)
    return {
        name: stored
        for name, stored in found.items()
        if not (name.startswith(other) or IGNORED.fullmatch(name))
    }


def transformer_layout(config: TransformerConfig, positions: int) -> Layout:
    """Official name and shape of each of our Transformer's parameters."""
    dim, mlp = config.dim, config.mlp_dim
    top = f"{TRANSFORMER}transformer"
    layout: Layout = {}
    layout["embed.weight"] = {f"{top}.wte.weight": (config.vocab, dim)}
    layout["head.weight"] = {f"{TRANSFORMER}lm_head.weight": (config.vocab, dim)}
    layout["learned.weight"] = {f"{top}.wpe.weight": (positions, dim)}
    for i in range(config.layers):
        block, key = f"blocks.{i}", f"{top}.h.{i}"
        layout |= _linear(
            f"{block}.attention.qkv", f"{key}.attn.c_attn", 3 * dim, dim, config.qkv_bias
        )
        layout |= _linear(f"{block}.attention.out", f"{key}.attn.c_proj", dim, dim, config.out_bias)
        layout |= _linear(f"{block}.mlp.up", f"{key}.mlp.c_fc", mlp, dim, config.mlp_bias)
        layout |= _linear(f"{block}.mlp.down", f"{key}.mlp.c_proj", dim, mlp, config.mlp_bias)
        if config.block_norm_affine:
            layout |= _norm(f"{block}.attention_norm", f"{key}.ln_1", dim, config.norm_bias)
            layout |= _norm(f"{block}.mlp_norm", f"{key}.ln_2", dim, config.norm_bias)
    return layout | _norm("norm", f"{top}.ln_f", dim, config.norm_bias)


def tokenizer_layout(config: VitVqConfig) -> Layout:
    """Official name and shape of each of our `VitVqTokenizer`'s parameters."""
    dim, values, tokens = config.dim, 3 * config.patch**2, config.rows * config.columns
    layout: Layout = {
        "codes.weight": {f"{TOKENIZER}vq_vae._embedding.weight": (config.codebook, config.code_dim)}
    }
    for part, inputs, outputs in (
        ("encoder", values, config.code_dim),
        ("decoder", config.code_dim, values),
    ):
        layout |= _linear(f"{part}.enter", f"{TOKENIZER}{part}.proj1", dim, inputs)
        layout[f"{part}.positions.weight"] = {f"{TOKENIZER}{part}.pos_embeds.weight": (tokens, dim)}
        for i in range(config.layers):
            block, key = f"{part}.blocks.{i}", f"{TOKENIZER}{part}.vit.{i}"
            layout |= _norm(f"{block}.attention_norm", f"{key}.ln_1", dim, bias=False)
            layout |= _linear(
                f"{block}.attention.qkv", f"{key}.attn.c_attn", 3 * dim, dim, bias=False
            )
            layout |= _linear(f"{block}.attention.out", f"{key}.attn.c_proj", dim, dim, bias=False)
            layout |= _norm(f"{block}.mlp_norm", f"{key}.ln_2", dim, bias=False)
            layout |= _linear(f"{block}.mlp.up", f"{key}.mlp.c_fc", 4 * dim, dim, bias=False)
            layout |= _linear(f"{block}.mlp.down", f"{key}.mlp.c_proj", dim, 4 * dim, bias=False)
        layout |= _norm(f"{part}.norm", f"{TOKENIZER}{part}.output_ln", dim)
        layout |= _linear(f"{part}.leave", f"{TOKENIZER}{part}.output_proj", outputs, dim)
    return layout


def _linear(name: str, key: str, outputs: int, inputs: int, bias: bool = True) -> Layout:
    weight: Layout = {f"{name}.weight": {f"{key}.weight": (outputs, inputs)}}
    return weight | ({f"{name}.bias": {f"{key}.bias": (outputs,)}} if bias else {})


def _norm(name: str, key: str, dim: int, bias: bool = True) -> Layout:
    return {f"{name}.{part}": {f"{key}.{part}": (dim,)} for part in ("weight", "bias")[: 1 + bias]}


# ---- what a file tells ---------------------------------------------------------------------------


def _transformer_told(path: Path, found: Mapping[str, Stored]) -> dict[str, Any]:
    """What the file says of its Transformer, by the names of our configuration: by its shapes,
    heads by its size's name.
    """
    vocab, dim = matrix(path, found, f"{TRANSFORMER}transformer.wte.weight", NOT_WHAM)
    layers = _layers(found, r"\.h\.(\d+)\.")
    told = {
        "vocab": vocab,
        "dim": dim,
        "layers": layers,
        "mlp_dim": matrix(path, found, f"{TRANSFORMER}transformer.h.0.mlp.c_fc.weight", NOT_WHAM)[
            0
        ],
        "bias": any(name.endswith(".c_attn.bias") for name in found),
        "block_norm_affine": any(name.endswith(".ln_1.weight") for name in found),
    }
    size = hyper_parameters(path).get("predictor", {}).get("model_size")
    known = SIZES.get(size) if isinstance(size, str) else None
    if known and (known[0], known[2]) == (layers, dim):
        told["heads"] = known[1]
    return told


def _tokenizer_told(path: Path, found: Mapping[str, Stored]) -> dict[str, Any]:
    """The same of its tokenizer; `head_size` shows in a .ckpt's hyper-parameters alone."""
    codebook, code_dim = matrix(path, found, f"{TOKENIZER}vq_vae._embedding.weight", NOT_WHAM)
    dim, values = matrix(path, found, f"{TOKENIZER}encoder.proj1.weight", NOT_WHAM)
    images = hyper_parameters(path).get("images", {})
    return {
        **{ours: images[name] for name, ours in IMAGE_FIELDS.items() if name in images},
        "dim": dim,
        "code_dim": code_dim,
        "codebook": codebook,
        "layers": _layers(found, r"\.encoder\.vit\.(\d+)\."),
        "patch": math.isqrt(values // 3),
        "tokens": matrix(path, found, f"{TOKENIZER}encoder.pos_embeds.weight", NOT_WHAM)[0],
    }


def _layers(names: Iterable[str], pattern: str) -> int:
    return len({hit[1] for name in names if (hit := re.search(pattern, name))})
