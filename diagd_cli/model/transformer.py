"""The one Transformer. Cosmos, MineWorld, WHAM and the shipped world are settings of `TransformerConfig`.

Shapes: B clips, Q tokens fed in this call, S cached slots, C channels, H query heads, G key/value heads, D head_dim.
"""

from __future__ import annotations

from functools import cache as once
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diagd_cli.model.cache import KVCache, write
from diagd_cli.model.config import TransformerConfig
from diagd_cli.model.linear import Linear
from diagd_cli.model.positions import absolute_table, rope_table, rotate, signed

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

CAUSAL = "causal"  # the mask of a full pass over tokens in position order


class Transformer(nn.Module):
    """Pre-norm decoder. Built for the coordinates (t, i, j) of every position it will ever see.

    `coords` int64 [L, 3] gives the place of each of the L positions; `prefix` positions at the front lie outside the
    grid (a begin-of-video token). Position-dependent tables are derived, never loaded.
    """

    def __init__(self, config: TransformerConfig, coords: Tensor, prefix: int = 0):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab, config.dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = make_norm(config, config.dim)
        self.head = Linear(config.dim, config.logits, bias=False)
        if config.tied:
            self.head.weight = self.embed.weight
        self.learned = nn.Embedding(len(coords), config.dim) if config.positions.kind == "learned" else None
        if self.learned is None:
            cos, sin = rope_table(config.positions, coords, config.head_dim)
            self.register_buffer("cos", cos.unsqueeze(1), persistent=False)
            self.register_buffer("sin", signed(sin).unsqueeze(1), persistent=False)
        if config.positions.absolute:
            self.register_buffer("absolute", absolute_table(coords, config.dim, prefix), persistent=False)

    def forward(
        self,
        ids: Tensor,
        positions: Tensor,
        mask: Tensor | BlockMask | str | None = CAUSAL,
        cache: KVCache | None = None,
        extent: int | None = None,
        outputs: int | None = None,
        cross: list[tuple[Tensor, Tensor]] | None = None,
    ) -> Tensor:
        """Logits [B, outputs, vocab] of the first `outputs` fed tokens (default: all) for what follows each of them.

        ids: int64 [B, Q]. positions: int64 [Q], in any order. With a `cache`, this call's keys and values are written
        at slot = position, and slots 0 .. extent-1 are read. mask: bool [Q, S], true = visible, or a BlockMask of
        FlexAttention; None = everything.
        cross: per layer, keys and values of the text context, from `cross_context`.
        """
        x = self.embed(ids)
        if self.learned is not None:
            x, rope = x + self.learned(positions), None
        else:
            rope = self.cos[positions].to(x.dtype), self.sin[positions].to(x.dtype)
        if isinstance(mask, Tensor):
            mask = attention_bias(mask, self.config.heads // self.config.kv_heads, x.dtype)
        absolute = self.absolute[positions].to(x.dtype) if self.config.positions.absolute else None
        for i, block in enumerate(self.blocks):
            if absolute is not None:
                x = x + absolute
            memory = None if cache is None else (*cache.layer(i), positions, extent)
            x = block(x, rope, mask, memory, cross[i] if cross else None)
        return self.head(self.norm(x if outputs is None else x[:, :outputs]))

    def cross_context(self, context: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Per layer the keys and values [B, G, N, D] of a text context [B, N, cross_dim]; constant for a whole clip."""
        return [block.cross.context(context) for block in self.blocks]


class Block(nn.Module):
    """x + attention(norm(x)); optionally x + cross-attention(norm(x)); x + MLP(norm(x))."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        affine = config.block_norm_affine
        self.attention_norm = make_norm(config, config.dim, affine)
        self.attention = Attention(config)
        if config.cross_dim:
            self.cross_norm = make_norm(config, config.dim, affine)
            self.cross = CrossAttention(config)
        self.mlp_norm = make_norm(config, config.dim, affine)
        self.mlp = MLP(config)

    def forward(self, x, rope, mask, memory, context):
        x = x + self.attention(self.attention_norm(x), rope, mask, memory)
        if context is not None:
            x = x + self.cross(self.cross_norm(x), context)
        return x + self.mlp(self.mlp_norm(x))


class Attention(nn.Module):
    """Grouped-query self-attention; query head h reads key/value head h // (H/G). Q, K and V come from one product."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        self.qkv = Linear(config.dim, (self.heads + 2 * self.kv_heads) * self.head_dim, bias=config.bias)
        self.out = Linear(self.heads * self.head_dim, config.dim, bias=config.bias)
        if config.qk_norm:
            self.q_norm = make_norm(config, self.head_dim)
            self.k_norm = make_norm(config, self.head_dim)
        self.qk_norm = config.qk_norm

    def forward(self, x, rope, mask, memory):
        b, n, _ = x.shape
        h, g = self.heads, self.kv_heads
        qk, v = self.qkv(x).view(b, n, h + 2 * g, self.head_dim).split([h + g, g], dim=2)
        if self.qk_norm:
            qk = torch.cat([self.q_norm(qk[:, :, :h]), self.k_norm(qk[:, :, h:])], dim=2)
        if rope is not None:
            qk = rotate(qk, *rope)
        q, k = qk.split([h, g], dim=2)
        if memory is None:
            k, v = k.transpose(1, 2), v.transpose(1, 2)
        else:
            keys, values, slots, extent = memory
            write(keys, slots, k)
            write(values, slots, v)
            k, v = keys[:, :, :extent].to(q.dtype), values[:, :, :extent].to(q.dtype)
        return self.out(attend(q.transpose(1, 2), k, v, mask).transpose(1, 2).reshape(b, n, -1))


class CrossAttention(nn.Module):
    """Attention from video tokens to a text context: no rotation, no mask, keys and values computed once a clip."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        self.q = Linear(config.dim, self.heads * self.head_dim, bias=config.bias)
        self.kv = Linear(config.cross_dim, 2 * self.kv_heads * self.head_dim, bias=config.bias)
        self.out = Linear(self.heads * self.head_dim, config.dim, bias=config.bias)
        self.q_norm = make_norm(config, self.head_dim) if config.qk_norm else nn.Identity()
        self.k_norm = make_norm(config, self.head_dim) if config.qk_norm else nn.Identity()

    def context(self, context: Tensor) -> tuple[Tensor, Tensor]:
        b, n, _ = context.shape
        k, v = self.kv(context).view(b, n, 2, self.kv_heads, self.head_dim).unbind(2)
        return self.k_norm(k).transpose(1, 2), v.transpose(1, 2)

    def forward(self, x, context):
        b, n, _ = x.shape
        q = self.q_norm(self.q(x).view(b, n, self.heads, self.head_dim)).transpose(1, 2)
        return self.out(attend(q, *context, mask=None).transpose(1, 2).reshape(b, n, -1))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | BlockMask | str | None) -> Tensor:
    """Scaled dot-product attention of q [B, H, Q, D] over k, v [B, G, S, D]; returns [B, H, Q, D].

    The H/G query heads of a group are laid out as extra queries, so cached keys and values are read once, never
    expanded; a mask tensor is an `attention_bias`, laid out alike. A BlockMask goes to FlexAttention.
    """
    if isinstance(mask, str):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
    if mask is not None and not isinstance(mask, Tensor):
        q, k = q.to(v.dtype), k.to(v.dtype)  # which autocast leaves in float32 where they were normed or rotated
        return flex(q.is_cuda)(q, k, v, block_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
    b, h, n, d = q.shape
    g = k.shape[1]
    if h == g:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    grouped = q.reshape(b, g, h // g * n, d)
    return F.scaled_dot_product_attention(grouped, k, v, attn_mask=mask).reshape(b, h, n, d)


@once
def flex(compiled: bool):
    """FlexAttention; compiled it never holds the scores of all pairs, and is the only form worth having on CUDA."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention) if compiled else flex_attention


def attention_bias(mask: Tensor, group: int, dtype: torch.dtype) -> Tensor:
    """Bool [Q, S], true = visible -> 0 / -inf [group * Q, S]: once a call, so that no layer converts it again."""
    hidden = torch.full((), -torch.inf, dtype=dtype, device=mask.device)  # not torch.tensor: no copy in a CUDA graph
    return torch.where(mask, torch.zeros_like(hidden), hidden).repeat(group, 1)


class MLP(nn.Module):
    """down(silu(gate(x)) * up(x)), gate and up from one product; or down(gelu_tanh(up(x)))."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.gated = config.activation == "swiglu"
        self.up = Linear(config.dim, config.mlp_dim * (2 if self.gated else 1), bias=config.bias)
        self.down = Linear(config.mlp_dim, config.dim, bias=config.bias)

    def forward(self, x):
        if self.gated:
            gate, up = self.up(x).chunk(2, dim=-1)
            return self.down(F.silu(gate) * up)
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class RMSNorm(nn.Module):
    """Root-mean-square norm in float32, cast back before the weight is applied (as Llama and Cosmos do)."""

    def __init__(self, dim: int, eps: float, affine: bool = True):
        super().__init__()
        self.dim, self.eps = dim, eps
        self.weight = nn.Parameter(torch.ones(dim)) if affine else None

    def forward(self, x):
        if x.dtype == torch.float32:
            return F.rms_norm(x, (self.dim,), self.weight, self.eps)
        y = F.rms_norm(x.float(), (self.dim,), eps=self.eps).to(x.dtype)
        return y if self.weight is None else y * self.weight


def make_norm(config: TransformerConfig, dim: int, affine: bool = True) -> nn.Module:
    if config.norm == "rms":
        return RMSNorm(dim, config.norm_eps, affine)
    return nn.LayerNorm(dim, config.norm_eps, elementwise_affine=affine, bias=config.bias)


def initialise(model: nn.Module, seed: int, std: float = 0.02) -> None:
    """Normal(0, `deviation`) weights, zero biases; for training and for tests."""
    generator = torch.Generator().manual_seed(seed)
    layers = sum(isinstance(m, Block) for m in model.modules())
    for name, p in model.named_parameters():
        if p.ndim == 1:
            p.data.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        else:
            drawn = torch.empty(p.shape).normal_(0.0, deviation(name, layers, std), generator=generator)
            p.data.copy_(drawn)  # drawn on the CPU: the same on every device


def deviation(name: str, layers: int, std: float = 0.02) -> float:
    """Standard deviation of a matrix before training: `std`, and 1/sqrt(2 * layers) of it where a residual branch ends."""
    return std / (2 * layers) ** 0.5 if name.endswith(("out.weight", "down.weight")) else std
