"""Where a model looks: the attention of one frame's tokens to themselves and to what lies before
them.

Diagonal Decoding rests on it: tokens attend to their neighbours in the frame and to the same place
of earlier frames (Figure 6 of the paper). Queries are caught while the model runs, and keys are
read from its cache, so that the maps are the model's own; they are made for a block of queries of
one layer at a time.

Shapes: Q queries, S cache slots, H query heads, G key/value heads, D head_dim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from diagd_cli.engine.decode import prefill
from diagd_cli.errors import UsageError
from diagd_cli.jobs.attention.neighbours import Surroundings, visible
from diagd_cli.model.attention import Attention
from diagd_cli.model.positions import rotate
from diagd_cli.model.transformer import Block, Transformer
from diagd_cli.pipeline import Loaded, Request, start_session
from diagd_cli.report.attention import NEIGHBOURS, AttentionMap
from diagd_cli.schedule.decoding import Decoding

See = Callable[[int, Tensor, Tensor, Tensor], None]

SCORES = 1 << 25  # attention scores that are there at once, float32


@torch.inference_mode()
def attention_map(
    loaded: Loaded,
    codes: np.ndarray,
    frame: int,
    *,
    actions: np.ndarray | None = None,
    text: Tensor | None = None,
    layer: int | None = None,
    head: int | None = None,
    radius: int = 2,
    decoding: Decoding | None = None,
) -> AttentionMap:
    """Attention of one frame in a causal pass over codes; later frames are not read.

    codes: int64 [T, h, w].
    frame: latent frame, from 0.
    actions: int64 [T, A], as in `Request`.
    text: embedding float [N, cross_dim], as in `Request`.
    layer, head: the one to look at, else the mean of all; the shares of each layer are of that head
        too.
    radius: rows and columns that are near.
    decoding: whose `not_yet_made` is told, by default the preset's.

    Raises UsageError for numbers that the model or the clip has not.
    """
    model, grid = cast(Transformer, loaded.transformer), loaded.preset.grid
    config = model.config
    check_number("frame", frame, len(codes))
    check_number("layer", layer, config.layers)
    check_number("head", head, config.heads)
    order = decoding or loaded.preset.decoding.decoding
    # what the clip itself attends to, not its guidance
    alone = 1.0 if loaded.preset.guidance else None
    request = Request(0, order, 0, actions=actions, text=text, guidance=alone)
    session = start_session(loaded, codes[None, : frame + 1], [request])
    flat = grid.flatten(session.codes, session.conditioning, session.prefix)
    tokens = torch.as_tensor(flat, device=model.device)
    first = int(grid.position(frame, 0, 0))
    around = Surroundings(grid, frame, loaded.preset.context, radius, order, model.device)
    cache = model.new_cache(1, around.end)
    prefill(model, cache, tokens, np.arange(first), session.cross)
    reading = Reading(around, config.layers, layer, head)
    with watch(model, reading.see):
        prefill(model, cache, tokens, np.arange(first, around.end), session.cross)
    return reading.result()


def check_number(name: str, value: int | None, count: int) -> None:
    """Raise UsageError for a `value` outside 0 .. count - 1."""
    if value is not None and not 0 <= value < count:
        raise UsageError(f"The {name} is {value}", f"There are {count}: give 0 to {count - 1}")


# ---- from the running model ----------------------------------------------------------------------


@contextmanager
def watch(model: Transformer, see: See) -> Iterator[None]:
    """Within it, see(layer, q [Q, H, D], k [G, S, D], slots int64 [Q]) follows each self-attention
    of one clip.

    q and k are as the attention multiplies them, after norm and rotation; the model must run on a
    cache.
    """
    with ExitStack() as hooks:
        for number, block in enumerate(cast(Iterable[Block], model.blocks)):
            product: list[Tensor] = []

            def keep(
                module: Any, args: Any, output: Tensor, product: list[Tensor] = product
            ) -> None:
                product.append(output)

            def after(
                module: Any,
                args: Any,
                output: Tensor,
                number: int = number,
                product: list[Tensor] = product,
            ) -> None:
                _, rope, _, cache, slots, extent = args
                keys = cache.keys[0, :, :extent]
                see(number, queries_of(module, product.pop(), rope)[0], keys, slots)

            hooks.callback(block.attention.qkv.register_forward_hook(keep).remove)
            hooks.callback(block.attention.register_forward_hook(after).remove)
        yield


def queries_of(attention: Attention, product: Tensor, rope: tuple[Tensor, Tensor] | None) -> Tensor:
    """Queries [B, Q, H, D], normed and rotated, in the output [B, Q, (H + 2G) * D] of an
    attention's `qkv`; so that products with keys are to be divided by sqrt(D), whatever its scale.
    """
    q = product.unflatten(-1, (-1, attention.head_dim))[:, :, : attention.heads]
    q = attention.q_norm(q) if attention.qk_norm else q
    q = q if attention.scale is None else q * (attention.scale * attention.head_dim**0.5)
    return q if rope is None else rotate(q, *rope)


def probabilities(q: Tensor, k: Tensor, slots: Tensor) -> Tensor:
    """Attention float32 [H, Q, S] of q [Q, H, D] at `slots` int64 [Q] over k [G, S, D]: each sees
    slots <= its own.
    """
    groups = q.float().unflatten(1, (len(k), -1))
    scores = torch.einsum("qgrd,gsd->grqs", groups * q.shape[-1] ** -0.5, k.float()).flatten(0, 1)
    return scores.masked_fill_(~visible(slots, k.shape[1]), -torch.inf).softmax(-1)


class Reading:
    """What is kept of the attention while it is seen: a map, the mean of the wanted layers, and
    shares of every layer.
    """

    def __init__(self, around: Surroundings, layers: int, layer: int | None, head: int | None):
        self.around, self.head = around, head
        self.wanted = range(layers) if layer is None else [layer]
        self.weights = torch.zeros(around.grid.area, around.end, device=around.written.device)
        self.shares = [
            torch.zeros(len(NEIGHBOURS), dtype=torch.float64, device=self.weights.device)
            for _ in range(layers)
        ]

    def see(self, layer: int, q: Tensor, k: Tensor, slots: Tensor) -> None:
        """Add the attention of q [Q, H, D] at `slots` [Q] over k [G, S, D]."""
        if self.head is not None:
            group = self.head // (q.shape[1] // len(k))
            q, k = q[:, self.head : self.head + 1], k[group : group + 1]
        asks = self.around.grid.is_code(slots)
        q, slots = q[asks], slots[asks]
        block = max(1, SCORES // (q.shape[1] * k.shape[1]))
        for own, at in zip(q.split(block), slots.split(block), strict=True):
            mean = probabilities(own, k, at).mean(0)
            self.shares[layer] = self.shares[layer] + self.around.mass(mean, at)
            if layer in self.wanted:
                own_rows = self.around.grid.order(at)
                self.weights[own_rows, : k.shape[1]] += mean / len(self.wanted)

    def result(self) -> AttentionMap:
        """Everything that was seen."""
        around = self.around
        uniform = torch.zeros(len(NEIGHBOURS), dtype=torch.float64, device=self.weights.device)
        for at in around.queries.split(SCORES // around.end + 1):
            seen = visible(at, around.end)
            uniform = uniform + around.mass(seen / seen.sum(1, keepdim=True), at)
        layers = [dict(zip(NEIGHBOURS, mass.tolist(), strict=True)) for mass in self.shares]
        return AttentionMap(
            around.grid,
            around.frame,
            self.weights.cpu().numpy(),
            {
                name: sum(layers[n][name] for n in self.wanted) / len(self.wanted)
                for name in NEIGHBOURS
            },
            layers,
            dict(zip(NEIGHBOURS, uniform.tolist(), strict=True)),
        )
