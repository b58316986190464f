"""One training loop for tokenizer and Transformer: AdamW, warm-up + cosine, clipping, EMA, exact
resume, logs.

A batch is a function of its step number, so a killed run that starts again sees exactly the data it
would have seen.
"""

from __future__ import annotations

import copy
import errno
import json
import math
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from diagd_cli.device import native_bfloat16
from diagd_cli.errors import DiagdError, UsageError, WeightsError
from diagd_cli.files.atomic import atomic, write_text
from diagd_cli.train import parallel
from diagd_cli.train.board import Board, installed
from diagd_cli.train.optimiser import Optimiser, freeze, make_optimisers
from diagd_cli.train.requests import Precision

Trained = TypeVar("Trained", bound=nn.Module)


class Run(Generic[Trained]):
    """State of one training run in a folder: `checkpoint.pt` to resume; `log.jsonl`, `tensorboard`.

    `loss` is that of the last step, and `logged` the last step with a line in the log. Of several
    processes each holds the same state, and the first one writes it.

    identity: what the run is of, by name, such as its tokenizer's digest. A run of anything else
        is not gone on with (UsageError).
    """

    def __init__(
        self,
        folder: Path,
        model: Trained,
        optimiser: Optimiser,
        identity: dict[str, str] | None = None,
    ):
        self.folder, self.model, self.settings = folder, model, optimiser
        groups = "Muon" if optimiser.muon else "AdamW"
        self.identity = {
            **(identity or {}),
            "optimiser": groups,
            "list of frozen parts": ", ".join(optimiser.frozen),
        }
        self.step, self.loss, self.logged = 0, math.nan, 0
        freeze(model, optimiser.frozen)
        self.optimisers = make_optimisers(model, optimiser)
        self.average = (
            {k: v.detach().clone() for k, v in model.state_dict().items()}
            if optimiser.ema
            else None
        )
        if self.checkpoint.exists():
            self._resume()
        self._trim_log()
        self._board: Board | None = None

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def weights(self) -> dict[str, Tensor]:
        """What to validate and ship: the averaged weights, or the last ones."""
        return self.average if self.average is not None else self.model.state_dict()

    def shipped(self) -> Trained:
        """A copy of the model with `weights`, for inference."""
        model = copy.deepcopy(self.model)
        model.load_state_dict(self.weights)
        return model.eval().requires_grad_(False)

    def save(self) -> None:
        """Write the checkpoint under its final name only when it is whole."""
        if parallel.rank():
            return
        state = {
            "step": self.step,
            "loss": self.loss,
            "model": self.model.state_dict(),
            "optimisers": [o.state_dict() for o in self.optimisers],
        }
        with atomic(self.checkpoint) as part:
            save_state({**state, "average": self.average, "of": self.identity}, part)

    def log(self, **figures: object) -> None:
        """Append one line of figures, and add them to TensorBoard's where it is installed."""
        figures = {
            "loss": round(self.loss, 4),
            "rate": round(self.settings.rate(self.step), 4),
            **figures,
        }
        if parallel.rank() == 0:
            line = json.dumps({"step": self.step, "time": round(time.time(), 1), **figures})
            path = self.folder / "log.jsonl"
            write_text(path, f"{path.read_text() if path.exists() else ''}{line}\n")
            if installed():
                # what is there of later steps than the last one in the log was written by steps
                # that are trained again
                self._board = self._board or Board(self.folder / "tensorboard", self.logged + 1)
                self._board.add(self.step, figures)
        self.logged = self.step

    def close(self) -> None:
        """Close the files of TensorBoard."""
        if self._board:
            self._board.close()
            self._board = None

    def _resume(self) -> None:
        try:
            state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            self._check_identity(state.get("of", {}))
            self.model.load_state_dict(state["model"])
            for own, saved in zip(self.optimisers, state["optimisers"], strict=True):
                asked = [
                    {k: v for k, v in group.items() if k != "params"} for group in own.param_groups
                ]
                own.load_state_dict(saved)
                for group, settings in zip(own.param_groups, asked, strict=True):
                    # rates and decay as the recipe has them now, not as it had them
                    group.update(settings)
            self.step, self.loss = state["step"], state.get("loss", math.nan)
            if self.average is not None:  # of a run that had none so far it begins with the weights
                saved = state["average"] or state["model"]
                self.average = {
                    k: saved[k].to(v.device, copy=True) for k, v in self.average.items()
                }
        except (
            OSError,
            EOFError,
            pickle.UnpicklingError,
            RuntimeError,
            LookupError,
            TypeError,
            ValueError,
        ):
            message = f"{self.checkpoint} is damaged or of another model"
            raise WeightsError(
                message, "Train in another folder, or remove it to start again"
            ) from None

    def _check_identity(self, saved: dict[str, str]) -> None:
        for name in saved.keys() & self.identity.keys():
            if saved[name] != self.identity[name]:
                message = f"{self.folder} holds a run with another {name}"
                raise UsageError(
                    message, "Name another folder with --out, or remove it to start again"
                )

    def _trim_log(self) -> None:
        """Drop figures of steps after the checkpoint, which are trained again, and what is no line
        of figures.
        """
        path = self.folder / "log.jsonl"
        lines = path.read_text(errors="replace").splitlines(keepends=True) if path.exists() else []
        kept = [line for line in lines if 0 <= logged_step(line) <= self.step]
        if kept != lines and parallel.rank() == 0:
            write_text(path, "".join(kept))
        self.logged = logged_step(kept[-1]) if kept else 0

    def update(self, loss: Tensor) -> None:
        """One optimiser step on the gradient that has been gathered; `loss` is the batch's. Raises
        DiagdError.
        """
        norm, value = (
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip),
            loss.item(),
        )
        self.check_finite(value, norm.item())
        with uninterrupted():
            self._step()
            self.step, self.loss = self.step + 1, value

    def check_finite(self, *figures: float) -> None:
        """Raise DiagdError where a figure is not a number: the weights soon are none, and must not
        be kept.
        """
        if not all(map(math.isfinite, figures)):
            message = (
                f"The training in {self.folder} has diverged: after step {self.step} figures are "
                "nan or infinite"
            )
            raise DiagdError(
                message, f"Go on from its last checkpoint with lr below {self.settings.lr:g}"
            )

    def _step(self) -> None:
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * self.settings.rate(self.step)
            optimiser.step()
        self.model.zero_grad(set_to_none=True)
        if self.average is not None:
            decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))
            for name, value in self.model.state_dict().items():
                self.average[name].lerp_(value, 1 - decay) if value.is_floating_point() else None


