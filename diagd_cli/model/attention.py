"""Attention: of video tokens to one another, by way of the cache, and to a text."""

from __future__ import annotations

from functools import cache as once
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diagd_cli.model.cache import LayerCache
from diagd_cli.model.config import TransformerConfig
from diagd_cli.model.linear import Linear
from diagd_cli.model.mask import EVERYTHING, Mask
from diagd_cli.model.norm import make_norm
from diagd_cli.model.own import own_kernels
from diagd_cli.model.positions import rotate
from diagd_cli.model.products import packs_bfloat16

# rows of queries above which PyTorch's kernels do as well as ours, and need no room for parts
MANY = 1024
FEW = 256  # rows of queries up to which all of their scores are made at once
ROWS = 32  # rows of queries that PyTorch's kernel takes together on a CPU
LEAST = 4  # of them; fewer go to a kernel of their own
Rope = tuple[Tensor, Tensor] | None  # cosines and sines [.., Q, 1, head_dim] of the fed positions


class Attention(nn.Module):
    """Grouped-query self-attention: H heads of queries, G of keys and values.

    Query head h reads key/value head h // (H/G). Q, K and V come from one product.
    """

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        width = (self.heads + 2 * self.kv_heads) * self.head_dim
        self.qkv = Linear(config.dim, width, bias=config.qkv_bias)
        self.out = Linear(self.heads * self.head_dim, config.dim, bias=config.out_bias)
        if config.qk_norm:
            self.q_norm = make_norm(config, self.head_dim)
            self.k_norm = make_norm(config, self.head_dim)
        self.qk_norm = config.qk_norm
        self._whole = not self.qk_norm or config.norm == "rms"  # a kernel knows of no other norm
        self.scale = config.attention_scale or None

    def forward(
        self,
        x: Tensor,
        rope: Rope,
        mask: Mask,
        cache: LayerCache | None,
        slots: Tensor,
        extent: int,
        onto: Tensor,
    ) -> Tensor:
        """What tokens x [B, Q, dim] read, of one another or of a cache with them, added to the
        residual stream `onto` [B, Q, dim].
        """
        b, n, _ = x.shape
        h, g = self.heads, self.kv_heads
        qkv = self.qkv(x).view(b, n, h + 2 * g, self.head_dim)
        if cache is not None and self._whole and suits_kernels(mask, n, h // g, x.device):
            q = self._remembered(qkv, rope, cache, slots)
            k, v = cache.read(extent, q.dtype)
        else:
            q, k, v = self._apart(qkv, rope)
            if cache is None:
                k, v = k.transpose(1, 2), v.transpose(1, 2)
            else:
                cache.write(slots, k, v)
                k, v = cache.read(extent, k.dtype)
        seen = attend(q.transpose(1, 2), k, v, mask, self.scale).transpose(1, 2).reshape(b, n, -1)
        return self.out(seen, onto)

    def _apart(self, qkv: Tensor, rope: Rope) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, Q, H, D], keys and values [B, Q, G, D], normed and rotated."""
        h, g = self.heads, self.kv_heads
        qk, v = qkv.split([h + g, g], dim=2)
        if self.qk_norm:
            qk = torch.cat([self.q_norm(qk[:, :, :h]), self.k_norm(qk[:, :, h:])], dim=2)
        if rope is not None:
            qk = rotate(qk, *rope)
        q, k = qk.split([h, g], dim=2)
        return q, k, v

    def _remembered(self, qkv: Tensor, rope: Rope, cache: LayerCache, slots: Tensor) -> Tensor:
        """Queries as of `_apart`; keys and values go into the cache."""
        from diagd_cli.model import kernels

        norms: Any = (self.q_norm.weight, self.k_norm.weight) if self.qk_norm else None
        eps = cast(float, self.q_norm.eps) if self.qk_norm else 0.0
        return kernels.remembered(qkv, norms, eps, rope, slots, cache.keys, cache.values)


class CrossAttention(nn.Module):
    """Attention from video tokens to a text: no rotation, no mask, keys and values once a clip."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        self.q = Linear(config.dim, self.heads * self.head_dim, bias=config.qkv_bias)
        self.kv = Linear(config.cross_dim, 2 * self.kv_heads * self.head_dim, bias=config.qkv_bias)
        self.out = Linear(self.heads * self.head_dim, config.dim, bias=config.out_bias)
        self.q_norm = make_norm(config, self.head_dim) if config.qk_norm else nn.Identity()
        self.k_norm = make_norm(config, self.head_dim) if config.qk_norm else nn.Identity()
        self.scale = config.attention_scale or None

    def context(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, kv_heads, N, head_dim] of a text [B, N, cross_dim]."""
        b, n, _ = context.shape
        k, v = self.kv(context).view(b, n, 2, self.kv_heads, self.head_dim).unbind(2)
        return self.k_norm(k).transpose(1, 2), v.transpose(1, 2)

    def forward(self, x: Tensor, context: tuple[Tensor, Tensor], onto: Tensor) -> Tensor:
        """What tokens x [B, Q, dim] read of the text's keys and values, added to the residual
        stream `onto` [B, Q, dim].
        """
        b, n, _ = x.shape
        q = self.q_norm(self.q(x).view(b, n, self.heads, self.head_dim)).transpose(1, 2)
        seen = attend(q, *context, EVERYTHING, self.scale).transpose(1, 2).reshape(b, n, -1)
        return self.out(seen, onto)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask, scale: float | None = None) -> Tensor:
    """Scaled dot-product attention [B, H, Q, D].

    q: float [B, H, Q, D].
    k, v: float [B, G, S, D], in which the H/G query heads of a group share a head.
    mask: who sees whom. Blocks go to FlexAttention.
    scale: what the products of queries and keys are multiplied by; None is 1/sqrt(D).

    The query heads of a group are laid out as extra queries, so that cached keys and values are
    read once, never expanded.
    """
    b, h, n, d = q.shape
    g = k.shape[1]
    if mask.blocks is not None:
        q, k = q.to(v.dtype), k.to(v.dtype)  # autocast leaves what was normed or rotated in float32
        return flex(q.is_cuda)(q, k, v, block_mask=mask.blocks, scale=scale, enable_gqa=h != g)
    if mask.span and suits_kernels(mask, n, h // g, q.device):
        from diagd_cli.model.split_keys import attention

        return attention(q, k, v, mask.span, scale).transpose(1, 2)
    if mask.visible is None and mask.span is None and mask.causal:
        return F.scaled_dot_product_attention(
            q, along(k), v, is_causal=True, scale=scale, enable_gqa=h != g
        )
    bias = mask.laid_out(h // g, q.dtype).bias
    grouped = q if h == g else q.reshape(b, g, h // g * n, d)
    if suits_products(grouped):
        return by_products(grouped, k, v, bias, scale).reshape(b, h, n, d)
    seen = by_kernel(grouped, along(k), v, bias, scale)
    return seen.reshape(b, h, n, d)


def by_kernel(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None, scale: float | None
) -> Tensor:
    """Scaled dot-product attention [B, G, R, D] by PyTorch; on a CPU a row's bits are the same in
    any company.

    A few rows, alone or left over, would go to another kernel, which adds up in another order: rows
    that nobody reads are put beside them.

    The parameters are those of `by_products`.
    """
    rows = q.shape[2]
    if q.device.type != "cpu" or not 0 < rows % ROWS < LEAST:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, scale=scale)
    beside = 0, 0, 0, LEAST - rows % ROWS
    attn_mask = None if attn_mask is None else F.pad(attn_mask, beside)
    seen = F.scaled_dot_product_attention(F.pad(q, beside), k, v, attn_mask=attn_mask, scale=scale)
    return seen[:, :, :rows]


def along(k: Tensor) -> Tensor:
    """Keys [B, G, S, D] channel beside channel, with which PyTorch's kernel is fast: a copy where
    they lie across, as `by_products` wants them, and only there.
    """
    return k if k.stride(-1) == 1 else k.contiguous()


def suits_kernels(mask: Mask, n: int, group: int, device: torch.device) -> bool:
    """Whether attention of n queries, `group` heads of which share one of keys, is by our own
    kernels, which read no matrix.
    """
    return mask.span is not None and n * group <= MANY and own_kernels(device)


def suits_products(q: Tensor) -> bool:
    """Whether attention of q [B, G, R, D] is `by_products`: where a cache of its dtype is, and of
    tokens so few that all their scores can be held.
    """
    few = reads_products(q.dtype, q.device) and q.shape[2] <= FEW
    return few and not torch.is_grad_enabled()


def reads_products(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a cache is read `by_products`: one of bfloat16, on a processor that multiplies it.

    PyTorch's own kernel reads a cache of bfloat16 at half of their speed there, and one of float32
    as fast as they do.
    """
    return dtype == torch.bfloat16 and device.type == "cpu" and packs_bfloat16()


def by_products(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None, scale: float | None = None
) -> Tensor:
    """Scaled dot-product attention [B, G, R, D]; scores and weights are rounded to q's dtype.

    q: float [B, G, R, D]; k, v: float [B, G, S, D].
    attn_mask: what is added to the scores, [R, S] or [B, 1, R, S] in q's dtype; None is nothing.
    scale: as in `attend`.
    """
    rows, keys, values = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)
    added = q.new_zeros(1) if attn_mask is None else attn_mask
    if added.ndim == 4:
        added = added.expand(-1, q.shape[1], -1, -1).flatten(0, 1)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = torch.baddbmm(added, rows, keys.transpose(1, 2), alpha=scale)
    return torch.bmm(scores.softmax(-1), values).view_as(q)


@once
def flex(compiled: bool) -> Any:
    """FlexAttention; compiled, as it must be on CUDA, it never holds the scores of all pairs."""
    from torch.nn.attention.flex_attention import flex_attention

    attention: Any = torch.compile(flex_attention) if compiled else flex_attention
    return attention
