"""Our NTP against the static-cache loop that one writes for a Llama: eager, and by torch.compile.

A preallocated cache, one token a step, a mask over the whole buffer; the same weights, prompt and
tokens, greedy.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import common
from benchmarks.common import Lap, Prompted
from diagd_cli import Decoding, random_transformer
from diagd_cli.model.config import TransformerConfig
from diagd_cli.model.linear import pack


def main(argv: list[str] | None = None) -> None:
    parser = common.options(__doc__)
    parser.add_argument("--sizes", nargs="+", default=["512"], choices=common.SIZES)
    parser.add_argument(
        "--tokens", type=int, default=48, help="tokens timed, after a prompt of one frame"
    )
    compiled = {"action": argparse.BooleanOptionalAction, "default": common.has_compiler()}
    parser.add_argument(
        "--compile", **compiled, help="by torch.compile too, which takes a minute or two first"
    )
    args = common.parse(parser, argv)
    common.report("plain_loop", args, [row for size in args.sizes for row in contest(size, args)])


def contest(size: str, args) -> list[dict]:
    """Rows of the plain loop and of ours at one size."""
    frames = -(-(args.tokens + 1) // common.mineworld(size, 2).grid.area)
    preset = common.plain_mineworld(size, 1 + frames)
    model = random_transformer(preset, seed=0)
    common.enliven(model.embed)
    plain = PlainLlama(preset.transformer, dict(model.state_dict()), preset.grid.length(1 + frames))
    ours = Prompted(preset, pack(model), context=1, frames=frames)
    plan = common.pick(ours.plan(Decoding("ntp")), np.arange(args.tokens + 1))
    contestants = {"plain loop, eager": partial(generate, plain, plain, ours.prompt, args.tokens)}
    if args.compile:
        for name, how in (("compiled", {}), ("compiled and tuned", common.TUNED)):
            step = torch.compile(plain, fullgraph=True, dynamic=False, options=how)
            contestants[f"plain loop, {name}"] = partial(
                generate, plain, step, ours.prompt, args.tokens
            )
    contestants["diagd, NTP"] = partial(ours.run, plan, common.greedy(preset))
    laps = common.interleave(contestants, args.repeats)
    eager = common.figures(laps["plain loop, eager"])["tokens/s"]
    wanted = laps["diagd, NTP"][0].ids
    rows = []
    for name, own in laps.items():
        row = {"size": size, "contestant": name, **common.figures(own)}
        same = sum(a == b for a, b in zip(own[0].ids, wanted, strict=True))
        rows.append(
            {**row, "times eager": row["tokens/s"] / eager, "same tokens": f"{same}/{len(wanted)}"}
        )
    return rows


@torch.inference_mode()
def generate(model: PlainLlama, step: Callable, prompt: Tensor, count: int) -> Lap:
    """`count` tokens by `step`, which is the model or its compiled form, after the first that the
    prompt's pass makes.
    """
    length = prompt.shape[1]
    token = model(prompt, torch.arange(length))[:, -1:].argmax(-1)
    place, made = torch.tensor([length]), [token]
    started = time.perf_counter()
    for _ in range(count):
        token = step(token, place).argmax(-1)
        place += 1
        made.append(token)
    seconds = time.perf_counter() - started
    return Lap(seconds, count, count, torch.cat(made, 1)[0].tolist())


class PlainLlama(nn.Module):
    """Grouped-query Llama for one clip, from our Transformer's weights by name, with a cache of
    `slots` slots.
    """

    def __init__(self, config: TransformerConfig, weights: dict[str, Tensor], slots: int):
        super().__init__()
        self.config = config
        for name, tensor in weights.items():  # so that a compiler knows them for constants
            self.register_parameter(flat(name), nn.Parameter(tensor, requires_grad=False))
        cache = (config.layers, 1, config.kv_heads, slots, config.head_dim)
        self.register_buffer("keys", torch.zeros(cache))
        self.register_buffer("values", torch.zeros(cache))
        self.register_buffer("causal", torch.ones(slots, slots, dtype=torch.bool).tril())
        frequency = config.positions.base ** (
            -torch.arange(0, config.head_dim, 2) / config.head_dim
        )
        angle = torch.outer(torch.arange(slots), frequency).repeat(1, 2)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def forward(self, ids: Tensor, place: Tensor) -> Tensor:
        """Logits [1, Q, vocab] of ids int64 [1, Q] at places int64 [Q]."""
        x = F.embedding(ids, self.weight("embed"))
        for i in range(self.config.layers):
            block = f"blocks.{i}"
            x = x + self.attention(i, self.norm(x, f"{block}.attention_norm"), place)
            y = self.norm(x, f"{block}.mlp_norm")
            gate, up = F.linear(y, self.weight(f"{block}.mlp.up")).chunk(2, dim=-1)
            x = x + F.linear(F.silu(gate) * up, self.weight(f"{block}.mlp.down"))
        return F.linear(self.norm(x, "norm"), self.weight("head"))

    def weight(self, name: str) -> Tensor:
        return getattr(self, flat(f"{name}.weight"))

    def attention(self, layer: int, x: Tensor, place: Tensor) -> Tensor:
        c, block = self.config, f"blocks.{layer}.attention"
        heads = (
            F.linear(x, self.weight(f"{block}.qkv"))
            .view(*x.shape[:2], -1, c.head_dim)
            .transpose(1, 2)
        )
        q, k, v = heads.split([c.heads, c.kv_heads, c.kv_heads], dim=1)
        self.keys[layer, :, :, place] = self.rotate(k, place)
        self.values[layer, :, :, place] = v
        mask = self.causal[place]
        q, k, v = self.rotate(q, place), self.keys[layer], self.values[layer]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        return F.linear(y.transpose(1, 2).reshape(*x.shape[:2], -1), self.weight(f"{block}.out"))

    def rotate(self, x: Tensor, place: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=-1)
        return x * self.cos[place] + torch.cat([-b, a], dim=-1) * self.sin[place]

    def norm(self, x: Tensor, name: str) -> Tensor:
        return F.rms_norm(x, (self.config.dim,), self.weight(name), self.config.norm_eps)


def flat(name: str) -> str:
    """A name that a module may give a parameter of its own."""
    return name.replace(".", "_")


if __name__ == "__main__":
    main()
