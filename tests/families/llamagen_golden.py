"""A tiny model of the official LlamaGen classes, in `golden/llamagen`, as ours; and what the official
code made with it.
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
from diagd_cli.sections import Clip, Defaults, Guide, Labels
from diagd_cli.weights.build import build_transformer

GOLDEN = Path(__file__).parent.parent / "golden" / "llamagen"
WEIGHTS = GOLDEN / "c2i_tiny_weights.safetensors"
LIMIT, GUIDED_LIMIT = 5e-5, 2e-4  # of the golden data's own README


def preset_of(args: dict, grid: int, scale: float) -> Preset:
    """Ours of official settings, by their names."""
    codes, nobody = args["vocab_size"], args["vocab_size"] + args["num_classes"]
    heads = args["n_head"]
    return Preset(
        name="golden",
        about="Tiny, by the official code.",
        licence="MIT",
        clip=Clip(height=2 * grid, width=2 * grid, fps=1, context=0, least=0, frames=1, window=1),
        tokenizer=LlamaGenVqConfig(codebook=codes, channels=32, multipliers=(1, 1)),
        transformer=TransformerConfig(
            vocab=nobody + 1,
            outputs=codes,
            dim=args["dim"],
            layers=args["n_layer"],
            heads=heads,
            kv_heads=heads,
            head_dim=args["dim"] // heads,
            mlp_dim=args["ffn_hidden"],
            norm_eps=args["norm_eps"],
            positions=Positions(kind="rope-2d", prefix="zero", base=args["rope_base"]),
        ),
        prefix=(nobody,),
        labels=Labels(offset=codes, count=args["num_classes"]),
        guidance=Guide(scale=scale, nothing=(nobody,)),
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
def golden() -> Golden:
    facts = json.loads((GOLDEN / "c2i_tiny.json").read_text())
    preset = preset_of(facts["model_args"], facts["grid"], facts["cfg_scale"])
    model = build_transformer(preset)
    fill_rows(model, transformer_tensors(WEIGHTS, preset.transformer))
    tensors = load_file(GOLDEN / "c2i_tiny_io.safetensors")
    return Golden(preset, model.eval().requires_grad_(False), tensors, facts)
