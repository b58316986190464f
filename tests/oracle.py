"""A slow reference for plans and engine, written from the specification; it shares no code with
`diagd_cli`.

No cache, no index arrays, no batch: dictionaries, one step after another, and one full forward pass
in float64 under an explicit mask for every question. Positions are flat; frames are counted from
the first prompt frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Layout:
    """prefix | frame 0: h rows of w codes, each with its end | frame end | conditioning | frame 1 | ...

    row_end, frame_end: numbers of tokens, which are known. The first `padding` positions of the
    prefix hold nothing: they are never given to the model.
    """

    h: int
    w: int
    conditioning: int = 0
    prefix: int = 0
    padding: int = 0
    row_end: int = 0
    frame_end: int = 0

    @property
    def block(self) -> int:
        return self.h * (self.w + self.row_end) + self.frame_end + self.conditioning

    def position(self, t: int, i: int, j: int) -> int:
        return self.prefix + t * self.block + i * (self.w + self.row_end) + j

    def ends(self, t: int, i: int) -> list[int]:
        """Positions of the end of row i of frame t; of the last row, with that of the frame."""
        count = self.row_end + (self.frame_end if i == self.h - 1 else 0)
        return [self.position(t, i, self.w) + a for a in range(count)]

    def steering(self, t: int) -> list[int]:
        """Positions of the conditioning tokens after frame t."""
        first = self.position(t + 1, 0, 0) - self.conditioning
        return [first + a for a in range(self.conditioning)]

    def before_row(self, t: int, i: int) -> list[int]:
        """Positions of the known tokens between row i of frame t and the code before it."""
        if i:
            return self.ends(t, i - 1)
        return self.ends(t - 1, self.h - 1) + self.steering(t - 1) if t else []

    def coordinates(self, position: int) -> tuple[int, int, int]:
        """(t, i, j); token a of the end of row i of frame t is (t, i, w + a), token a of what
        follows its rows (t, h, a), the prefix (0, 0, 0).
        """
        if position < self.prefix:
            return 0, 0, 0
        t, rest = divmod(position - self.prefix, self.block)
        for i in range(self.h):
            if rest < self.w + self.row_end:
                return t, i, rest
            rest -= self.w + self.row_end
        return t, self.h, rest

    def is_code(self, position: int) -> bool:
        _, i, j = self.coordinates(position)
        return position >= self.prefix and i < self.h and j < self.w

    def within(self, window: int, sinks: int = 0) -> Within:
        """A window that slides: what stands at b is seen from a if it is of the `window` newest
        frames there (a's own one included), of the first `sinks` frames, or of the prefix.
        """

        def frame(p):
            return (p - self.prefix) // self.block

        return lambda a, b: (frame(b) > frame(a) - window) | (frame(b) < sinks)


Within = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (positions a, positions b) -> bool


def everything(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.ones(np.broadcast_shapes(a.shape, b.shape), dtype=bool)


# ---- the Transformer -----------------------------------------------------------------------------

BIASED = {
    **{False: (), True: ("qkv", "out", "up", "down")},
    **{"qkv": ("qkv",), "attention": ("qkv", "out"), "mlp": ("up", "down")},
}


class Reference:
    """The Transformer of a state dict and a plain dict of hyper-parameters, in float64."""

    def __init__(self, state: dict, hyper: dict, layout: Layout):
        self.state = {name: tensor.double() for name, tensor in state.items()}
        self.hyper, self.layout = hyper, layout

    def __call__(
        self, tokens: list[int], positions: list[int], mask: np.ndarray, zeros=None
    ) -> torch.Tensor:
        """Logits [N, vocab] of N entries; mask[a, b]: entry a sees entry b. Positions may repeat.

        zeros [N]: how many slots each entry sees that hold nothing, whose keys and values are zero.
        """
        zeros = np.zeros(len(tokens)) if zeros is None else zeros
        with torch.no_grad():
            return self._forward(
                torch.tensor(tokens), positions, torch.as_tensor(mask), torch.as_tensor(zeros)
            )

    def _forward(self, tokens, positions, mask, zeros):
        x = self.state["embed.weight"][tokens]
        if self.hyper["positions"]["kind"] == "learned":
            x = x + self._learned(positions)
        for n in range(self.hyper["layers"]):
            block = f"blocks.{n}"
            x = x + self._attention(
                f"{block}.attention",
                self._norm(f"{block}.attention_norm", x),
                positions,
                mask,
                zeros,
            )
            x = x + self._mlp(f"{block}.mlp", self._norm(f"{block}.mlp_norm", x))
        head = self.state["embed.weight" if self.hyper["tied"] else "head.weight"]
        return self.hyper["logit_scale"] * self._norm("norm", x) @ head.T

    def _learned(self, positions):
        positions = [position - self.layout.padding for position in positions]
        if not (places := self.hyper["positions"]["places"]):
            return self.state["learned.weight"][positions]
        frames = [position // places for position in positions]
        cells = [position % places for position in positions]
        tables = (self.state[f"learned.{name}.weight"] for name in ("frames", "places"))
        return next(tables)[frames] + next(tables)[cells]

    def _linear(self, name, x):
        y = x @ self.state[f"{name}.weight"].T
        biased = BIASED[self.hyper["bias"]]
        return y + self.state[f"{name}.bias"] if name.split(".")[-1] in biased else y

    def _norm(self, name, x):
        if self.hyper["norm"] == "layer":
            x = x - x.mean(-1, keepdim=True)
        y = x / (x.pow(2).mean(-1, keepdim=True) + self.hyper["norm_eps"]).sqrt()
        y = y * self.state.get(f"{name}.weight", 1.0)
        return y + self.state.get(f"{name}.bias", 0.0)

    def _attention(self, name, x, positions, mask, zeros):
        n, h, g, size = len(x), self.hyper["heads"], self.hyper["kv_heads"], self.hyper["head_dim"]
        rows = self._linear(f"{name}.qkv", x)
        q = rows[:, : h * size].reshape(n, h, size)
        k = rows[:, h * size : (h + g) * size].reshape(n, g, size)
        v = rows[:, (h + g) * size :].reshape(n, g, size)
        if self.hyper["qk_norm"]:
            q, k = self._norm(f"{name}.q_norm", q), self._norm(f"{name}.k_norm", k)
        if self.hyper["positions"]["kind"] != "learned":
            angles = self._angles(positions)
            q, k = turn(q, angles), turn(k, angles)
            if self.hyper["positions"]["prefix"] == "zero":
                there = torch.tensor([p >= self.layout.prefix for p in positions])[:, None, None]
                q, k = q * there, k * there
        k, v = (y.repeat_interleave(h // g, dim=1) for y in (k, v))
        scores = torch.einsum("ahc,bhc->hab", q, k)
        scores = scores * (self.hyper["attention_scale"] or 1 / math.sqrt(size))
        scores = scores.masked_fill(~mask, -math.inf)
        weights = (scores - scores.amax(-1, keepdim=True)).exp()
        nothing = zeros * (-scores.amax(-1)).exp()  # a score of 0 each, and a value of 0
        weights = weights / (weights.sum(-1) + nothing)[..., None]
        return self._linear(
            f"{name}.out", torch.einsum("hab,bhc->ahc", weights, v).reshape(n, h * size)
        )

    def _angles(self, positions):
        """Rotary angles [N, head_dim / 2]."""
        size, base = self.hyper["head_dim"], self.hyper["positions"]["base"]
        if self.hyper["positions"]["kind"] == "rope-1d":
            positions = [position - self.layout.padding for position in positions]
        if own := self.hyper["positions"]["frequencies"]:
            return torch.outer(torch.tensor(positions).double(), torch.tensor(own).double())
        if self.hyper["positions"]["kind"] == "rope-1d":
            parts = [(size, positions)]
        elif self.hyper["positions"]["kind"] == "rope-2d":
            _, i, j = zip(*(self.layout.coordinates(p) for p in positions), strict=True)
            parts = [(size // 2, i), (size // 2, j)]
        else:
            space = 2 * (size // 6)
            t, i, j = zip(*(self.layout.coordinates(p) for p in positions), strict=True)
            parts = [(size - 2 * space, t), (space, i), (space, j)]
        columns = [
            torch.tensor(axis, dtype=torch.float64) * base ** (-2 * c / width)
            for width, axis in parts
            for c in range(width // 2)
        ]
        return torch.stack(columns, dim=1)

    def _mlp(self, name, x):
        y = self._linear(f"{name}.up", x)
        if self.hyper["activation"] == "swiglu":
            gate, up = y[:, : self.hyper["mlp_dim"]], y[:, self.hyper["mlp_dim"] :]
            y = gate / (1 + (-gate).exp()) * up
        elif self.hyper["activation"] == "gelu":
            y = 0.5 * y * (1 + torch.erf(y / math.sqrt(2)))
        else:
            y = 0.5 * y * (1 + (math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)).tanh())
        return self._linear(f"{name}.down", y)


def turn(x, angles):
    """Half-split rotation of x [N, H, D] by angles [N, D/2]."""
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    a, b = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


# ---- next-token decoding -------------------------------------------------------------------------

Pick = Callable[[torch.Tensor, int], int]  # (logits [vocab], position of the new token) -> token


def greedy(logits: torch.Tensor, position: int) -> int:
    return int(logits.argmax())


def next_token_decode(
    reference: Reference,
    tokens: dict[int, int],
    context: int,
    frames: int,
    pick: Pick = greedy,
    within: Within = everything,
):
    """Fill in the codes of `frames` frames after `context`, in raster order, recomputing everything
    for each.
    """
    layout = reference.layout
    for t in range(context, context + frames):
        for i in range(layout.h):
            for j in range(layout.w):
                p = layout.position(t, i, j)
                places = np.arange(layout.padding, p)
                mask = np.tri(len(places), dtype=bool) & within(places[:, None], places)
                logits = reference([tokens[q] for q in places], places.tolist(), mask)
                tokens[p] = pick(logits[-1], p)


# ---- Diagonal Decoding ---------------------------------------------------------------------------


@dataclass
class Entry:
    """A token given to the model: `token` (that of position `source`) at `position`, at `step`;
    `expires` when overwritten.
    """

    token: int
    source: int
    position: int
    step: int
    target: int | None = None
    expires: float = math.inf


# (entries so far, which of them predict) -> new tokens
Choose = Callable[[list[Entry], list[int]], list[int]]


def visible(entries: list[Entry], within: Within = everything) -> np.ndarray:
    """mask[a, b]: b stands at or before a, was given no later than a, and had not been overwritten
    by then.
    """
    position, step, expires = np.array([(e.position, e.step, e.expires) for e in entries]).T
    seen = (position <= position[:, None]) & (step <= step[:, None]) & (step[:, None] < expires)
    return seen & within(position[:, None], position)


def entry_logits(
    reference: Reference,
    entries: list[Entry],
    zero_slots: bool = False,
    within: Within = everything,
) -> torch.Tensor:
    """Logits [N, vocab] of all entries by one full pass; with zero_slots, empty slots before an
    entry are seen as zeros.
    """
    mask, zeros = visible(entries, within), None
    # of the slots at and before an entry, each holds one entry that it sees, or nothing
    if zero_slots:
        places = np.arange(reference.layout.padding, max(e.position for e in entries) + 1)
        asked = np.array([e.position for e in entries])[:, None]
        zeros = ((places <= asked) & within(asked, places)).sum(1) - mask.sum(1)
    return reference([e.token for e in entries], [e.position for e in entries], mask, zeros)


def free_running(reference: Reference, pick: Pick = greedy, within: Within = everything) -> Choose:
    """Every token is picked from the logits of a full pass over everything given so far."""

    def choose(entries, asked):
        logits = entry_logits(reference, entries, within=within)
        return [pick(logits[n], entries[n].target) for n in asked]

    return choose


def forced(truth) -> Choose:
    """The tokens of a given sequence, whatever the model says."""
    return lambda entries, asked: [int(truth[entries[n].target]) for n in asked]


def walk(
    layout: Layout,
    context: int,
    frames: int,
    rules: tuple[int, int, str, bool],
    tokens: dict[int, int],
    choose: Choose,
    entries: list[Entry] | None = None,
    stop: float = math.inf,
) -> list[Entry]:
    """Decode `frames` frames after `context` by rules = (k, d, stand-in, repair); returns
    everything given to the model.

    `tokens`, position -> token, holds what is known and is filled in. `entries` continues an
    earlier walk. The prompt is given at the step before the first, which is step 0 unless a walk is
    continued. After `stop` steps it is broken off.
    """
    k, d, stand_in, repair = rules
    first = entries[-1].step + 2 if entries else 0
    entries = entries or []
    goal = layout.position(context, 0, 0)
    opening = layout.before_row(context, 0) or [goal - 1]  # what rule 3 will feed
    given = {e.position for e in entries if e.expires == math.inf}
    entries += [
        Entry(tokens[p], p, p, first - 1)
        for p in range(layout.padding, goal)
        if p not in given and p not in opening
    ]

    due: dict[int, list] = {}
    for t in range(frames):
        for i in range(layout.h):
            for j in range(layout.w):
                due.setdefault(t * d + i * k + j, []).append((context + t, i, j))

    # positions: of new tokens, fed with their own token, holding a stand-in
    made, true, covered = [], set(), set()
    early: dict[int, int] = {}  # position of an end -> of the code that it was fed without
    for step in sorted(due):
        if step >= stop:
            break
        feeds = []  # (source, position, target)
        for t, i, j in due[step]:
            goal = layout.position(t, i, j)
            if j == 0 and (ahead := layout.before_row(t, i)):
                *quiet, last = ahead
                feeds += [(p, p, None) for p in quiet] + [(last, last, goal)]
                missing = layout.position(
                    *((t, i - 1) if i else (t - 1, layout.h - 1)), layout.w - 1
                )
                steering = layout.steering(t - 1) if not i else []
                if missing not in tokens and repair:
                    early |= {p: missing for p in ahead if p not in steering}
            elif goal - 1 in tokens:
                feeds.append((goal - 1, goal - 1, goal))
            else:
                feeds.append((stand_in_for(stand_in, layout, t, i, tokens), goal - 1, goal))
                covered.add(goal - 1)
        true |= {position for source, position, _ in feeds if source == position}
        late = [p for p in made if p not in true and (repair or p not in covered)]
        true.update(late)
        feeds += [(p, p, None) for p in late]
        again = [p for p, missing in early.items() if missing in tokens]
        feeds += [(p, p, None) for p in again]
        early = {p: missing for p, missing in early.items() if p not in again}

        for old in entries:
            if old.position in {position for _, position, _ in feeds}:
                old.expires = min(old.expires, first + step)
        entries += [
            Entry(tokens[source], source, position, first + step, target)
            for source, position, target in feeds
        ]
        asked = [
            n for n, e in enumerate(entries) if e.step == first + step and e.target is not None
        ]
        for n, token in zip(asked, choose(entries, asked), strict=True):
            tokens[entries[n].target] = token
            made.append(entries[n].target)
    return entries


def drop(entries: list[Entry], end: int, repair: bool) -> list[Entry]:
    """What is left of a walk that was broken off, of the positions before `end`: what stood in for
    a token that is known by now is to be given anew.
    """
    left = [e for e in entries if e.position < end]
    for e in left:
        if repair and e.source != e.position and e.expires == math.inf:
            e.expires = left[-1].step + 1
    return left


def stand_in_for(policy: str, layout: Layout, t: int, i: int, tokens: dict[int, int]) -> int:
    """Position of the token fed in place of the missing predecessor of (t, i, 0).

    Where the rule points at a token that does not exist, the newest earlier frame that has that
    place is taken.
    """
    f, row = (t, i - 1) if i else (t - 1, layout.h - 1)  # of the missing token (f, row, w-1)
    last = layout.w - 1
    candidates = {
        "previous-frame": [(g, row, last) for g in range(f - 1, -1, -1)],
        "previous-frame-target": [(g, i, 0) for g in range(t - 1, -1, -1)],
        "prompt-frame": [(0, row, last)],
        "above": [(g, row, 0) for g in range(f, -1, -1)],
        "newest": [(g, row, j) for g in range(f, -1, -1) for j in range(last, -1, -1)],
    }[policy]
    return next(p for p in (layout.position(*place) for place in candidates) if p in tokens)
