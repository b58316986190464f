"""WHAM's official weights, a Lightning .ckpt or safetensors of the same keys, by the names of our modules.

One official file holds both models: keys `predictor.gpt_model.*` are the Transformer, `context_encoders.images.*` the
tokenizer. A .ckpt also holds pickled hyper-parameters, the only place that tells how many heads there are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diagd_cli.errors import WeightsError
from diagd_cli.model.config import TransformerConfig
from diagd_cli.tokens.config import VitVqConfig
from diagd_cli.weights.unpickle import FETCH
from diagd_cli.weights.wham_file import IMAGE_FIELDS, NOT_WHAM, WhamFile, open_wham

Entries = Iterator[tuple[str, list[Tensor]]]
Layout = dict[str, tuple[str, tuple[int, ...]]]  # our parameter -> official key, shape

TRANSFORMER, TOKENIZER = "predictor.gpt_model.", "context_encoders.images."
# constant masks of full attention, and what training alone needs
IGNORED = re.compile(rf"{re.escape(TOKENIZER)}(.*\.attn\.attn_mask|(patch_gan|target_patchgan|lpips_model)\..*)")
# name in the file's hyper-parameters -> (layers, heads, dim)
SIZES = {
    "chinchilla-251M": (16, 16, 1024),
    "chinchilla-1018M": (23, 14, 1792),
    "wham-4kvocab-1.6b": (24, 18, 2304),
    "wham-3b": (30, 24, 3072),
}
_SHARED = {"vocab": 16452, "bias": True}
OFFICIAL = {
    "wham-200m": {**_SHARED, "layers": 16, "heads": 16, "dim": 1024, "mlp_dim": 4096, "block_norm_affine": False},
    "wham-1.6b": {**_SHARED, "layers": 24, "heads": 18, "dim": 2304, "mlp_dim": 9216, "block_norm_affine": True},
}


def transformer_tensors(path: Path, config: TransformerConfig, positions: int | None = None) -> Entries:
    """The tensors of every parameter of our Transformer; the rows of a parameter's tensors make it, one under the other.

    positions: rows of the model's position table, by default the file's. It may be shorter, or one row longer (the
    scratch slot of padded plans, zeros). Everything is checked before the first tensor is read. Raises WeightsError for
    a file that cannot be read, has names missing or left over, or is of another model.
    """
    source = open_wham(Path(path))
    told = _transformer_told(source)
    _compare(source, "Transformer", told, _transformer_wanted(config), OFFICIAL)
    stored = source.matrix(f"{TRANSFORMER}transformer.wpe.weight")[0]
    layout = transformer_layout(config, stored)
    _match(source, TRANSFORMER, layout)
    if positions is not None and positions > stored + 1:
        raise WeightsError(f"{path} has {stored} positions, the preset needs {positions - 1}", "Lower clip.window")
    return _transformer_stream(source, layout, config, positions or stored)


def tokenizer_tensors(path: Path, config: VitVqConfig) -> Entries:
    """The tensors of every parameter of our `VitVqTokenizer`, as in `transformer_tensors`. Raises WeightsError."""
    source = open_wham(Path(path))
    wanted = {**config.model_dump(exclude={"kind"}), "tokens": config.rows * config.columns}
    official = VitVqConfig().model_dump(exclude={"kind", "head_size"})
    _compare(source, "tokenizer", _tokenizer_told(source), wanted, dict.fromkeys(OFFICIAL, official))
    layout = tokenizer_layout(config)
    _match(source, TOKENIZER, layout)
    return ((name, [tensor]) for name, tensor in _stream(source, layout))


def hyper_parameters(path: Path) -> dict[str, dict[str, bool | int | float | str]]:
    """What a .ckpt says of itself, by its own names: {"predictor": {...}, "images": {...}}; {} for safetensors.

    Raises WeightsError for a file that cannot be read.
    """
    return open_wham(Path(path)).hyper


def transformer_layout(config: TransformerConfig, positions: int) -> Layout:
    """Official key and shape of each of our Transformer's parameters."""
    dim, mlp = config.dim, config.mlp_dim
    top, layout = f"{TRANSFORMER}transformer", {}
    layout["embed.weight"] = (f"{top}.wte.weight", (config.vocab, dim))
    layout["head.weight"] = (f"{TRANSFORMER}lm_head.weight", (config.vocab, dim))
    layout["learned.weight"] = (f"{top}.wpe.weight", (positions, dim))
    for i in range(config.layers):
        block, key = f"blocks.{i}", f"{top}.h.{i}"
        layout |= _linear(f"{block}.attention.qkv", f"{key}.attn.c_attn", 3 * dim, dim, config.bias)
        layout |= _linear(f"{block}.attention.out", f"{key}.attn.c_proj", dim, dim, config.bias)
        layout |= _linear(f"{block}.mlp.up", f"{key}.mlp.c_fc", mlp, dim, config.bias)
        layout |= _linear(f"{block}.mlp.down", f"{key}.mlp.c_proj", dim, mlp, config.bias)
        if config.block_norm_affine:
            layout |= _norm(f"{block}.attention_norm", f"{key}.ln_1", dim, config.bias)
            layout |= _norm(f"{block}.mlp_norm", f"{key}.ln_2", dim, config.bias)
    return layout | _norm("norm", f"{top}.ln_f", dim, config.bias)


