"""One step of a plan on the device: gather what is fed, forward, choose, scatter; no host work."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diagd_cli.model.contract import Cache, Cross, Model
from diagd_cli.model.mask import Mask
from diagd_cli.schedule.plan import Plan

Choose = Callable[[Tensor, Tensor], Tensor]

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
    """

    def __init__(
        self,
        model: Model,
        cache: Cache,
        tokens: Tensor,
        choose: Choose,
        cross: Cross = None,
    ):
        self.model, self.cache, self.tokens = model, cache, tokens
        self.choose, self.cross = choose, cross
        self.device = tokens.device
        self.slots = torch.arange(tokens.shape[1], device=self.device)
        self.visible_from = torch.zeros_like(self.slots)

    def load(self, plan: Plan) -> None:
        """Make these the steps of `plan`, no longer than the store: its arrays go to the device."""
        self.source = torch.as_tensor(plan.source, device=self.device)
        self.position = torch.as_tensor(plan.position, device=self.device)
        self.target = torch.as_tensor(plan.target, device=self.device)
        self.set_visibility(plan)
        self.starts, self.outputs = plan.starts.tolist(), plan.outputs.tolist()
        self.extents = plan.extents.tolist()

    def set_visibility(self, plan: Plan) -> None:
        """Let queries see what those of `plan` may; slots past its end are past their positions."""
        self.visible_from[: plan.length].copy_(torch.from_numpy(plan.visible_from))

    def __call__(self, step: int) -> None:
        """Do a step."""
        start, end = self.starts[step], self.starts[step + 1]
        source, position = self.source[start:end], self.position[start:end]
        target = self.target[start : start + self.outputs[step]]
        self.advance(step, source, position, target, self.extents[step])

    def advance(
        self,
        step: int | Tensor,
        source: Tensor,
        position: Tensor,
        target: Tensor,
        extent: int,
    ) -> None:
        """Feed tokens, and put what the first of them give where it belongs.

        step: number of the step; a tensor int64 [1] where a graph is captured.
        source: int64 [n], where the tokens are in the store.
        position: int64 [n], where they stand.
        target: int64 [<= n], where the new tokens go.
        extent: slots of the cache that are read.
        """
        written = self.visible_from[:extent] <= step
        mask = (self.slots[:extent] <= position[:, None]) & written
        logits = self.model(
            self.tokens[:, source],
            position,
            Mask(visible=mask),
            self.cache,
            extent,
            outputs=len(target),
            cross=self.cross,
        )
        self.tokens.index_copy_(1, target, self.choose(logits, target))


class Replay:
    """Steps of one width as CUDA graphs that are replayed: the host copies a row, and says go.

    Every graph reads the indices of its step from a row that stays in place, as do cache, store and
    what `steps` holds besides: a graph serves every plan with steps of its width and extent. The
    first such step runs as it is, which warms its kernels up, and is then captured for those after
    it. Without CUDA a graph is the step itself: the same arithmetic, for tests.

    steps: whose cache and store have one place more than any plan, where padded lanes write.
    """

    def __init__(self, steps: Steps):
        self.steps, self.device, places = steps, steps.device, len(steps.slots)
        self.block = -(-places // (ALIGNMENT * EXTENT_CLASSES)) * ALIGNMENT
        self.rows: dict[int, Tensor] = {}  # by width: int64 [3 * width + 1]
        self.graphs: dict[tuple[int, int], Callable[[], None]] = {}  # by width and extent
        self.pool = torch.cuda.graph_pool_handle() if self.device.type == "cuda" else None

    def load(self, plan: Plan) -> None:
        """Make these the steps of `plan`, shorter than the store."""
        padded = plan.padded()
        self.last, self.width = plan.steps - 1, int(padded.outputs[0])
        # those before padding: nobody needs to read the slot where padded lanes write
        places = len(self.steps.slots)
        extents = -(-plan.extents // self.block) * self.block
        self.extents = np.minimum(extents, places).tolist()

        self.steps.set_visibility(padded)
        arrays = (padded.source, padded.position, padded.target)
        columns = [a.reshape(plan.steps, self.width) for a in arrays]
        rows = np.concatenate([*columns, np.arange(plan.steps)[:, None]], axis=1)
        self.plan_rows = torch.as_tensor(rows, device=self.device)
        if self.width not in self.rows:
            self.rows[self.width] = torch.empty_like(self.plan_rows[0])

    def __call__(self, step: int) -> None:
        """Do a step."""
        width, extent = self.width, self.extents[step]
        row = self.rows[width].copy_(self.plan_rows[step])
        if (width, extent) in self.graphs:
            self.graphs[width, extent]()
            return

        def body() -> None:
            source, position, target = row[:-1].view(3, width).unbind()
            self.steps.advance(row[-1:], source, position, target, extent)

        body()
        if step < self.last:
            self.graphs[width, extent] = capture(body, self.pool)


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
