"""Where a model looks: the attention of one frame's tokens to themselves and to what lies before them.

Diagonal Decoding rests on it: tokens attend to their neighbours in the frame and to the same place of earlier frames
(Figure 6 of the paper). Queries are caught while the model runs, and keys are read from its cache, so that the maps are
the model's own; they are made for a block of queries of one layer at a time.

Shapes: Q queries, S cache slots, H query heads, G key/value heads, D head_dim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diagd_cli.engine.decode import prefill
from diagd_cli.errors import UsageError
from diagd_cli.model.attention import Attention
from diagd_cli.model.positions import rotate
from diagd_cli.model.transformer import Transformer
from diagd_cli.pipeline import Loaded, Request, start_session
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.schedule.plan import build_plan
from diagd_cli.tokens.grid import Grid

See = Callable[[int, Tensor, Tensor, Tensor], None]

SCORES = 1 << 25  # attention scores that are there at once, float32


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """Attention of the tokens of latent frame `frame`, each query standing at its own token.

    weights: float32 [h*w, S], a row for each token in raster order, over all positions up to the frame's last; rows sum
    to 1. shares: the part of it that falls on each of `NEIGHBOURS`, mean over the tokens. layers: the same for each
    layer. uniform: what the shares would be if every token attended alike to all that it sees.
    """

    grid: Grid
    frame: int
    weights: np.ndarray
    shares: dict[str, float]
    layers: list[dict[str, float]]
    uniform: dict[str, float]


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
    """Attention of frame `frame` of codes int64 [T, h, w] in a causal pass over them; later frames are not read.

    actions: int64 [T, A] and text [N, cross_dim] as in `Request`. layer, head: the one to look at, else the mean of all;
    the shares of each layer are of that head too. decoding: whose `not_yet_made` is told, by default the preset's. Raises
    UsageError for numbers that the model or the clip has not.
    """
    model, grid = loaded.transformer, loaded.preset.grid
    config = model.config
    check_number("frame", frame, len(codes))
    check_number("layer", layer, config.layers)
    check_number("head", head, config.heads)
    walk = decoding or loaded.preset.decoding.decoding
    request = Request(frames=0, decoding=walk, seed=0, actions=actions, text=text)
    session = start_session(loaded, codes[None, : frame + 1], [request])
    flat = grid.flatten(session.codes, session.conditioning, session.prefix)
    tokens = torch.as_tensor(flat, device=model.device)
    first = int(grid.position(frame, 0, 0))
    queries = np.arange(first, first + grid.area)
    cache = model.new_cache(1, first + grid.area)
    prefill(model, cache, tokens, np.arange(first), session.cross)
    around = Surroundings(grid, frame, loaded.preset.context, radius, walk, model.device)
    reading = Reading(around, config.layers, layer, head)
    with watch(model, reading.see):
        prefill(model, cache, tokens, queries, session.cross)
    return reading.result()


def check_number(name: str, value: int | None, count: int) -> None:
    """Raise UsageError for a `value` outside 0 .. count - 1."""
    if value is not None and not 0 <= value < count:
        raise UsageError(f"The {name} is {value}", f"There are {count}: give 0 to {count - 1}")


# ---- from the running model ------------------------------------------------------------------------------------------


@contextmanager
def watch(model: Transformer, see: See) -> Iterator[None]:
    """Within it, see(layer, q [Q, H, D], k [G, S, D], slots int64 [Q]) follows each self-attention of one clip.

    q and k are as the attention multiplies them, after norm and rotation; the model must run on a cache.
    """
    with ExitStack() as hooks:
        for number, block in enumerate(model.blocks):
            product: list[Tensor] = []

            def keep(module, args, output, product=product) -> None:
                product.append(output)

            def after(module, args, output, number=number, product=product) -> None:
                _, rope, _, cache, slots, extent = args
                keys = cache.keys[0, :, :extent]
                see(number, queries_of(module, product.pop(), rope)[0], keys, slots)

            hooks.callback(block.attention.qkv.register_forward_hook(keep).remove)
            hooks.callback(block.attention.register_forward_hook(after).remove)
        yield


def queries_of(attention: Attention, product: Tensor, rope: tuple[Tensor, Tensor] | None) -> Tensor:
    """Queries [B, Q, H, D], normed and rotated, in the output [B, Q, (H + 2G) * D] of an attention's `qkv`."""
    q = product.unflatten(-1, (-1, attention.head_dim))[:, :, : attention.heads]
    q = attention.q_norm(q) if attention.qk_norm else q
    return q if rope is None else rotate(q, *rope)


def probabilities(q: Tensor, k: Tensor, slots: Tensor) -> Tensor:
    """Attention float32 [H, Q, S] of q [Q, H, D] at `slots` int64 [Q] over k [G, S, D]: each sees slots <= its own."""
    groups = q.float().unflatten(1, (len(k), -1))
    scores = torch.einsum("qgrd,gsd->grqs", groups * q.shape[-1] ** -0.5, k.float()).flatten(0, 1)
    return scores.masked_fill_(~visible(slots, k.shape[1]), -torch.inf).softmax(-1)


