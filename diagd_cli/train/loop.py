"""One training loop for tokenizer and Transformer: AdamW, warm-up + cosine, clipping, EMA, exact resume, logs.

A batch is a function of its step number, so a killed run that starts again sees exactly the data it would have seen.
"""

from __future__ import annotations

import copy
import json
import math
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn

from diagd_cli.clip.write import atomic
from diagd_cli.engine.device import native_bfloat16
from diagd_cli.errors import PresetError, WeightsError
from diagd_cli.model.config import Strict
from diagd_cli.train import parallel
from diagd_cli.train.board import Board, installed
from diagd_cli.train.muon import Muon


class Optimiser(Strict):
    """AdamW with linear warm-up and cosine decay to `final` x lr; `ema` 0 keeps the last weights instead of an average.

    `muon` > 0: the matrices inside Transformer blocks follow Muon instead, at that learning rate and the same schedule.
    `accumulate`: parts in which a batch is worked through, to save memory; the gradient is the whole batch's.
    `frozen`: parts of the model that stay as they are, such as "encoder": a tokenizer's codes are then what they were.
    """

    steps: int = Field(gt=0)
    batch: int = Field(default=1, gt=0)
    accumulate: int = Field(default=1, gt=0)
    lr: float = Field(gt=0)
    muon: float = Field(default=0.0, ge=0)
    warmup: int = 100
    final: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    clip: float = 1.0
    ema: float = Field(default=0.0, ge=0, lt=1)
    frozen: tuple[str, ...] = ()
    seed: int = 0

    def rate(self, step: int) -> float:
        """Share of the learning rate at a step."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * done))


class Run:
    """State of one training run in a folder: `checkpoint.pt` (resume), `log.jsonl` and `tensorboard` (figures).

    `loss` is that of the last step, and `logged` the last step with a line in the log. Of several processes each holds
    the same state, and the first one writes it.
    """

    def __init__(self, folder: Path, model: nn.Module, optimiser: Optimiser):
        self.folder, self.model, self.settings = folder, model, optimiser
        self.step, self.loss, self.logged = 0, math.nan, 0
        freeze(model, optimiser.frozen)
        self.optimisers = make_optimisers(model, optimiser)
        self.average = {k: v.detach().clone() for k, v in model.state_dict().items()} if optimiser.ema else None
        folder.mkdir(parents=True, exist_ok=True)
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

    def shipped(self) -> nn.Module:
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
            torch.save({**state, "average": self.average}, part)

    def log(self, **figures) -> None:
        """Append one line of figures, and add them to TensorBoard's where it is installed."""
        figures = {"loss": round(self.loss, 4), "rate": round(self.settings.rate(self.step), 4), **figures}
        if parallel.rank() == 0:
            with (self.folder / "log.jsonl").open("a") as file:
                file.write(json.dumps({"step": self.step, "time": round(time.time(), 1), **figures}) + "\n")
            if installed():
                # what is there of later steps than the last one in the log was written by steps that are trained again
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
            self.model.load_state_dict(state["model"])
            for own, saved in zip(self.optimisers, state["optimisers"], strict=True):
                own.load_state_dict(saved)
            self.step, self.loss = state["step"], state.get("loss", math.nan)
            if self.average is not None:  # of a run that had none so far it begins with the weights
                saved = state["average"] or state["model"]
                self.average = {k: saved[k].to(v.device, copy=True) for k, v in self.average.items()}
        except (OSError, EOFError, pickle.UnpicklingError, RuntimeError, LookupError, TypeError, ValueError):
            message = f"{self.checkpoint} is damaged or of another model"
            raise WeightsError(message, "Train in another folder, or remove it to start again") from None

    def _trim_log(self) -> None:
        """Drop figures of steps after the checkpoint: those steps are trained again."""
        path = self.folder / "log.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= self.step]
        if kept != lines and parallel.rank() == 0:
            with atomic(path) as part:
                part.write_text("".join(kept))
        self.logged = json.loads(kept[-1])["step"] if kept else 0

    def update(self, loss: Tensor) -> None:
        """One optimiser step on the gradient that has been gathered; `loss` is the batch's."""
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        with uninterrupted():
            self._step()
            self.step, self.loss = self.step + 1, loss.item()

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


def freeze(model: nn.Module, parts: tuple[str, ...]) -> None:
    """Leave these parts (names of submodules) out of training. Raises PresetError where the model has no such part."""
    for part in parts:
        try:
            model.get_submodule(part).requires_grad_(False)
        except AttributeError:
            known = ", ".join(name for name, _ in model.named_children())
            raise PresetError(
                f"The recipe freezes {part!r}, and the model has no such part", f"It has {known}"
            ) from None


def make_optimisers(model: nn.Module, settings: Optimiser) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the blocks' matrices and AdamW for the rest; vectors are not decayed."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    hidden = [p for name, p in named if settings.muon and p.ndim == 2 and "blocks." in name]
    taken = {id(p) for p in hidden}
    rest = [p for _, p in named if id(p) not in taken]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": settings.weight_decay, "peak": settings.lr},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0, "peak": settings.lr},
    ]
    optimisers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas)]
    if hidden:
        optimisers.append(Muon([{"params": hidden, "peak": settings.muon}], weight_decay=settings.weight_decay))
    return optimisers


def fit(
    run: Run,
    loss: Callable[[int], Tensor | Iterable[Tensor]],
    validate: Callable[[dict[str, Tensor]], dict],
    *,
    every: int = 250,
    precision: str = "auto",
    on_step: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> dict:
    """Train until `run.settings.steps`; every `every` steps validate the shipped weights, log and save. Returns the last figures.

    loss(step) computes the loss of that step's batch with `run.model`: at once, or as parts that add up to it, each made
    when the one before has been backpropagated (see `parallel.parts`). Ctrl-C saves a checkpoint first, and what is left
    of the run gives the same weights and figures as if it had not been stopped.
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
    parts, done = iter(value), []
    while True:
        with autocast():
            part = next(parts, None)
        if part is None:
            return parallel.total(torch.stack(done).sum()) / parallel.size()
        part.backward()
        done.append(part.detach())


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back until the block has ended: what half an update leaves could not be resumed exactly."""
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    held = []
    signal.signal(signal.SIGINT, lambda *_: held.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if held:
        raise KeyboardInterrupt


def use_bfloat16(device: torch.device, precision: str) -> bool:
    """`bf16`, `fp32`, or `auto`: bfloat16 where the hardware multiplies it natively (see `native_bfloat16`)."""
    if precision != "auto":
        return precision == "bf16"
    return native_bfloat16(device)
