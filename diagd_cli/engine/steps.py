"""One step of a plan on the device: gather what is fed, forward, choose, scatter. Nothing is read back to the host."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from diagd_cli.model.cache import KVCache
from diagd_cli.model.transformer import Transformer
from diagd_cli.schedule.plan import Plan

Choose = Callable[[Tensor, Tensor], Tensor]
Cross = list[tuple[Tensor, Tensor]] | None

ALIGNED = 16  # slots: masks of other lengths are copied by some attention kernels, in every layer
AHEAD = 8  # steps that may be queued
EXTENTS = 4  # lengths of cache that graphs are captured for: few, as capturing one takes as long as several steps


class Steps:
    """The steps of a plan, its index arrays on the device."""

    def __init__(
        self, model: Transformer, plan: Plan, cache: KVCache, tokens: Tensor, choose: Choose, cross: Cross = None
    ):
        self.model, self.plan, self.cache, self.tokens = model, plan, cache, tokens
        self.choose, self.cross = choose, cross
        self.source, self.position, self.target, self.visible_from = (
            torch.as_tensor(a, device=tokens.device)
            for a in (plan.source, plan.position, plan.target, plan.visible_from)
        )
        self.slots = torch.arange(plan.length, device=tokens.device)
        self.starts, self.heads, self.extents = plan.starts.tolist(), plan.heads.tolist(), plan.extents.tolist()

    def __call__(self, step: int) -> None:
        """Do a step."""
        start, end = self.starts[step], self.starts[step + 1]
        made = slice(start, start + self.heads[step])
        self.advance(step, self.source[start:end], self.position[start:end], self.target[made], self.extents[step])

    def advance(self, step: int | Tensor, source: Tensor, position: Tensor, target: Tensor, extent: int) -> None:
        """Feed tokens int64 [n] from `source` at `position`, and put what the first of them give at `target` [<= n]."""
        mask = (self.slots[:extent] <= position[:, None]) & (self.visible_from[:extent] <= step)
        fed = self.tokens[:, source]
        logits = self.model(fed, position, mask, self.cache, extent, outputs=len(target), cross=self.cross)
        self.tokens.index_copy_(1, target, self.choose(logits, target))


class Replay:
    """Steps of one width as CUDA graphs that are replayed: the host only says go, and a counter on the device goes on.

    The first step that needs a longer cache runs as it is, which warms its kernels up, and is then captured for the
    steps after it. Without CUDA every step runs as it is: the same arithmetic, for tests. `extents`: those of the plan
    before it was padded, whose scratch slot no one needs to read.
    """

    def __init__(self, steps: Steps, extents: list[int]):
        self.steps, self.extents, plan = steps, extents, steps.plan
        shape = plan.steps, -1
        self.arrays = [array.view(shape) for array in (steps.source, steps.position, steps.target)]
        self.step = torch.zeros(1, dtype=torch.int64, device=steps.tokens.device)
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self.pool = torch.cuda.graph_pool_handle() if steps.tokens.is_cuda else None
        self.block = -(-plan.length // (ALIGNED * EXTENTS)) * ALIGNED

    def __call__(self, step: int) -> None:
        """Do the next step; they must come in order."""
        extent = min(-(-self.extents[step] // self.block) * self.block, self.steps.plan.length)
        if extent in self.graphs:
            self.graphs[extent].replay()
            return
        self._body(extent)
        if self.pool is not None and step + 1 < self.steps.plan.steps:
            self.graphs[extent] = torch.cuda.CUDAGraph()
            # other threads (pixels that are decoded meanwhile) may allocate during the capture
            with torch.cuda.graph(self.graphs[extent], pool=self.pool, capture_error_mode="thread_local"):
                self._body(extent)

    def _body(self, extent: int) -> None:
        source, position, target = (array.index_select(0, self.step)[0] for array in self.arrays)
        self.steps.advance(self.step, source, position, target, extent)
        self.step += 1


class Pace:
    """Lets the host queue a few steps on CUDA and no more: progress then tells what is done, and Ctrl-C is heard soon."""

    def __init__(self, device: torch.device):
        self.queued: deque[torch.cuda.Event] | None = deque() if device.type == "cuda" else None

    def __call__(self) -> None:
        """After a step: wait until the one `AHEAD` steps before it is done."""
        if self.queued is None:
            return
        self.queued.append(torch.cuda.Event())
        self.queued[-1].record()
        if len(self.queued) > AHEAD:
            self.queued.popleft().synchronize()