def save_state(state: dict, path: Path) -> None:
    """torch.save, which calls a full disk an error of its own. Raises OSError."""
    try:
        # closed here: what failed would keep it open, and the disk full, until it is collected
        with path.open("wb") as file:
            torch.save(state, file)
    except RuntimeError as error:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}, or the disk fails") from error


def logged_step(line: str) -> int:
    """The step of a line of the log; -1 where it is none, as after a crash."""
    try:
        return int(json.loads(line)["step"]) if line.endswith("\n") else -1
    except (ValueError, KeyError, TypeError):
        return -1


def fit(
    run: Run,
    loss: Callable[[int], Tensor | Iterable[Tensor]],
    validate: Callable[[dict[str, Tensor]], dict],
    *,
    every: int = 250,
    precision: Precision = "auto",
    on_step: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> dict:
    """Train until `run.settings.steps`. Returns the figures of the last validation.

    loss: loss(step) computes the loss of that step's batch with `run.model`: at once, or as parts
        that add up to it, each made when the one before has been backpropagated (see
        `parallel.micro_batches`).
    validate: figures by name of the weights that it is given, those that would be shipped.
    every: steps between validations; each is logged, and a checkpoint is saved.
    precision: of the products; auto is bfloat16 where the hardware multiplies it.
    on_step: on_step(steps done, steps in all, loss) is called after each step.
    An interrupt saves a checkpoint first, and what is left of the run gives the same weights and
    figures as if it had not been stopped.
    """
    device = next(run.model.parameters()).device
    dtype = torch.bfloat16 if use_bfloat16(device, precision) else torch.float32
    autocast = partial(torch.autocast, device.type, dtype=dtype, enabled=dtype != torch.float32)
    figures: dict = {}
    try:
        while True:
            last = run.step == run.settings.steps
            if run.logged < run.step and (last or run.step % every == 0):
                run.model.eval()
                figures = validate(run.weights)
                run.check_finite(*(v for v in figures.values() if isinstance(v, float)))
                run.log(**figures)
                run.save()
            if run.step >= run.settings.steps:
                return figures
            run.model.train()
            torch.manual_seed(run.settings.seed * 1_000_003 + run.step)
            run.update(_backward(loss, run.step, autocast))
            on_step(run.step, run.settings.steps, run.loss)
    except KeyboardInterrupt:
        run.save()
        raise
    finally:
        run.close()


def _backward(loss: Callable, step: int, autocast: Callable) -> Tensor:
    """Gather the gradient of a step's loss, part by part; returns the loss, of all processes."""
    with autocast():
        value = loss(step)
    if isinstance(value, Tensor):
        value.backward()
        return value.detach()
    parts = iter(value)
    done: list[Tensor] = []
    while True:
        with autocast():
            part = next(parts, None)
        if part is None:
            return parallel.all_reduce(torch.stack(done).sum()) / parallel.world_size()
        part.backward()
        done.append(part.detach())


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold what would end the run back until the block has ended: what half an update leaves could
    not be resumed exactly.
    """
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    found = {
        number: signal.getsignal(number)
        for number in (getattr(signal, n, None) for n in names)
        if number
    }
    handlers = {number: handler for number, handler in found.items() if callable(handler)}
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[tuple[int, FrameType | None]] = []
    for number in handlers:
        signal.signal(number, lambda *received: held.append(received))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if held:
        handlers[held[0][0]](*held[0])


def use_bfloat16(device: torch.device, precision: Precision) -> bool:
    """`bf16`, `fp32`, or `auto`: bfloat16 where the hardware multiplies it natively (see
    `native_bfloat16`).
    """
    if precision != "auto":
        return precision == "bf16"
    return native_bfloat16(device)
