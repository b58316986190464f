"""Next-token prediction's own tokens in fewer passes: guesses are checked, and the right ones kept.

The noise of a token belongs to its place, so next-token prediction makes the one sequence in which
every token is what the model and that noise choose after all tokens before it. A pass feeds a
window of guesses that begins with the newest true token, and chooses what each place should be
after them. As long as a choice is what had been guessed, the next choice was made after true tokens
alone, and is true; the first one that differs is true as well, and what follows it are the next
guesses (Jacobi iteration).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from diagd_cli.engine.ring import AHEAD, NEVER
from diagd_cli.engine.sample import mix
from diagd_cli.engine.steps import QUEUE_LENGTH, Steps, capture, put, take
from diagd_cli.schedule.decoding import IN_A_ROW
from diagd_cli.schedule.wavefront import Wavefront
from diagd_cli.tokens.grid import Grid

NO_END = 1 << 62


class Exact:
    """Passes over guesses, on the cache and the token store of `steps`; each clip at its own pace.

    A pass feeds the first places after the newest true token, one after another, for only what has
    been fed without a gap can prove to be true. It also feeds places further on, up to one latent
    frame, where something near has changed since they were last fed: guesses that are out of date
    would have to be mended one pass after another once the front is there.

    steps: whose cache and store have one place more than the ring, where lanes without a feed
        write.
    width: tokens that are fed in a pass at most.
    row: how many of them, the first ones, follow one another; 0 is what has proved good.
    codes: ids of which the first guesses are drawn; 0: they are those of the frame before.
    captured: whether passes are captured as CUDA graphs; None is where they can be.

    `passes` is how many there have been, and `fed` int64 [B, 1] how many tokens of each clip were
    fed in them, since `execute` began.
    """

    def __init__(
        self,
        steps: Steps,
        width: int,
        row: int = 0,
        codes: int = 0,
        captured: bool | None = None,
    ):
        self.steps, self.device, batch = steps, steps.device, len(steps.tokens)
        self.captured = steps.tokens.is_cuda if captured is None else captured
        self.pool = torch.cuda.graph_pool_handle() if steps.tokens.is_cuda else None
        self.graphs: dict[int, Callable[[], None]] = {}  # by extent
        self.grid = grid = steps.ring.grid
        self.width, self.drawn_of = min(width, grid.block), codes
        self.row = min(row or max(1, round(width * IN_A_ROW)), self.width)
        self.ahead = torch.arange(grid.block, device=self.device)
        # what feeds the places beside and below a token, whose output it changes most
        near = 0, 1, grid.stride - 2, grid.stride - 1, grid.stride
        self.near = torch.tensor(near, device=self.device)
        self.held = steps.held.repeat(batch, 1)  # clips differ in what their slots hold
        self.stale = torch.zeros_like(self.held, dtype=torch.bool)
        self.front = self.held.new_zeros(batch, 1)  # the newest position whose token is true
        self.guessed = torch.zeros_like(self.front)  # the newest one that holds a guess
        self.limit = torch.zeros_like(self.front)  # the last one that may be made
        self.fed = torch.zeros_like(self.front)
        self.passes = 0

    def execute(
        self, wave: Wavefront, begin: Callable[[int], None], late: bool = False
    ) -> Iterator[int]:
        """Make what next-token prediction makes, yielding how many of its steps are done with for
        all clips.

        wave: its steps.
        begin: is called with the number of each new latent frame, from 0, before anything of it is
            fed: what steers it must lie in the store then.
        late: call it no sooner than the window of guesses gets there.
        """
        grid, ring, latents = wave.plan.grid, self.steps.ring, wave.latents
        begun, reach = 0, AHEAD * grid.block if ring.turns else NO_END
        reach = max(self.row, grid.tail + 1) if late else reach
        seen = self._load(wave)
        end = NO_END if latents is None else end_of(grid, wave.context + latents)
        try:
            while seen.slowest < end:
                while (
                    begun != latents and end_of(grid, wave.context + begun) < seen.slowest + reach
                ):
                    begin(begun)
                    begun += 1
                limit = end_of(grid, wave.context + begun)
                with torch.inference_mode():
                    self.limit.fill_(limit)
                    self(min(limit, seen.newest(self.width) + grid.block))
                    seen.look()
                yield made(grid, wave.context, seen.slowest)
        finally:
            self._leave()

    @torch.inference_mode()
    def _load(self, wave: Wavefront) -> Fronts:
        """Begin after what has been fed of a prompt."""
        self.shared, self.passes = self.steps.held, 0
        self.steps.held = self.held.copy_(self.shared.expand_as(self.held))
        for where in (self.front, self.guessed):
            where.fill_(wave.prefill)
        self.fed.zero_()
        return Fronts(self.front)

    @torch.inference_mode()
    def _leave(self) -> None:
        """Let the steps hold what all clips hold."""
        common = (self.held == self.held[:1]).all(0)
        self.steps.held = self.shared.copy_(self.held[0].where(common, NEVER))

    def __call__(self, newest: int) -> None:
        """Do a pass, in which no position after `newest` is fed."""
        extent = self.steps.whole(self.steps.ring.extent(newest + 1))
        if self.captured:
            extent = self.steps.captured_extent(extent)
        self.passes += 1
        if extent in self.graphs:
            self.graphs[extent]()
            return
        self._check(extent)
        if self.captured:
            self.graphs[extent] = capture(lambda: self._check(extent), self.pool)

    def _check(self, extent: int) -> None:
        """Feed what is guessed, and keep what proves to be true."""
        steps, slots = self.steps, self.steps.ring.slots
        self._guess()
        lane, idle = self._choose()
        goal = (lane + 1).minimum(self.limit)
        places = slots(goal)
        before = take(steps.tokens, places)
        steps.advance(lane, lane, goal.where(self._codes(goal) & ~idle, -1), extent, idle)
        same = (take(steps.tokens, places) == before) | idle
        self._mark(lane, False, idle)
        changed = goal.unsqueeze(2) + self.near
        self._mark(changed.flatten(1), True, same.repeat_interleave(len(self.near), 1))
        # what a lane makes is true where it was fed the truth, and all before it without a gap
        true = ~idle & (lane == self.front + self.ahead[: lane.shape[1]])
        true[:, 1:] &= same[:, :-1]
        self.front.add_(true.long().cumprod(1).sum(1, keepdim=True))
        self.fed.add_((~idle).sum(1, keepdim=True))

    def _guess(self) -> None:
        """Give every place of the frame to come a token: that of the same place one latent frame
        earlier; where there is none, the newest true one; or any.
        """
        steps, slots = self.steps, self.steps.ring.slots
        goal = (self.front + 1 + self.ahead).minimum(self.limit)
        before = goal - self.grid.block
        before = before.where(before >= self.grid.prefix, self.front)
        fresh = self._codes(goal) & (goal > self.guessed)
        places = slots(goal)
        guesses = take(steps.tokens, slots(before))
        # an id of the prefix is no code, and in guidance not the same in both rows of a clip
        other = (before < self.grid.prefix) | ~self._codes(before)
        guesses = guesses.masked_fill(other, 0)
        if self.drawn_of:
            guesses = mix(goal).remainder(self.drawn_of)
        guesses = guesses.where(fresh, take(steps.tokens, places))
        put(steps.tokens, places, guesses)
        self._mark(goal, True, goal <= self.guessed)
        self.guessed.copy_(goal[:, -1:].maximum(self.guessed))

    def _choose(self) -> tuple[Tensor, Tensor]:
        """Positions int64 [B, n] that are fed, and which of these lanes are idle, bool [B, n]."""
        lane = self.front + self.ahead
        there, row = lane < self.limit, self.row
        stale = there & take(self.stale, self.steps.ring.slots(lane.minimum(self.limit)))
        order = self.ahead.where(stale, self.ahead + len(self.ahead))[:, row:]
        chosen = order.topk(self.width - row, largest=False, sorted=True).values
        lane = torch.cat([lane[:, :row], self.front + chosen], dim=1)
        idle = torch.cat([~there[:, :row], chosen >= len(self.ahead)], dim=1)
        if not self.captured:  # lanes that are idle in all clips cost time
            used = ~idle.all(0)
            lane, idle = lane[:, used], idle[:, used]
        return lane.minimum(self.limit - 1), idle

    def _codes(self, goal: Tensor) -> Tensor:
        """Which positions hold codes."""
        codes: Tensor = self.grid.is_code(goal)
        return codes

    def _mark(self, positions: Tensor, stale: bool, but: Tensor) -> None:
        """Note of positions int64 [B, n] whether they are to be fed again, `but` of some."""
        spare = self.stale.shape[1] - 1
        places = self.steps.ring.slots(positions).masked_fill(but | (positions > self.limit), spare)
        self.stale.scatter_(1, places, stale)


class Fronts:
    """What the host knows of the fronts: on CUDA those of a few passes ago, so that it need not
    wait.

    front: int64 [B, 1], the newest position of each clip whose token is true.
    """

    def __init__(self, front: Tensor):
        self.front, self.known = front, front.cpu()
        self.queued: deque[tuple[Tensor, torch.cuda.Event]] = deque()

    def look(self) -> None:
        """After a pass."""
        if not self.front.is_cuda:
            self.known = self.front.clone()
            return
        copy = torch.empty(self.front.shape, dtype=torch.int64, pin_memory=True)
        copy.copy_(self.front, non_blocking=True)
        self.queued.append((copy, torch.cuda.Event()))
        self.queued[-1][1].record()
        if len(self.queued) > QUEUE_LENGTH:
            self.known, done = self.queued.popleft()
            done.synchronize()

    @property
    def slowest(self) -> int:
        """Where the last clip is, or a little behind it."""
        return int(self.known.min())

    def newest(self, width: int) -> int:
        """A position that no clip is beyond in the next pass, of so many tokens."""
        return int(self.known.max()) + (len(self.queued) + 1) * width


def end_of(grid: Grid, latents: int) -> int:
    """The position of the last code of so many latent frames."""
    return grid.length(latents) - grid.tail - 1


def made(grid: Grid, context: int, position: int) -> int:
    """Codes at or before a position that come after `context` latent frames."""
    frame, rest = divmod(position - grid.prefix, grid.block)
    row, column = divmod(rest, grid.stride)
    return (frame - context) * grid.area + min(row * grid.w + min(column + 1, grid.w), grid.area)
