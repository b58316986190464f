"""Random small worlds: a grid, a decoding and a Transformer, each drawn over everything that is
allowed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import wraps
from unittest.mock import patch

import numpy as np
import oracle
import torch
from hypothesis import assume, settings
from hypothesis import strategies as st

from diagd_cli.engine.decode import decode, execute, prefill, runner
from diagd_cli.engine.ring import ring_for
from diagd_cli.engine.sample import Sampler, Sampling
from diagd_cli.engine.session import Session
from diagd_cli.engine.steps import Steps
from diagd_cli.model.cache import KVCache
from diagd_cli.model.config import Positions, TransformerConfig
from diagd_cli.model.transformer import Transformer
from diagd_cli.schedule.decoding import METHODS, STAND_INS, Decoding
from diagd_cli.schedule.plan import Plan, build_plan
from diagd_cli.schedule.wavefront import wavefront
from diagd_cli.tokens.grid import Grid

SEEDS = st.integers(0, 2**31)
TEMPERATURES = st.sampled_from([0.0, 0.7, 1.3])
# of a property whose examples are whole decodings, in several ways each; all in a thorough run
EXAMPLES = settings.default.max_examples
FEWER = settings(max_examples=EXAMPLES if EXAMPLES > 100 else EXAMPLES // 2)
TIE = 1e-4  # logits closer than this may be ranked differently in float32 and float64


@dataclass(frozen=True)
class World:
    """A grid, `context` known frames, `frames` new ones, and how they are decoded; `padding` ids of
    the prefix are none.
    """

    grid: Grid
    context: int
    frames: int
    decoding: Decoding
    padding: int = 0

    def plan(self) -> Plan:
        return build_plan(self.grid, self.context, self.frames, self.decoding)

    @property
    def ntp(self) -> World:
        return replace(self, decoding=Decoding("ntp"))

    @property
    def layout(self) -> oracle.Layout:
        g = self.grid
        ends = len(g.row_end), len(g.frame_end)
        return oracle.Layout(g.h, g.w, g.conditioning, g.prefix, self.padding, *ends)

    @property
    def rules(self):
        """(k, d, stand-in, repair)."""
        return self.decoding.resolve(self.grid, self.context)

    @property
    def new(self) -> np.ndarray:
        """Positions of the tokens to make, in raster order."""
        t, i, j = (x.ravel() for x in np.indices((self.frames, self.grid.h, self.grid.w)))
        return self.grid.position(self.context + t, i, j)

    @property
    def length(self) -> int:
        """Positions up to the last new token."""
        return int(self.new[-1]) + 1

    def known(self, sequence) -> dict[int, int]:
        """What a decoder may know of a sequence: everything but the new tokens."""
        hidden = set(self.new.tolist())
        return {p: int(token) for p, token in enumerate(sequence) if p not in hidden}

    def prompt(self, sequences: torch.Tensor) -> torch.Tensor:
        """The sequences [B, L] with 0 in place of the new tokens."""
        tokens = sequences.clone()
        tokens[:, torch.as_tensor(self.new)] = 0
        return tokens


WIDE = TransformerConfig(
    vocab=500, dim=128, layers=2, heads=4, kv_heads=2, head_dim=32, mlp_dim=256, qk_norm=True,
    positions=Positions(kind="rope-3d"),
)  # fmt: skip
WIDE_WORLD = World(
    Grid(6, 8, conditioning=1), context=2, frames=2, decoding=Decoding("diagd", k=2, d=5)
)


@st.composite
def grids(draw) -> Grid:
    h, w = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    rows, frames = draw(ends()), draw(ends())
    return Grid(h, w, draw(st.integers(0, 2)), draw(st.integers(0, 3)), rows, frames)


@st.composite
def ends(draw) -> tuple[int, ...]:
    """Ids of the end of a row or of a frame, which half of the time has none."""
    count = draw(st.sampled_from([0, 0, 1, 2]))
    return tuple(draw(st.integers(0, 5)) for _ in range(count))


@st.composite
def decodings(draw, grid: Grid) -> Decoding:
    method, k = draw(st.sampled_from(["diagd"] * 4 + list(METHODS))), draw(st.integers(1, grid.w))
    d = draw(st.integers(1, (grid.h - 1) * k + grid.w)) if method == "diagd" else 1
    return Decoding(method, k, d, draw(st.sampled_from(STAND_INS)), draw(st.booleans()))


@st.composite
def worlds(draw, frames: int = 3, padded: bool = True) -> World:
    grid = draw(grids())
    context, new = draw(st.integers(1, 2)), draw(st.integers(1, frames))
    padding = draw(st.integers(0, max(0, grid.prefix - 1))) if padded else 0
    return World(grid, context, new, draw(decodings(grid)), padding)


@st.composite
def positions(draw, kind: str, half: int) -> Positions:
    told = kind == "rope-1d" and draw(st.booleans())
    turns = tuple(1 / 2 ** (n + draw(st.integers(0, 2))) for n in range(half)) if told else ()
    base = draw(st.sampled_from([100.0, 10000.0]))
    prefix = draw(st.sampled_from(["turned", "zero"])) if kind != "learned" else "turned"
    return Positions(kind=kind, base=base, frequencies=turns, prefix=prefix)


@st.composite
def configs(draw, kinds=("rope-1d", "rope-2d", "rope-3d", "learned")) -> TransformerConfig:
    kind = draw(st.sampled_from(kinds))
    heads, tied, vocab = (
        draw(st.sampled_from([2, 4])),
        draw(st.booleans()),
        draw(st.integers(6, 16)),
    )
    # two channels are too few: a layer norm divides by their difference, which rounding may be most of
    half = draw(st.integers(3 if kind == "rope-3d" else 2, 6))
    half += half % 2 if kind == "rope-2d" else 0
    return TransformerConfig(
        vocab=vocab,
        outputs=0 if tied else draw(st.sampled_from([0, vocab - 2])),
        dim=draw(st.integers(8, 24)),
        layers=draw(st.integers(1, 2)),
        heads=heads,
        kv_heads=draw(st.sampled_from([g for g in (1, 2, 4) if heads % g == 0])),
        head_dim=2 * half + (kind == "learned" and draw(st.booleans())),
        mlp_dim=draw(st.integers(4, 24)),
        activation=draw(st.sampled_from(["swiglu", "gelu-tanh", "gelu"])),
        norm=draw(st.sampled_from(["rms", "layer"])),
        block_norm_affine=draw(st.booleans()),
        final_norm_affine=draw(st.booleans()),
        attention_scale=draw(st.sampled_from([0.0, 0.1, 0.6])),
        logit_scale=draw(st.sampled_from([1.0, 1 / 3, 2.0])),
        qk_norm=draw(st.booleans()),
        bias=draw(st.sampled_from([False, True, "qkv", "attention", "mlp"])),
        tied=tied,
        positions=draw(positions(kind, half)),
    )


def build_model(config: TransformerConfig, grid: Grid, frames: int, seed: int) -> Transformer:
    """A Transformer for `frames` frames (and a scratch position), with weights large enough that
    its choices vary.
    """
    model = Transformer(config, torch.from_numpy(grid.coords(grid.length(frames) + 1)), grid.prefix)
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        is_scale = p.ndim == 1 and name.endswith("weight")
        p.data.normal_(float(is_scale), 0.2 if p.ndim == 1 else 0.5, generator=generator)
    return model.eval().requires_grad_(False)


def reference(model: Transformer, world: World) -> oracle.Reference:
    """The same Transformer for the oracle."""
    return oracle.Reference(model.state_dict(), model.config.model_dump(), world.layout)


def random_sequences(
    world: World, config: TransformerConfig, seed: int, batch: int = 1
) -> torch.Tensor:
    """Token ids int64 [batch, length], new tokens included."""
    generator = torch.Generator().manual_seed(seed)
    sequences = torch.randint(config.logits, (batch, world.length), generator=generator)
    for position, token in known_ends(world, world.context + world.frames).items():
        if position < world.length:
            sequences[:, position] = token
    return sequences


def paddings(world: World, batch: int):
    """How much of the prefix is padding, of each of `batch` clips: never all of it."""
    return st.lists(st.integers(0, max(0, world.grid.prefix - 1)), min_size=batch, max_size=batch)


def known_ends(world: World, frames: int) -> dict[int, int]:
    """Position -> id of the ends of rows and frames."""
    grid, layout, found = world.grid, world.layout, {}
    for t in range(frames):
        for i in range(grid.h):
            last = grid.frame_end if i == grid.h - 1 else ()
            found |= zip(layout.ends(t, i), (*grid.row_end, *last), strict=True)
    return found


def run(model, plan, prompt, choose, chunk=512, cache=None, capture=False, padding=0):
    """Prefill and decode the prompt [B, L]; returns the filled-in tokens [B, L].

    padding: how many positions hold nothing, of all clips or [B] of each.
    """
    start = starts(padding, len(prompt))
    places = plan.length + capture  # where lanes without a feed write
    tokens = torch.nn.functional.pad(prompt, (0, places - prompt.shape[1]))
    cache = KVCache(model.config, len(tokens), places) if cache is None else cache
    prefill(model, cache, tokens, np.arange(plan.prefill), chunk=chunk, start=start)
    steps = decode(model, plan, cache, tokens, choose, capture=capture, start=start)
    assert list(steps) == list(range(1, plan.steps + 1))
    return tokens[:, : prompt.shape[1]]


def starts(padding, batch):
    """What the engine is told of positions that hold nothing."""
    start = np.broadcast_to(padding, batch)
    return torch.tensor(start)[:, None] if start.any() else None


def stepped_logits(model, world, truth, padding=0):
    """Logits [B, new tokens, vocab] of the engine's steps, whose choices are those of the truth [B,
    L]; `padding` as in `run`.
    """
    seen = {}

    def choose(logits, targets):
        seen.update(zip(targets.tolist(), logits.unbind(1), strict=True))
        return truth[:, targets]

    made = run(model, world.plan(), world.prompt(truth), choose, padding=padding)
    assert made.tolist() == truth.tolist()
    return torch.stack([seen[p] for p in world.new.tolist()], dim=1)


def slide(model, world, prompt, choose, window, sinks=0, capture=False, padding=None):
    """Decode the prompt [B, L] through a window that slides; what is chosen goes to `choose`.

    padding: as in `run`; None is the world's.
    """
    grid, decoding = world.grid, replace(world.decoding, window="slide", sinks=sinks)
    ring, wave = (
        ring_for(grid, decoding, window),
        wavefront(grid, world.context, world.frames, decoding),
    )
    places, known = ring.places + 1, torch.arange(grid.length(world.context) - grid.conditioning)
    tokens = torch.zeros(len(prompt), places, dtype=torch.int64)
    where, ids = map(torch.from_numpy, grid.ends(ring.places))
    tokens[:, where] = ids
    tokens[:, ring.slots(known)] = prompt[:, known]
    start = starts(world.padding if padding is None else padding, len(prompt))
    cache = model.new_cache(len(prompt), places)
    steps = Steps(model, cache, tokens, choose, ring=ring, start=start)

    def begin(latent):
        steering = torch.as_tensor(grid.conditioning_positions(world.context + latent - 1))
        tokens[:, ring.slots(steering)] = prompt[:, steering]

    with torch.inference_mode():
        steps.prefill(np.arange(wave.prefill))
    assert len(list(execute(runner(steps, capture), wave, begin))) == wave.steps


def sampler(model, seeds=(0,), temperature=0.0, padding=0):
    """Noise is that of the place behind so many positions that hold nothing."""
    choose = Sampler(Sampling(model.config.logits, temperature), list(seeds))
    choose.origin -= padding
    return choose


def careful(pick=oracle.greedy):
    """A pick that gives up on a draw that is too close to call."""

    def choose(logits, position):
        best = logits.topk(2).values
        assume(best[0] - best[1] > TIE)
        return pick(logits, position)

    return choose


def decided(test):
    """A test that gives up on an example in which a draw is too close to call: what is added up in
    another order may choose another token then.
    """
    draw = Sampler.scores

    def scores(self, logits, targets):
        values, ids = draw(self, logits, targets)
        best, next_best = values.topk(2).values.unbind(-1)
        assume(not (best - next_best <= TIE).any())
        return values, ids

    @wraps(test)
    def careful_test(*args, **kwargs):
        with patch.object(Sampler, "scores", scores):
            test(*args, **kwargs)

    return careful_test


def open_session(world, model, frames, seed=0, batch=1, temperature=0.0, **options):
    """A session over random prompts with random conditioning for `frames` frames."""
    grid, rng = world.grid, np.random.default_rng(seed)
    codes = rng.integers(0, model.config.logits, (batch, world.context, grid.h, grid.w))
    steering = rng.integers(0, model.config.vocab, (batch, frames, grid.conditioning))
    defaults = {
        "seeds": [seed + n for n in range(batch)],
        "sampling": Sampling(model.config.logits, temperature),
        "window": world.context + world.frames,
        "overlap": world.context,
        "prefix": np.full(grid.prefix, 1),
        "padding": world.padding,
    }
    return Session(model, grid, codes, steering, **(defaults | options))
