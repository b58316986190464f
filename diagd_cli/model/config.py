"""Hyper-parameters of the one Transformer. Every family is a setting of these; nothing is inferred
from names.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

# Far beyond any model: sizes with which a preset, which may be a stranger's, would have diagd build
# without end.
MOST_CODES = 1 << 24
Codes = Annotated[int, Field(gt=0, le=MOST_CODES)]
Width = Annotated[int, Field(gt=0, le=1 << 16)]  # channels
Depth = Annotated[int, Field(gt=0, le=1000)]  # layers, blocks
Heads = Annotated[int, Field(gt=0, le=1024)]
Pixels = Annotated[int, Field(gt=0, le=1 << 14)]


class Strict(BaseModel):
    """A frozen record that refuses unknown keys, and numbers that are infinite or none."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Yarn(Strict):
    """YaRN-style frequency scaling as Cosmos 12B/13B use it: a linear blend in frequency, per axis.

    `original` is the latent shape (T, h, w) of the shorter training; both spatial axes use its h.
    """

    scale: float = Field(gt=0)
    beta_fast: float
    beta_slow: float
    original: tuple[PositiveInt, PositiveInt, PositiveInt]


class Positions(Strict):
    """How positions enter: rotary over the flat index (`rope-1d`), over the place in the frame,
    (i, j), alone (`rope-2d`), over (t, i, j) (`rope-3d`), or a learned table.

    `absolute` adds the fixed 3-D sine/cosine table to the input of every layer (Cosmos
    Video2World). `places`: tokens of a frame, where what is learned is the sum of a table of the
    frame and one of the place in it (VaViM); 0 is one table of all positions. `frequencies`:
    radians a position, one a pair of channels, of a `rope-1d` that `base` does not tell. `prefix`:
    what precedes the first frame is turned as what stands at (0, 0, 0), or has queries and keys of
    zero (LlamaGen).
    """

    kind: Literal["rope-1d", "rope-2d", "rope-3d", "learned"] = "rope-1d"
    base: float = Field(default=10000.0, gt=0)
    yarn: Yarn | None = None
    absolute: bool = False
    places: int = Field(default=0, ge=0, le=1 << 18)
    frequencies: tuple[Annotated[float, Field(ge=0)], ...] = Field(default=(), max_length=512)
    prefix: Literal["turned", "zero"] = "turned"

    @model_validator(mode="after")
    def _consistent(self) -> Positions:
        if self.places and self.kind != "learned":
            raise ValueError(f"places ({self.places}) are of learned positions, not {self.kind}")
        if self.frequencies and self.kind != "rope-1d":
            raise ValueError(f"frequencies are of rope-1d, not {self.kind}")
        if self.prefix == "zero" and self.kind == "learned":
            raise ValueError("a prefix of zero is of rotary positions, not learned")
        return self

    def frames(self, positions: int) -> int:
        """Frames that tables of so many positions have, of `places` each; what is left over, such
        as padding's scratch slot, has none of its own.
        """
        return max(1, positions // self.places)


class TransformerConfig(Strict):
    """Decoder-only Transformer. Sizes in tokens or channels; `outputs` < `vocab` when some inputs
    are never predicted.

    `bias`: which linear layers have one: all of them or none, those of attention, of the MLP, or
    queries, keys and values alone.
    `attention_scale`: what products of queries and keys are multiplied by; 0 is 1/sqrt(head_dim).
    `cross_dim`: width of a text's features, to which every layer attends. `prefix_dim`: of features
    of which the tokens before the first frame are made, `prefix_tokens` of them (LlamaGen).
    `logit_scale`: what the last norm's output is multiplied by before the output layer. Models of
    muP (Yang et al. 2022) have both: 1/head_dim, and the base model's width over their own.
    """

    vocab: Codes
    outputs: int = Field(default=0, ge=0)
    dim: Width
    layers: Depth
    heads: Heads
    kv_heads: Heads
    head_dim: int = Field(gt=0, le=1024)
    mlp_dim: int = Field(gt=0, le=1 << 20)
    activation: Literal["swiglu", "gelu-tanh", "gelu"] = "swiglu"
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = Field(default=1e-5, ge=0)
    block_norm_affine: bool = True
    final_norm_affine: bool = True
    qk_norm: bool = False
    bias: bool | Literal["qkv", "attention", "mlp"] = False
    tied: bool = False
    cross_dim: int = Field(default=0, ge=0, le=1 << 16)
    prefix_dim: int = Field(default=0, ge=0, le=1 << 16)
    prefix_tokens: int = Field(default=0, ge=0, le=1 << 16)
    attention_scale: float = Field(default=0.0, ge=0)
    logit_scale: float = Field(default=1.0, gt=0)
    positions: Positions = Positions()

    @model_validator(mode="after")
    def _consistent(self) -> TransformerConfig:
        if self.heads % self.kv_heads:
            raise ValueError(
                f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})"
            )
        if self.outputs > self.vocab:
            raise ValueError(f"outputs ({self.outputs}) cannot exceed vocab ({self.vocab})")
        if self.head_dim % 2 and self.positions.kind != "learned":
            raise ValueError(f"head_dim ({self.head_dim}) must be even for rotary positions")
        if self.head_dim % 4 and self.positions.kind == "rope-2d":
            raise ValueError(f"head_dim ({self.head_dim}) must be a multiple of 4 for rope-2d")
        if bool(self.prefix_dim) != bool(self.prefix_tokens):
            raise ValueError(
                f"prefix_dim ({self.prefix_dim}) and prefix_tokens ({self.prefix_tokens}) go "
                "together: one is set, the other is not"
            )
        if self.cross_dim and self.prefix_dim:
            raise ValueError(
                f"cross_dim ({self.cross_dim}) and prefix_dim ({self.prefix_dim}) are two ways of "
                "a text: leave one out"
            )
        given = len(self.positions.frequencies)
        if given and 2 * given != self.head_dim:
            raise ValueError(
                f"positions.frequencies ({given}) must be half of head_dim ({self.head_dim})"
            )
        return self

    @property
    def text_dim(self) -> int:
        """Width of a text's features, 0 where no text steers."""
        return self.cross_dim or self.prefix_dim

    @property
    def qkv_bias(self) -> bool:
        """Whether queries, keys and values have biases."""
        return self.bias in (True, "qkv", "attention")

    @property
    def out_bias(self) -> bool:
        """Whether the layer after attention has a bias."""
        return self.bias in (True, "attention")

    @property
    def mlp_bias(self) -> bool:
        """Whether the layers of the MLP have biases."""
        return self.bias in (True, "mlp")

    @property
    def norm_bias(self) -> bool:
        """Whether norms have biases: those of `layer` where all linear layers do."""
        return self.norm == "layer" and self.bias is True

    @property
    def logits(self) -> int:
        """Rows of the output layer."""
        return self.outputs or self.vocab

    def split(self, count: int) -> TransformerConfig:
        """What one of `count` processes has of a Transformer that they hold together: its share of
        heads and of the MLP. Raises ValueError where they cannot be shared out.
        """
        for name in ("kv_heads", "mlp_dim"):
            if (size := getattr(self, name)) % count:
                raise ValueError(f"{name} ({size}) is no multiple of {count}")
        shares = {name: getattr(self, name) // count for name in ("heads", "kv_heads", "mlp_dim")}
        return self.model_copy(update=shares)
