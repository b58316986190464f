"""The one Transformer. Every family of models is a setting of `TransformerConfig`.

Shapes: B clips, Q tokens fed in this call, S cached slots, C channels, H query heads, G key/value
heads, D head_dim.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diagd_cli.model.attention import (
    Attention,
    CrossAttention,
    Rope,
    reads_products,
    suits_kernels,
)
from diagd_cli.model.cache import KVCache, LayerCache
from diagd_cli.model.caption import Caption, with_prefix
from diagd_cli.model.config import TransformerConfig
from diagd_cli.model.contract import Cross
from diagd_cli.model.linear import Linear
from diagd_cli.model.mask import CAUSAL, EVERYTHING, Mask
from diagd_cli.model.norm import make_norm
from diagd_cli.model.own import own_kernels
from diagd_cli.model.positions import Rotary, absolute_table, learned_table


class Transformer(nn.Module):
    """Pre-norm decoder.

    config: its sizes.
    coords: int64 [L, 3], the place (t, i, j) of each of the first L positions, of one latent frame
        at least. Rotary positions go on after them without end, frame after frame alike; learned
        and absolute ones end with them.
    prefix: how many positions at the front lie outside the grid (a begin-of-video token).

    Position-dependent tables are derived, never loaded.
    """

    absolute: Tensor
    compiled = False  # whether the blocks go through torch.compile

    def __init__(self, config: TransformerConfig, coords: Tensor, prefix: int = 0):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab, config.dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        if config.prefix_dim:
            self.caption = Caption(config)
        self.norm = make_norm(config, config.dim, config.final_norm_affine)
        self.head = Linear(config.dim, config.logits, bias=False)
        if config.tied:
            self.head.weight = self.embed.weight
        how = config.positions
        learned = how.kind == "learned"
        self.learned = learned_table(how, len(coords), config.dim) if learned else None
        self.rotary = None if learned else Rotary(how, coords, prefix, config.head_dim)
        if config.positions.absolute:
            table = absolute_table(coords, config.dim, prefix)
            self.register_buffer("absolute", table, persistent=False)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.embed.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of its weights."""
        return self.embed.weight.dtype

    @property
    def reads_spans(self) -> bool:
        """Whether a mask without a matrix is as good as one with it; torch.compile wants one."""
        return not self.compiled and own_kernels(self.device)

    def new_cache(self, batch: int, slots: int, dtype: torch.dtype | None = None) -> KVCache:
        """An empty cache for `batch` clips and `slots` positions; dtype None is the weights'."""
        dtype = self.dtype if dtype is None else dtype
        across = dtype == self.dtype and reads_products(dtype, self.device)
        return KVCache(self.config, batch, slots, device=self.device, dtype=dtype, across=across)

    def forward(
        self,
        ids: Tensor,
        positions: Tensor,
        mask: Mask = CAUSAL,
        cache: KVCache | None = None,
        extent: int | None = None,
        outputs: int | None = None,
        cross: Cross = None,
        slots: Tensor | None = None,
        start: Tensor | None = None,
    ) -> Tensor:
        """Logits [B, outputs, vocab] of the first fed tokens, for what follows each of them.

        ids: int64 [B, Q], the tokens that are fed.
        positions: int64 [Q], or [B, Q] where clips differ, where they stand in the sequence, in any
            order.
        mask: who sees whom: the tokens of this call or, with a cache, its slots 0 .. extent-1.
        cache: the call's keys and values are written into it.
        extent: slots of the cache that are read, from the first.
        outputs: number of tokens, from the first, whose logits are wanted; None for all.
        cross: of the text, from `cross_context`.
        slots: int64 as `positions`, where in the cache; None is at slot = position.
        start: int64 [B, 1], the first position of each clip that is no padding, from which learned
            positions count; None is 0. Those in space and time count from the first frame anyway,
            and of a flat index rotations tell differences alone.
        """
        x, rope = self.embed(ids), None
        if isinstance(cross, Tensor):
            x, cross = with_prefix(x, cross, positions), None
        if self.learned is not None:
            counted = positions if start is None else (positions - start).clamp(min=0)
            x = x + self.learned(counted)
        elif self.rotary is not None:
            rope = self.rotary(positions, x.dtype)
        slots = positions if slots is None else slots
        group = self.config.heads // self.config.kv_heads
        if not suits_kernels(mask, x.shape[1], group, x.device):
            mask = mask.laid_out(group, x.dtype)
        absolute = self.absolute[positions].to(x.dtype) if self.config.positions.absolute else None
        for i, block in enumerate(self.blocks):
            if absolute is not None:
                x = x + absolute
            layer, context = cache.layer(i) if cache else None, cross[i] if cross else None
            x = block(x, rope, mask, layer, slots, extent, context)
        x = self.norm(x if outputs is None else x[:, :outputs])
        return self.head(x if self.config.logit_scale == 1 else x * self.config.logit_scale)

    def cross_context(self, context: Tensor) -> list[tuple[Tensor, Tensor]] | Tensor:
        """What is made of a text once for a whole clip.

        context: float [B, N, text_dim], the embeddings of N tokens of text.

        Returns keys and values [B, kv_heads, N, head_dim] for each layer; or where the text is the
        prefix, with N positions, its vectors [B, N, dim].
        """
        if self.config.prefix_dim:
            return self.caption(context)
        return [cast(Block, block).cross.context(context) for block in self.blocks]


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

    def forward(
        self,
        x: Tensor,
        rope: Rope = None,
        mask: Mask = EVERYTHING,
        cache: LayerCache | None = None,
        slots: Tensor | None = None,
        extent: int | None = None,
        context: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """The residual stream [B, Q, dim] after it; context: keys and values of the text."""
        x = self.attention(self.attention_norm(x), rope, mask, cache, slots, extent, onto=x)
        if context is not None:
            x = self.cross(self.cross_norm(x), context, onto=x)
        return self.mlp(self.mlp_norm(x), onto=x)


class MLP(nn.Module):
    """down(silu(gate(x)) * up(x)), gate and up from one product; or down(gelu(up(x))), exact or by
    tanh.
    """

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.gated = config.activation == "swiglu"
        self.approximate = "none" if config.activation == "gelu" else "tanh"
        self.up = Linear(
            config.dim, config.mlp_dim * (2 if self.gated else 1), bias=config.mlp_bias
        )
        self.down = Linear(config.mlp_dim, config.dim, bias=config.mlp_bias)

    def forward(self, x: Tensor, onto: Tensor) -> Tensor:
        """What it makes of x [B, Q, dim], added to the residual stream `onto` [B, Q, dim]."""
        if self.gated and own_kernels(x.device):
            from diagd_cli.model import kernels

            return self.down(kernels.gated(self.up(x)), onto)
        if self.gated:
            gate, up = self.up(x).chunk(2, dim=-1)
            return self.down(F.silu(gate) * up, onto)
        return self.down(F.gelu(self.up(x), approximate=self.approximate), onto)


def initialise(model: nn.Module, seed: int, std: float = 0.02) -> None:
    """Give a model Normal(0, `deviation`) weights and zero biases, to train it or to test.

    model: whose parameters are overwritten.
    seed: of the draws.
    std: the standard deviation of most matrices.
    """
    generator = torch.Generator().manual_seed(seed)
    layers = sum(isinstance(m, Block) for m in model.modules())
    for name, p in model.named_parameters():
        if p.ndim == 1:
            p.data.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        else:
            size = deviation(name, layers, std)
            drawn = torch.empty(p.shape).normal_(0.0, size, generator=generator)
            p.data.copy_(drawn)  # drawn on the CPU: the same on every device


def deviation(name: str, layers: int, std: float = 0.02) -> float:
    """Standard deviation of a matrix before training.

    It is `std`, and 1/sqrt(2 * layers) of it where a residual branch ends.
    """
    ends = name.endswith(("out.weight", "down.weight"))
    return std / (2 * layers) ** 0.5 if ends else std