def visible(slots: Tensor, extent: int) -> Tensor:
    """Bool [Q, extent]: the positions at or before each of `slots` int64 [Q]."""
    return torch.arange(extent, device=slots.device) <= slots[:, None]


class Reading:
    """What is kept of the attention while it is seen: a map, the mean of the wanted layers, and shares of every layer."""

    def __init__(self, around: Surroundings, layers: int, layer: int | None, head: int | None):
        self.around, self.head = around, head
        self.wanted = range(layers) if layer is None else [layer]
        self.weights = torch.zeros(around.grid.area, around.end, device=around.written.device)
        self.shares: list[Tensor | float] = [0.0] * layers

    def see(self, layer: int, q: Tensor, k: Tensor, slots: Tensor) -> None:
        """Add the attention of q [Q, H, D] at `slots` [Q] over k [G, S, D]."""
        if self.head is not None:
            group = self.head // (q.shape[1] // len(k))
            q, k = q[:, self.head : self.head + 1], k[group : group + 1]
        block = max(1, SCORES // (q.shape[1] * k.shape[1]))
        for own, at in zip(q.split(block), slots.split(block), strict=True):
            mean = probabilities(own, k, at).mean(0)
            self.shares[layer] = self.shares[layer] + self.around.mass(mean, at)
            if layer in self.wanted:
                self.weights[at - self.around.first, : k.shape[1]] += mean / len(self.wanted)

    def result(self) -> AttentionMap:
        """Everything that was seen."""
        around, uniform = self.around, 0.0
        for at in torch.arange(around.first, around.end, device=self.weights.device).split(SCORES // around.end + 1):
            seen = visible(at, around.end)
            uniform = uniform + around.mass(seen / seen.sum(1, keepdim=True), at)
        layers = [dict(zip(NEIGHBOURS, mass.tolist(), strict=True)) for mass in self.shares]
        return AttentionMap(
            around.grid,
            around.frame,
            self.weights.cpu().numpy(),
            {name: sum(layers[n][name] for n in self.wanted) / len(self.wanted) for name in NEIGHBOURS},
            layers,
            dict(zip(NEIGHBOURS, uniform.tolist(), strict=True)),
        )


# ---- neighbours ------------------------------------------------------------------------------------------------------

PARTS = ("this_frame", "previous_frame", "earlier_frames", "conditioning", "prefix")  # everything, each position once
NEIGHBOURS = (
    *PARTS, "itself", "same_row", "row_above", "near", "same_place_before", "near_before", "prompt_frames", "not_yet_made",
)  # fmt: skip


class Surroundings:
    """Which positions are what to the tokens of a frame. A token belongs to its own row, and is near itself.

    near: at most `radius` rows and columns away. prompt_frames: the first `context` ones, the frame itself aside.
    not_yet_made: what comes before the token, but has not been fed when the decoding feeds it: its query cannot see it.
    """

    def __init__(
        self, grid: Grid, frame: int, context: int, radius: int, decoding: Decoding, device: torch.device | str = "cpu"
    ):
        self.grid, self.frame, self.context, self.radius = grid, frame, context, radius
        self.first, self.end = int(grid.position(frame, 0, 0)), int(grid.position(frame, 0, 0)) + grid.area
        written = np.zeros(self.end, np.int64)
        if frame >= context:  # of the frames before, everything is fed at once
            written = build_plan(grid, context, frame - context + 1, decoding).first_write
        self.written = torch.as_tensor(written, device=device)
        self.coords = torch.as_tensor(grid.coords(self.end), device=device).unbind(1)

    def masks(self, slots: Tensor, extent: int) -> dict[str, Tensor]:
        """For each of `NEIGHBOURS`, which of the positions 0 .. extent-1 are it to those at `slots` [Q]: bool [Q, extent]."""
        t, i, j = (axis[:extent] for axis in self.coords)
        prefix = torch.arange(extent, device=slots.device) < self.grid.prefix
        steering = (i == self.grid.h) & ~prefix
        code = ~prefix & ~steering
        own, before = code & (t == self.frame), code & (t == self.frame - 1)
        place = (slots - self.first)[:, None]
        rows, columns = place // self.grid.w - i, place % self.grid.w - j  # how far above, how far to the left
        near, same = (rows.abs() <= self.radius) & (columns.abs() <= self.radius), (rows == 0) & (columns == 0)
        masks = [
            own, before, code & (t < self.frame - 1), steering, prefix,
            own & same, own & (rows == 0), own & (rows == 1), own & near, before & same, before & near,
            code & (t < self.context) & ~own,
            visible(slots, extent) & (self.written[:extent] > self.written[slots][:, None]),
        ]  # fmt: skip
        return {name: mask.expand(len(slots), extent) for name, mask in zip(NEIGHBOURS, masks, strict=True)}

    def mass(self, weights: Tensor, slots: Tensor) -> Tensor:
        """Of weights [Q, S] of the queries at `slots`, the sum in each of `NEIGHBOURS`, a token of the frame; float64."""
        masks = self.masks(slots, weights.shape[1])
        return torch.stack([(weights * mask).sum(dtype=torch.float64) for mask in masks.values()]) / self.grid.area
