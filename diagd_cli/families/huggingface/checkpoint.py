"""Weights of Llama, Mistral, Qwen2 and Qwen3 as `transformers` names them, by the names of our
modules.

Files: safetensors, in one or in parts, and `config.json`, which tells what no shape does.
"""

from __future__ import annotations

import re
import reprlib
from pathlib import Path
from typing import Any

from diagd_cli.checkpoints.archive import Stored, read_weights
from diagd_cli.checkpoints.match import Layout, Rows, compare, flat, gather, match, rows, tied
from diagd_cli.errors import WeightsError
from diagd_cli.families.huggingface.settings import (
    read_settings,
    require_reach,
    transformer_config,
)
from diagd_cli.model.config import TransformerConfig

OTHERWISE = "It is no Llama, Mistral or Qwen of these sizes, or not a whole one"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
# tables of old versions, and the tokenizer that Emu3 has with it
IGNORED = re.compile(
    r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq|(model\.)?vqmodel\..*"
)
# what Emu3's Transformer is within, until 4.52 of `transformers` and since
WITHIN = {
    "text_model.model.": "model.",
    "text_model.lm_head.": "lm_head.",
    "model.text_model.": "model.",
}


def transformer_tensors(
    paths: list[Path], config: TransformerConfig, positions: int, offset: int
) -> Rows:
    """(Our name, the tensors whose rows make it, one below the other) of every parameter of our
    Transformer.

    paths: the files of weights and `config.json`, in any order.
    positions: that the model's tables reach, the last one of padding.
    offset: the files' id of our id 0, see `sources.Weights`.

    All is checked before this returns. Raises WeightsError for files that cannot be read, have
    names missing or left over, or are of another model.
    """
    told = [path for path in paths if path.suffix == ".json"]
    weights = [path for path in paths if path.suffix != ".json"]
    if len(told) != 1 or not weights:
        raise WeightsError("Weights of huggingface are safetensors and config.json", "Name both")
    settings = read_settings(told[0])
    theirs = transformer_config(told[0], settings, config.logits)
    compare(told[0], "transformer", _facts(theirs), _facts(config), {})
    require_reach(told[0], settings, positions - 1)
    label = weights[0] if len(weights) == 1 else weights[0].parent
    found = _read(weights)
    ties = settings.tie_word_embeddings
    layout = transformer_layout(config, tied=ties and HEAD not in found)
    match(label, found, flat(layout), OTHERWISE)
    parts = gather(layout, found)
    embedding, head = found[EMBEDDING], found.get(HEAD)
    if offset + (config.logits if not config.tied else 1) > config.vocab:
        raise WeightsError(
            f"{label} has {config.vocab} tokens, the preset {config.logits} from {offset} on",
            "Correct the offset of transformer_weights",
        )
    parts["embed.weight"] = turned(embedding, offset)
    if config.tied:
        parts.pop("head.weight", None)
    else:
        layer = embedding if ties else found[HEAD]
        parts["head.weight"] = [layer.rows(offset, offset + config.logits)]
    if ties and head:
        return tied(label, head, embedding, parts.items(), "tie_word_embeddings", OTHERWISE)
    return rows(parts.items())


def _facts(config: TransformerConfig) -> dict[str, Any]:
    """All of a configuration, so that a difference is told in a line."""
    positions = config.positions.model_dump()
    facts = {**config.model_dump(exclude={"positions"}), "outputs": config.logits}
    return facts | {f"positions.{name}": reprlib.repr(value) for name, value in positions.items()}


def turned(table: Stored, offset: int) -> list[Stored]:
    """A table's rows from `offset` on, and then those before it."""
    count = table.shape[0]
    return [table.rows(offset, count), table.rows(0, offset)] if offset else [table]


def transformer_layout(config: TransformerConfig, tied: bool = False) -> Layout:
    """Names and shapes in the files of each of our Transformer's parameters.

    tied: whether the files have no output layer of their own.
    """
    dim, queries = config.dim, config.heads * config.head_dim
    keys, table = config.kv_heads * config.head_dim, (config.vocab, config.dim)
    layout: Layout = {
        "embed.weight": {EMBEDDING: table},
        "norm.weight": {"model.norm.weight": (dim,)},
    }
    if not tied:
        layout["head.weight"] = {HEAD: table}
    for i in range(config.layers):
        ours, key = f"blocks.{i}", f"model.layers.{i}"
        qkv = {"q_proj": queries, "k_proj": keys, "v_proj": keys}
        up = {"gate_proj": config.mlp_dim, "up_proj": config.mlp_dim}
        for name, inside, parts, inputs, bias in (
            ("attention.qkv", "self_attn", qkv, dim, config.qkv_bias),
            ("attention.out", "self_attn", {"o_proj": dim}, queries, config.out_bias),
            ("mlp.up", "mlp", up, dim, config.mlp_bias),
            ("mlp.down", "mlp", {"down_proj": dim}, config.mlp_dim, config.mlp_bias),
        ):
            names = {f"{key}.{inside}.{part}": outputs for part, outputs in parts.items()}
            layout[f"{ours}.{name}.weight"] = {f"{n}.weight": (o, inputs) for n, o in names.items()}
            if bias:
                layout[f"{ours}.{name}.bias"] = {f"{n}.bias": (o,) for n, o in names.items()}
        norms = {"attention_norm": ("input_layernorm", dim)}
        norms["mlp_norm"] = ("post_attention_layernorm", dim)
        if config.qk_norm:
            norms["attention.q_norm"] = ("self_attn.q_norm", config.head_dim)
            norms["attention.k_norm"] = ("self_attn.k_norm", config.head_dim)
        for name, (official, width) in norms.items():
            layout[f"{ours}.{name}.weight"] = {f"{key}.{official}.weight": (width,)}
    return layout


def _read(paths: list[Path]) -> dict[str, Stored]:
    """The tensors of all files. Raises WeightsError where two have one of the same name."""
    found: dict[str, Stored] = {}
    for path in paths:
        for name, stored in read_weights(path).items():
            for theirs, own in WITHIN.items():
                name = own + name.removeprefix(theirs) if name.startswith(theirs) else name
            if name in found:
                raise WeightsError(f"{path} has {name}, and another file has it too", OTHERWISE)
            if not IGNORED.fullmatch(name):
                found[name] = stored
    return found
