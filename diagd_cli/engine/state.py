"""What a session has on the device, and what it has spent."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from diagd_cli.engine.chunk import width_on
from diagd_cli.engine.decode import execute, runner
from diagd_cli.engine.exact import Exact
from diagd_cli.engine.guided import Guided
from diagd_cli.engine.ring import Ring
from diagd_cli.engine.sample import Sampler
from diagd_cli.engine.steps import Steps
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.schedule.wavefront import Wavefront

if TYPE_CHECKING:
    from diagd_cli.engine.session import Session

MOST_TIMES = 1 << 16  # of frames that are told: a session may go on for ever


@dataclass
class Times:
    """Seconds that were spent, and what was done in them.

    prefill, decode: seconds.
    steps: forward passes of the decoding.
    fed: tokens that were fed in them, a clip.
    tokens: new tokens of all clips.
    completed: seconds of decoding after which each new latent frame had all its tokens, of the
        newest `MOST_TIMES`.
    """

    prefill: float = 0.0
    decode: float = 0.0
    steps: int = 0
    fed: int = 0
    tokens: int = 0
    completed: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_TIMES))


class State:
    """What a session has on the device, as long as it lives: nothing here is ever made anew."""

    def __init__(self, session: Session, ring: Ring):
        batch, places = len(session.codes), ring.places + 1  # the last is where spare lanes write
        model, device, grid = session.model, session.model.device, session.grid
        self.ring, self.device, self.batch = ring, device, batch
        self.copies = 2 if session.guidance else 1  # rows of each clip
        self.cache = model.new_cache(self.copies * batch, places, session.kv_dtype)
        self.tokens = torch.zeros((self.copies * batch, places), dtype=torch.int64, device=device)
        self.sampler = Sampler(session.sampling, session.seeds, grid, device)
        guidance, cross = session.guidance, session.cross
        choose = Guided(guidance, self.sampler, grid) if guidance else self.sampler
        starts = torch.tensor(session.starts.tolist(), device=device)[:, None]
        start = starts if session.starts.any() else None
        self.steps = Steps(model, self.cache, self.tokens, choose, cross, ring, start)
        self.run = runner(self.steps, session.capture)
        self.capture, self.exact = session.capture, dict[Decoding, Exact]()
        self.codes = session.sampling.codes
        # the end of a row or frame has the same place in every frame: its slot holds nothing else
        where, ids = grid.ends(ring.places)
        self.put(where, np.tile(ids, (self.copies * batch, 1)))

    def execute(self, wave: Wavefront, begin: Callable[[int], None], late: bool) -> Iterator[int]:
        """Take the steps of a wavefront, as `execute` of engine.decode, or as `Exact` does."""
        if (exact := self.checker(wave)) is None:
            return execute(self.run, wave, begin)
        return exact.execute(wave, begin, late)

    def spent(self, wave: Wavefront, done: int) -> tuple[int, int]:
        """Forward passes for `done` steps of what was executed last, and tokens fed in them, a
        clip.
        """
        if (exact := self.checker(wave)) is None:
            return done, wave.fed(done)
        return exact.passes, round(exact.fed.double().mean().item())

    def checker(self, wave: Wavefront) -> Exact | None:
        """What guesses and checks the tokens of a wavefront; None where its steps make them."""
        decoding = wave.plan.decoding
        if decoding.method != "exact":
            return None
        if decoding not in self.exact:
            width = decoding.width or width_on(self.device)
            row, codes = decoding.row, self.codes if decoding.guess == "random" else 0
            self.exact[decoding] = Exact(self.steps, width, row, codes, self.capture)
        return self.exact[decoding]

    def put(self, positions: np.ndarray, tokens: np.ndarray) -> None:
        """Store tokens int64 [B, n], or of every row of the batch, at positions int64 [n]."""
        if len(tokens) < len(self.tokens):
            tokens = np.tile(tokens, (self.copies, 1))
        slots = self.ring.slots(torch.as_tensor(positions, device=self.device))
        self.tokens.index_copy_(1, slots, torch.as_tensor(tokens, device=self.device))

    @torch.inference_mode()
    def get(self, positions: np.ndarray) -> np.ndarray:
        """The stored tokens int64 [B, n] at positions int64 [n]."""
        slots = self.ring.slots(torch.as_tensor(positions, device=self.device))
        return self.tokens[: self.batch, slots].cpu().numpy()