def tokenizer_layout(config: VitVqConfig) -> Layout:
    """Official key and shape of each of our `VitVqTokenizer`'s parameters."""
    dim, values = config.dim, 3 * config.patch**2
    layout: Layout = {"codes.weight": (f"{TOKENIZER}vq_vae._embedding.weight", (config.codebook, config.code_dim))}
    for part, inputs, outputs in (("encoder", values, config.code_dim), ("decoder", config.code_dim, values)):
        layout |= _linear(f"{part}.enter", f"{TOKENIZER}{part}.proj1", dim, inputs)
        layout[f"{part}.positions.weight"] = (
            f"{TOKENIZER}{part}.pos_embeds.weight",
            (config.rows * config.columns, dim),
        )
        for i in range(config.layers):
            block, key = f"{part}.blocks.{i}", f"{TOKENIZER}{part}.vit.{i}"
            layout |= _norm(f"{block}.attention_norm", f"{key}.ln_1", dim, bias=False)
            layout |= _linear(f"{block}.attention.qkv", f"{key}.attn.c_attn", 3 * dim, dim, bias=False)
            layout |= _linear(f"{block}.attention.out", f"{key}.attn.c_proj", dim, dim, bias=False)
            layout |= _norm(f"{block}.mlp_norm", f"{key}.ln_2", dim, bias=False)
            layout |= _linear(f"{block}.mlp.up", f"{key}.mlp.c_fc", 4 * dim, dim, bias=False)
            layout |= _linear(f"{block}.mlp.down", f"{key}.mlp.c_proj", dim, 4 * dim, bias=False)
        layout |= _norm(f"{part}.norm", f"{TOKENIZER}{part}.output_ln", dim)
        layout |= _linear(f"{part}.leave", f"{TOKENIZER}{part}.output_proj", outputs, dim)
    return layout


def _linear(name: str, key: str, outputs: int, inputs: int, bias: bool = True) -> Layout:
    weight = {f"{name}.weight": (f"{key}.weight", (outputs, inputs))}
    return weight | ({f"{name}.bias": (f"{key}.bias", (outputs,))} if bias else {})


def _norm(name: str, key: str, dim: int, bias: bool = True) -> Layout:
    return {f"{name}.{part}": (f"{key}.{part}", (dim,)) for part in ("weight", "bias")[: 1 + bias]}


# ---- checking --------------------------------------------------------------------------------------------------------


def _transformer_told(source: WhamFile) -> dict[str, Any]:
    """What the file says of its Transformer, by the names of our configuration: by its shapes, heads by its size's name."""
    vocab, dim = source.matrix(f"{TRANSFORMER}transformer.wte.weight")
    keys = [key for key in source.shapes if key.startswith(TRANSFORMER)]
    layers = _layers(keys, r"\.h\.(\d+)\.")
    told = {
        "vocab": vocab,
        "dim": dim,
        "layers": layers,
        "mlp_dim": source.matrix(f"{TRANSFORMER}transformer.h.0.mlp.c_fc.weight")[0],
        "bias": any(key.endswith(".c_attn.bias") for key in keys),
        "block_norm_affine": any(key.endswith(".ln_1.weight") for key in keys),
    }
    known = SIZES.get(source.hyper.get("predictor", {}).get("model_size"))
    if known and (known[0], known[2]) == (layers, dim):
        told["heads"] = known[1]
    return told


