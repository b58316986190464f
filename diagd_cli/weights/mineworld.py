"""MineWorld's official weights - .ckpt, .bin or safetensors of the same keys - by the names of our modules.

The big checkpoint holds both models: keys `transformer.model.*` and `transformer.lm_head.*` are the Transformer,
`tokenizer.model.*` the tokenizer, which also comes alone (vae.ckpt), as `model.*`.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from diagd_cli.errors import WeightsError
from diagd_cli.model.config import TransformerConfig
from diagd_cli.tokens.config import VqImageConfig
from diagd_cli.tokens.vq import VqImageTokenizer

Entries = Iterator[tuple[str, list[Tensor]]]
Source = tuple[str, tuple[int, ...]]  # official key, shape
Layout = dict[str, list[Source]]  # our parameter -> what makes it, one below the other
State = dict[str, Tensor]

FETCH = "Fetch the file again"
NOT_OURS = "It is no MineWorld file, or not a whole one"
# settings that decide which parameters there are
FAMILY = {
    "activation": "swiglu",
    "norm": "rms",
    "block_norm_affine": True,
    "qk_norm": False,
    "bias": False,
    "tied": False,
    "cross_dim": 0,
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


def transformer_tensors(path: Path, config: TransformerConfig) -> Entries:
    """(Our name, the tensors whose rows make it, one below the other) of every parameter of our Transformer.

    The tensors are mapped from the file, in its dtype, and must not be written to. A head of fewer `outputs` takes the
    first rows. Names and shapes are checked before this returns. Raises WeightsError for a file that cannot be read or
    that names code, that lacks keys or has unknown ones, or whose sizes are not the configuration's.
    """
    path = Path(path)
    odd = next((name for name, value in FAMILY.items() if getattr(config, name) != value), None)
    if odd:
        raise WeightsError(
            f"No MineWorld file fits transformer.{odd}: {getattr(config, odd)}", f"It must be {FAMILY[odd]}"
        )
    state = _transformer_state(load_state(path))
    _compare(path, _sizes(path, state), config)
    layout = transformer_layout(config)
    _match(path, state, layout)
    limits = {"head.weight": config.logits}
    return ((name, [state[key][: limits.get(name)] for key, _ in sources]) for name, sources in layout.items())


def tokenizer_tensors(path: Path, config: VqImageConfig) -> Entries:
    """(Our name, [the tensor]) of every parameter of `VqImageTokenizer`, as in `transformer_tensors`.

    From the stand-alone file or from the big checkpoint, whose Transformer is left aside. Raises WeightsError.
    """
    path = Path(path)
    state = load_state(path)
    prefix = "tokenizer.model." if any(key.startswith("tokenizer.") for key in state) else "model."
    if prefix != "model.":
        state = {key: tensor for key, tensor in state.items() if not key.startswith("transformer.")}
    layout = {name: [(prefix + name, shape)] for name, shape in _tokenizer_shapes(config).items()}
    _match(path, state, layout)
    return ((name, [state[key] for key, _ in sources]) for name, sources in layout.items())


def transformer_layout(config: TransformerConfig) -> Layout:
    """Official keys and shapes of what makes each of our Transformer's parameters."""
    dim, mlp = config.dim, config.mlp_dim
    q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
    layout: Layout = {"embed.weight": [("model.embed_tokens.weight", (config.vocab, dim))]}
    for i in range(config.layers):
        ours, key = f"blocks.{i}", f"model.layers.{i}"
        attention = f"{key}.self_attn"
        layout |= {
            f"{ours}.attention_norm.weight": [(f"{key}.input_layernorm.weight", (dim,))],
            f"{ours}.attention.qkv.weight": [
                (f"{attention}.q_proj.weight", (q, dim)),
                (f"{attention}.k_proj.weight", (kv, dim)),
                (f"{attention}.v_proj.weight", (kv, dim)),
            ],
            f"{ours}.attention.out.weight": [(f"{attention}.o_proj.weight", (dim, q))],
            f"{ours}.mlp_norm.weight": [(f"{key}.post_attention_layernorm.weight", (dim,))],
            f"{ours}.mlp.up.weight": [
                (f"{key}.mlp.gate_proj.weight", (mlp, dim)),
                (f"{key}.mlp.up_proj.weight", (mlp, dim)),
            ],
            f"{ours}.mlp.down.weight": [(f"{key}.mlp.down_proj.weight", (dim, mlp))],
        }
    layout["norm.weight"] = [("model.norm.weight", (dim,))]
    layout["head.weight"] = [("lm_head.weight", (config.vocab, dim))]
    return layout


def _tokenizer_shapes(config: VqImageConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in VqImageTokenizer(config).state_dict().items()}


# ---- reading ---------------------------------------------------------------------------------------------------------


