"""One step of a plan on the device: gather what is fed, forward, choose, scatter; no host work."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diagd_cli.engine.chunk import chunk_on
from diagd_cli.engine.ring import NEVER, Ring
from diagd_cli.model.contract import Cache, Cross, Model
from diagd_cli.model.mask import CAUSAL, Mask
from diagd_cli.schedule.plan import Plan
from diagd_cli.schedule.wavefront import Wavefront
from diagd_cli.tokens.grid import Grid

Choose = Callable[[Tensor, Tensor], Tensor]

BLOCK = 512  # slots that PyTorch's attention on a CPU adds up together
ALIGNMENT = 16  # slots: masks of other lengths are copied by some attention kernels, in every layer
QUEUE_LENGTH = 8  # steps that may be queued
# lengths of cache that graphs are captured for: few, as a capture takes as long as several steps
EXTENT_CLASSES = 4


class Steps:
    """The steps of any plan on one cache and token store; `load` says of which.

    model: what predicts.
    cache: of `model.new_cache`, with as many slots as the store has places.
    tokens: int64 [B, places], the store from which is fed and in which new tokens are put.
    choose: of logits [B, n, vocab] and targets int64 [n], where they go, makes ids int64 [B, n].
    cross: what the model attends to of a text.
    ring: where positions lie in cache and store; None is at slot = position.
    start: int64 [B, 1], the first position of each clip that is no padding; None is 0.
    """

    def __init__(
        self,
        model: Model,
        cache: Cache,
        tokens: Tensor,
        choose: Choose,
        cross: Cross = None,
        ring: Ring | None = None,
        start: Tensor | None = None,
    ):
        self.model, self.cache, self.tokens = model, cache, tokens
        self.choose, self.cross, self.start = choose, cross, start
        self.padded: dict[str, Any] = {} if start is None else {"start": start}
        self.ring = ring or Ring(Grid(1, 1), tokens.shape[1])
        self.device = tokens.device
        self.lanes = torch.arange(tokens.shape[1], device=self.device)
        self.held = torch.full_like(self.lanes, NEVER)  # the position that each slot holds

    def prefill(self, positions: np.ndarray, chunk: int = 0) -> None:
        """Feed known tokens, some at a time; no logits are made of them.

        positions: int64 [n], ascending, no more than there is room for.
        chunk: tokens that are fed together; 0 is what suits the device (`chunk_on`).
        """
        chunk = chunk or chunk_on(self.device)
        for part in np.array_split(positions, -(-len(positions) // chunk) or 1):
            if len(part):
                index = torch.as_tensor(part, device=self.device)
                end, slots = int(part[-1]) + 1, self.ring.slots(index)
                self.held.index_copy_(0, slots, index)
                extent = self.ring.extent(end)
                # from the first on, as far as a window reaches: the kernel needs no matrix
                causal = self.start is None and end == len(part) and self.ring.sees_all(end)
                mask = CAUSAL if causal else self._mask(index, extent)
                fed = self.tokens[:, slots], index, mask, self.cache, extent
                self.model(*fed, outputs=0, cross=self.cross, slots=slots, **self.padded)

    def forget(self, positions: int) -> None:
        """Let slots hold nothing that does not lie before so many positions."""
        self.held.masked_fill_(self.held >= positions, NEVER)

    def load(self, wave: Wavefront) -> None:
        """Make these the steps of `wave`: its arrays go to the device."""
        plan, self.wave = wave.plan, wave
        feeds = np.stack([plan.source, plan.position, plan.target])
        self.feeds = torch.as_tensor(feeds, device=self.device)
        self.moves = torch.as_tensor(wave.moves * plan.grid.block, device=self.device)
        self.starts, self.outputs = plan.starts.tolist(), plan.outputs.tolist()
        self.extents = plan.extents.tolist()

    def begin(self, latent: int) -> None:
        """A new latent frame, of that number, is about to be made."""
        if not self.wave.plan.decoding.zero_slots:
            return
        grid, empty = self.wave.plan.grid, torch.zeros_like(self.held, dtype=torch.bool)
        first, last = (grid.length(self.wave.context + latent + n) for n in range(2))
        positions = torch.arange(first, last - grid.tail, device=self.device)
        slots = self.ring.slots(positions)
        self.cache.clear(empty.index_fill_(0, slots, True))
        self.held.index_copy_(0, slots, positions)

    def extent(self, step: int) -> int:
        """Slots of the cache that a step of the plan reads."""
        row, later = self.wave.at(step)
        plan = self.wave.plan
        extent = self.ring.extent(self.extents[row] + later * plan.grid.block)
        return self.whole(extent) if plan.decoding.method == "ntp" else extent

    def whole(self, extent: int) -> int:
        """`extent` up to the end of its block, as next-token prediction reads it, and what checks
        guesses: sums over other slots, though nobody sees them, are rounded in another way.
        """
        if self.device.type != "cpu":
            return extent
        return min(-(-extent // BLOCK) * BLOCK, len(self.lanes))

    def captured_extent(self, extent: int) -> int:
        """Slots that a graph reads where a step needs so many: one of a few numbers."""
        places = len(self.lanes)
        block = -(-places // (ALIGNMENT * EXTENT_CLASSES)) * ALIGNMENT
        return min(-(-extent // block) * block, places)

    def __call__(self, step: int) -> None:
        """Do a step."""
        row, later = self.wave.at(step)
        part = slice(self.starts[row], self.starts[row + 1])
        feeds = self.feeds[:, part]
        if later:
            feeds = feeds.add(self.moves[:, part], alpha=later)
        source, position, target = feeds
        self.advance(source, position, target[: self.outputs[row]], self.extent(step))

    def advance(
        self,
        source: Tensor,
        position: Tensor,
        target: Tensor,
        extent: int,
        idle: Tensor | None = None,
    ) -> None:
        """Feed tokens, and put what the first of them give where it belongs.

        source: int64 [n], or [B, n] where clips differ, as below: whose tokens they are.
        position: int64 [n], where they stand.
        target: int64 [<= n], where the new tokens go; -1, for none, where there is `idle`.
        extent: slots of the cache that are read.
        idle: bool [n], lanes that feed nothing; they, and the targets that are -1, write to the
            last place. None is none, where every target is one.
        """
        slots, places = self.ring.slots(position), self.ring.slots(target)
        spare = len(self.lanes) - 1
        if idle is not None:
            slots = slots.masked_fill(idle, spare)
            places = places.masked_fill(target < 0, spare)
        put(self.held, slots, position)
        if idle is not None:
            self.held[..., spare:].fill_(NEVER)
        logits = self.model(
            take(self.tokens, self.ring.slots(source)),
            position,
            self._mask(position, extent),
            self.cache,
            extent,
            outputs=target.shape[-1],
            cross=self.cross,
            slots=slots,
            **self.padded,
        )
        put(self.tokens, places, self.choose(logits, target))

    def _mask(self, positions: Tensor, extent: int) -> Mask:
        span = self.ring.span(self.held[..., :extent], positions, self.start)
        reads = getattr(self.model, "reads_spans", False)
        return Mask(span=span) if reads else Mask(visible=span.visible())


class Replay:
    """Steps of one width as CUDA graphs that are replayed: the host copies a row, and says go.

    Every graph reads the indices of its step from a row that stays in place, as do cache, store and
    what `steps` holds besides: a graph serves every plan with steps of its width and extent. The
    first such step runs as it is, which warms its kernels up, and is then captured for those after
    it. Without CUDA a graph is the step itself: the same arithmetic, for tests.

    steps: whose cache and store have one place more than the ring, where lanes without a feed
        write.

    `seconds` is what the steps that were captured have taken, captures included.
    """

    def __init__(self, steps: Steps):
        self.steps, self.device = steps, steps.device
        self.rows: dict[int, Tensor] = {}  # by width: int64 [3 * width + 1]
        self.graphs: dict[tuple[int, int], Callable[[], None]] = {}  # by width and extent
        self.pool = torch.cuda.graph_pool_handle() if self.device.type == "cuda" else None
        self.seconds = 0.0

    def load(self, wave: Wavefront) -> None:
        """Make these the steps of `wave`."""
        self.steps.load(wave)
        plan, steps = wave.plan, wave.steps
        self.last, self.width = math.inf if steps is None else steps - 1, int(plan.widths.max())
        arrays = np.stack([plan.source, plan.position, plan.target])
        rows = np.concatenate([lanes(plan, arrays, -1), plan.widths[:, None]], axis=1)
        moves = lanes(plan, wave.moves * plan.grid.block, 0)
        self.plan_rows = torch.as_tensor(rows, device=self.device)
        self.moves = torch.as_tensor(np.pad(moves, ((0, 0), (0, 1))), device=self.device)
        if self.width not in self.rows:
            self.rows[self.width] = torch.empty_like(self.plan_rows[0])

    def begin(self, latent: int) -> None:
        """A new latent frame, of that number, is about to be made."""
        self.steps.begin(latent)

    def __call__(self, step: int) -> None:
        """Do a step."""
        width, row, (number, later) = self.width, self.rows[self.width], self.steps.wave.at(step)
        extent = self.steps.captured_extent(self.steps.extent(step))
        torch.add(self.plan_rows[number], self.moves[number], alpha=later, out=row)
        if (width, extent) in self.graphs:
            self.graphs[width, extent]()
            return

        def body() -> None:
            source, position, target = row[:-1].view(3, width).unbind()
            idle = self.steps.lanes[:width] >= row[-1:]
            self.steps.advance(source, position, target, extent, idle)

        started = time.perf_counter()
        body()
        if step < self.last:
            self.graphs[width, extent] = capture(body, self.pool)
        self.seconds += time.perf_counter() - started


def take(store: Tensor, slots: Tensor) -> Tensor:
    """What lies at slots int64 [n], or [B, n], of a store int64 [B, S]: int64 [B, n]."""
    return store[:, slots] if slots.ndim == 1 else store.gather(1, slots)


def put(store: Tensor, slots: Tensor, values: Tensor) -> None:
    """Write values int64 [..., n] at slots int64 [n], or [B, n], of a store int64 [..., S]."""
    if slots.ndim == 1:
        store.index_copy_(-1, slots, values)
    else:
        store.scatter_(-1, slots, values)


def lanes(plan: Plan, columns: np.ndarray, nowhere: int) -> np.ndarray:
    """Values of each feed int64 [3, feeds] as a row a step, all equally wide: int64 [steps, 3 *
    width].

    Lanes to spare stand where the first one of the step stands, and what they make goes `nowhere`.
    """
    width = int(plan.widths.max())
    lane = np.arange(len(plan.source)) - plan.starts[plan.step_of_feed]
    rows = np.repeat(columns[:, plan.starts[:-1], None], width, axis=2)
    rows[2] = nowhere
    rows[:, plan.step_of_feed, lane] = columns
    return rows.transpose(1, 0, 2).reshape(plan.steps, 3 * width)


def capture(body: Callable[[], None], pool: Any) -> Callable[[], None]:
    """What does again what `body` does on the device: a CUDA graph, or without a pool `body`."""
    if pool is None:
        return body
    graph = torch.cuda.CUDAGraph()
    # other threads (pixels that are decoded meanwhile) may allocate during the capture
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        body()
    return graph.replay


class Pace:
    """Lets the host queue a few steps on CUDA and no more.

    Progress then tells what is done, and Ctrl-C is heard soon.
    """

    def __init__(self, device: torch.device):
        self.queued: deque[torch.cuda.Event] | None = deque() if device.type == "cuda" else None

    def __call__(self) -> None:
        """After a step: wait until the one `QUEUE_LENGTH` steps before it is done."""
        if self.queued is None:
            return
        self.queued.append(torch.cuda.Event())
        self.queued[-1].record()
        if len(self.queued) > QUEUE_LENGTH:
            self.queued.popleft().synchronize()
