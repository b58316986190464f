"""Tiny models of the official LlamaGen classes, in `golden/llamagen`, as ours; and what the official
code made with them.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file

from diagd_cli.checkpoints.archive import fill_rows
from diagd_cli.families.llamagen.checkpoint import transformer_tensors
from diagd_cli.families.vavim.config import LlamaGenVqConfig
from diagd_cli.model.config import Positions, TransformerConfig
from diagd_cli.model.transformer import Transformer
from diagd_cli.preset import Preset
from diagd_cli.sections import Clip, Defaults, Guide, Labels, Text
from diagd_cli.weights.build import build_transformer

GOLDEN = Path(__file__).parent.parent / "golden" / "llamagen"
WEIGHTS = GOLDEN / "c2i_tiny_weights.safetensors"
TEXT_WEIGHTS = GOLDEN / "t2i_tiny_weights.safetensors"
LIMIT, GUIDED_LIMIT = 5e-5, 2e-4  # of the golden data's own README


def preset_of(args: dict, grid: int, scale: float) -> Preset:
    """Ours of official settings, by their names."""
    codes, nobody = args["vocab_size"], args["vocab_size"] + args["num_classes"]
    heads, by_text = args["n_head"], args["model_type"] == "t2i"
    before = {"prefix_dim": args["caption_dim"], "prefix_tokens": args["cls_token_num"]}
    return Preset(
        name="golden",
        about="Tiny, by the official code.",
        licence="MIT",
        clip=Clip(height=2 * grid, width=2 * grid, fps=1, context=0, least=0, frames=1, window=1),
        tokenizer=LlamaGenVqConfig(codebook=codes, channels=32, multipliers=(1, 1)),
        transformer=TransformerConfig(
            vocab=codes if by_text else nobody + 1,
            outputs=codes,
            dim=args["dim"],
            layers=args["n_layer"],
            heads=heads,
            kv_heads=heads,
            head_dim=args["dim"] // heads,
            mlp_dim=args["ffn_hidden"],
            norm_eps=args["norm_eps"],
            positions=Positions(kind="rope-2d", prefix="zero", base=args["rope_base"]),
            **(before if by_text else {}),
        ),
        prefix=() if by_text else (nobody,),
        labels=None if by_text else Labels(offset=codes, count=args["num_classes"]),
        text=Text(encoder="none", length=args["cls_token_num"]) if by_text else None,
        guidance=Guide(scale=scale, nothing=() if by_text else (nobody,)),
        decoding=Defaults(method="ntp", k=1, stand_in="newest"),
    )


@dataclass
class Golden:
    """A tiny model, its preset, the tensors that the official code made of it, and how."""

    preset: Preset
    model: Transformer
    tensors: dict[str, torch.Tensor]
    facts: dict


@cache
def golden(kind: str = "c2i") -> Golden:
    """Of a class, or of a text: `t2i`."""
    facts = json.loads((GOLDEN / f"{kind}_tiny.json").read_text())
    preset = preset_of(facts["model_args"], facts["grid"], facts["cfg_scale"])
    model = build_transformer(preset)
    weights = GOLDEN / f"{kind}_tiny_weights.safetensors"
    fill_rows(model, transformer_tensors(weights, preset.transformer))
    tensors = load_file(GOLDEN / f"{kind}_tiny_io.safetensors")
    return Golden(preset, model.eval().requires_grad_(False), tensors, facts)