def load_state(path: Path) -> State:
    """Tensors by key of a .ckpt, .bin or .safetensors file, mapped, not read. Nothing in it runs. Raises WeightsError."""
    try:
        with path.open("rb") as file:
            if file.read(8) == b"version ":
                raise WeightsError(f"{path} is a Git LFS pointer, not the weights", "Fetch the file that it points to")
        state = load_file(path) if path.suffix == ".safetensors" else _unpickle(path)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise WeightsError(f"{path} cannot be read: {reason}", "Check the path and its permissions") from None
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a readable safetensors file: {error}", FETCH) from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not state:
        raise WeightsError(f"{path} holds no tensors by name", NOT_OURS)
    for key, tensor in state.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor):
            raise WeightsError(f"{path}: {key!r} is no tensor", NOT_OURS)
    return state


def _unpickle(path: Path) -> object:
    """What a file of torch.save holds, if it is plain data; only the zip format can be mapped."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is about the protocol of files that are refused anyway
            return torch.load(path, map_location="cpu", mmap=zipfile.is_zipfile(path), weights_only=True)
    except OSError:
        raise
    except pickle.UnpicklingError as error:
        named = re.search(r"(?:GLOBAL|global:?) ([\w.]+)", str(error))
        what = f"it refers to {named[1]}, which no weights need" if named else "it holds more than tensors"
        hint = "Nothing in it was run; fetch the file from its official source"
        raise WeightsError(f"{path} is refused: {what}", hint) from None
    except Exception as error:  # a damaged pickle can fail in any way
        reason = (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0]
        raise WeightsError(f"{path} is cut off or no PyTorch checkpoint: {reason}", FETCH) from None


def _transformer_state(state: State) -> State:
    """The Transformer's entries, without the prefix that the big checkpoint gives them.

    Left out: the tokenizer's, and the rotary tables that older files hold; they are derived.
    """
    kept = {
        key: tensor
        for key, tensor in state.items()
        if not key.startswith("tokenizer.") and not key.endswith("rotary_emb.inv_freq")
    }
    if any(key.startswith("transformer.") for key in kept):
        return {key.removeprefix("transformer."): tensor for key, tensor in kept.items()}
    return kept


# ---- checking --------------------------------------------------------------------------------------------------------


def _sizes(path: Path, state: State) -> dict[str, int]:
    """The hyper-parameters that the shapes reveal. Raises WeightsError where the telling tensors are not there."""
    layer = "model.layers.0"
    telling = {
        "model.embed_tokens.weight": ("vocab", "dim"),
        f"{layer}.self_attn.q_proj.weight": ("heads x head_dim", None),
        f"{layer}.self_attn.k_proj.weight": ("kv_heads x head_dim", None),
        f"{layer}.mlp.gate_proj.weight": ("mlp_dim", None),
    }
    sizes = {"layers": len({m[1] for key in state if (m := re.match(r"model\.layers\.(\d+)\.", key))})}
    for key, names in telling.items():
        if key not in state or state[key].ndim != 2:
            hint = "It holds a tokenizer" if "model.encoder.conv_in.weight" in state else NOT_OURS
            raise WeightsError(f"{path} lacks the matrix {key}", hint)
        sizes |= {name: size for name, size in zip(names, state[key].shape, strict=True) if name}
    return sizes


def _compare(path: Path, told: dict[str, int], config: TransformerConfig) -> None:
    """Raise WeightsError where file and configuration differ, with the official preset that the file fits."""
    wanted = {
        **config.model_dump(),
        "heads x head_dim": config.heads * config.head_dim,
        "kv_heads x head_dim": config.kv_heads * config.head_dim,
    }
    differ = [f"{name} {size} (the preset says {wanted[name]})" for name, size in told.items() if size != wanted[name]]
    if differ:
        fitting = [name for name, sizes in OFFICIAL.items() if sizes == told]
        hint = (
            f"It fits the preset {' or '.join(fitting)}" if fitting else "Correct them under transformer in the preset"
        )
        raise WeightsError(f"{path} holds another Transformer: {', '.join(differ)}", hint)


def _match(path: Path, state: State, layout: Layout) -> None:
    """Raise WeightsError unless the file's keys are exactly those of the layout, in its shapes, and hold numbers."""
    expected = {key: shape for sources in layout.values() for key, shape in sources}
    for keys, verb in (
        (expected.keys() - state.keys(), "lacks"),
        (state.keys() - expected.keys(), "holds the unknown"),
    ):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise WeightsError(f"{path} {verb} {min(keys)}{more}", NOT_OURS)
    for key, shape in expected.items():
        if tuple(state[key].shape) != shape:
            seen = tuple(state[key].shape)
            raise WeightsError(f"{path}: {key} is {seen}, the preset needs {shape}", "Check the preset's sizes")
        if not state[key].is_floating_point():
            raise WeightsError(f"{path}: {key} is {state[key].dtype}, not floating-point", FETCH)