def _transformer_wanted(config: TransformerConfig) -> dict[str, Any]:
    """The configuration, less what no WHAM file tells. Raises WeightsError for one that no WHAM file can fill."""
    shape = {"norm": "layer", "norm_eps": 1e-5, "activation": "gelu-tanh", "qk_norm": False, "cross_dim": 0}
    shape |= {"kv_heads": config.heads, "head_dim": config.dim // config.heads}
    odd = next((name for name, value in shape.items() if getattr(config, name) != value), None)
    if odd:
        message = f"No WHAM file fits transformer.{odd}: {getattr(config, odd)}"
        raise WeightsError(message, f"It must be {shape[odd]}")
    if config.positions.kind != "learned" or config.positions.absolute:
        raise WeightsError("No WHAM file fits transformer.positions", "Its kind must be learned, without absolute")
    return config.model_dump()


def _tokenizer_told(source: WhamFile) -> dict[str, Any]:
    codebook, code_dim = source.matrix(f"{TOKENIZER}vq_vae._embedding.weight")
    dim, values = source.matrix(f"{TOKENIZER}encoder.proj1.weight")
    keys = [key for key in source.shapes if key.startswith(TOKENIZER)]
    images = source.hyper.get("images", {})
    return {
        **{ours: images[name] for name, ours in IMAGE_FIELDS.items() if name in images},
        "dim": dim,
        "code_dim": code_dim,
        "codebook": codebook,
        "layers": _layers(keys, r"\.encoder\.vit\.(\d+)\."),
        "patch": math.isqrt(values // 3),
        "tokens": source.matrix(f"{TOKENIZER}encoder.pos_embeds.weight")[0],
    }


def _layers(keys: list[str], pattern: str) -> int:
    return len({found[1] for key in keys if (found := re.search(pattern, key))})


def _compare(source: WhamFile, what: str, told: dict, wanted: dict, official: dict[str, dict]) -> None:
    """Raise WeightsError where the file and the preset differ, with the official preset that the file fits."""
    differ = [f"{name} {told[name]} (the preset says {wanted[name]})" for name in told if told[name] != wanted[name]]
    if differ:
        fitting = [name for name, values in official.items() if all(values.get(k, v) == v for k, v in told.items())]
        section = what.lower()
        hint = (
            f"It fits the preset {' and '.join(fitting)}" if fitting else f"Correct them under {section} in the preset"
        )
        raise WeightsError(f"{source.path} holds another {what}: {', '.join(differ)}", hint)


def _match(source: WhamFile, prefix: str, layout: Layout) -> None:
    """Raise WeightsError unless the file's keys are exactly those of the layout, in its shapes."""
    expected = dict(layout.values())
    other = TOKENIZER if prefix == TRANSFORMER else TRANSFORMER
    present = {key for key in source.shapes if not IGNORED.fullmatch(key)}
    left = sorted(key for key in present - expected.keys() if not key.startswith(other))
    missing = sorted(expected.keys() - present)
    for keys, verb in ((missing, "lacks"), (left, "holds the unknown")):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise WeightsError(f"{source.path} {verb} {keys[0]}{more}", NOT_WHAM)
    for key, shape in expected.items():
        if source.shapes[key] != shape:
            raise WeightsError(f"{source.path}: {key} is {source.shapes[key]}, the preset needs {shape}", FETCH)


# ---- streaming -------------------------------------------------------------------------------------------------------


def _stream(source: WhamFile, layout: Layout) -> Iterator[tuple[str, Tensor]]:
    for name, (key, _) in layout.items():
        tensor = source.fetch(key)
        if not tensor.is_floating_point():
            raise WeightsError(f"{source.path}: {key} is {tensor.dtype}, not floating-point", FETCH)
        yield name, tensor
        source.release(key)


def _transformer_stream(source: WhamFile, layout: Layout, config: TransformerConfig, positions: int) -> Entries:
    head, embedding = (layout[name][0] for name in ("head.weight", "embed.weight"))
    if config.tied:
        if not torch.equal(source.fetch(head), source.fetch(embedding)):
            message = f"{source.path}: {head} is not the embedding, as transformer.tied says"
            raise WeightsError(message, "Set tied: false in the preset")
        layout = {name: place for name, place in layout.items() if name != "head.weight"}
        source.release(head)
    for name, tensor in _stream(source, layout):
        if name == "learned.weight":
            yield name, [tensor[:positions], tensor.new_zeros(max(0, positions - len(tensor)), config.dim)]
        else:
            yield name, [tensor[: config.logits] if name == "head.weight" else tensor]
