"""Fine-tune the Transformer for the decodings it will run (section 3.3 of the paper): trained under
their masks.

Trained by next-token prediction a model sees the whole past of every token; along diagonals some of
it does not exist yet, and stand-ins are fed. Here every step draws a decoding and a prompt, and the
codes after the prompt are predicted from exactly what that decoding would see.

Trained on true tokens a model never sees its own mistakes, which are all that it has behind it when
a video grows long. With scheduled sampling (Bengio et al., arXiv 1506.03099; in two passes as by
Mihaylova and Martins, arXiv 1906.07651) some of what it sees is what it would have made itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diagd_cli.engine.forced import forced_logits
from diagd_cli.engine.sample import Sampler
from diagd_cli.model.transformer import Transformer
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.schedule.plan import Plan, build_plan
from diagd_cli.tokens.grid import Grid
from diagd_cli.tokens.sampling import Sampling
from diagd_cli.train import parallel
from diagd_cli.train.loop import Run, fit
from diagd_cli.train.optimiser import Optimiser
from diagd_cli.train.transformer import Windows, WindowSampler

if TYPE_CHECKING:
    from diagd_cli.model.contract import Cross, Model


@dataclass(frozen=True)
class Mixture:
    """What a step draws from, evenly: a decoding, and how many latent frames of a sample are the
    prompt.

    window: latent frames that are seen in samples over which the model's window slides; 0: all.
    own: the largest share of a sample's new codes that are seen as the model would have made them.
    sampling: how it would; needed where there is such a share.
    """

    decodings: tuple[Decoding, ...]
    prompts: range
    window: int = 0
    own: float = 0.0
    sampling: Sampling | None = None

    def draw(self, grid: Grid, frames: int, seed: int, step: int) -> Plan:
        """The plan of a step, for windows of `frames` latent frames: a function of (seed, step)
        alone.
        """
        rng = np.random.default_rng([seed, step, 1])  # another stream than that of the windows
        decoding = self.decodings[rng.integers(len(self.decodings))]
        prompt = self.prompts[rng.integers(len(self.prompts))]
        return build_plan(grid, prompt, frames - prompt, decoding)


def diagonal_loss(
    model: Model,
    sequences: Tensor,
    plan: Plan,
    cross: Cross = None,
    window: int = 0,
    seen: Tensor | None = None,
) -> Tensor:
    """Mean cross-entropy (nats, a float32 scalar) of every new code of a plan, from what the
    decoding would see.

    sequences: int64 [B, >= plan.length], of all frames.
    cross: `Transformer.cross_context` of B texts.
    window: latent frames that are seen, where the window slides; 0: all.
    seen: tokens that are given to the model instead of `sequences`, of the same shape.
    """
    given = sequences if seen is None else seen
    logits = forced_logits(model, given, plan, cross, window)
    new = new_codes(plan, sequences.device)
    return F.cross_entropy(logits.flatten(0, 1).float(), sequences[:, new].flatten())


@torch.no_grad()
def partly_own(
    model: Model, sequences: Tensor, plan: Plan, mixture: Mixture, seed: list[int], cross: Cross
) -> Tensor:
    """`sequences` int64 [B, >= plan.length] in which some new codes are what the model would have
    made there, had it seen the true ones before: of each clip up to `mixture.own` of them.

    seed: decides which, and what is drawn.
    """
    assert mixture.sampling is not None  # there is a share
    rng, new = np.random.default_rng(seed), new_codes(plan, sequences.device)
    logits = forced_logits(model, sequences, plan, cross, mixture.window)
    seeds = [int(drawn) for drawn in rng.integers(1 << 62, size=len(sequences))]
    made = Sampler(mixture.sampling, seeds, plan.grid, sequences.device)(logits, new)
    share = mixture.own * rng.random((len(sequences), 1))
    chosen = torch.from_numpy(rng.random(made.shape) < share).to(sequences.device)
    return sequences.index_copy(1, new, made.where(chosen, sequences[:, new]))


def new_codes(plan: Plan, device: torch.device) -> Tensor:
    """Positions int64 [n] of all that a plan makes, in raster order."""
    return torch.as_tensor(np.sort(plan.target[plan.target >= 0]), device=device)


def fit_diagonal(
    model: Transformer,
    train: WindowSampler,
    val: WindowSampler,
    optimiser: Optimiser,
    windows: Windows,
    mixture: Mixture,
    folder: Path,
    text: Tensor | None = None,
    identity: dict[str, str] | None = None,
    **options: Any,
) -> Run[Transformer]:
    """Fit the codes of every window after its prompt, as decodings of the mixture see them.

    optimiser: with ema 0, since the model itself is validated.
    windows: of one phase, longer than the largest prompt, which is that of validation.
    mixture: the decodings and the prompts that a step draws from.
    folder: of the checkpoint, which is gone on from where there is one, and of the log, which
        begins with the figures before training, at step 0.
    text: embedding float [N, cross_dim] that all clips attend to.
    identity: what the run is of, see `Run`.
    options: those of `train.loop.fit`.

    Raises ClipError where no clip holds a window.
    """
    frames = windows.longest
    for sampler in (train, val):
        sampler.check_window(frames)
    run = Run(folder, model, optimiser, identity)
    device = next(model.parameters()).device
    wrapped = parallel.data_parallel(model)
    called = cast(
        "Model", wrapped
    )  # what wraps the Transformer is called as it is, and nothing else is asked of it here

    def loss(step: int) -> Iterator[Tensor]:
        batch = train.draw(windows, optimiser.seed, step)
        plan = mixture.draw(train.grid, frames, optimiser.seed, step)
        parts = parallel.micro_batches(batch, wrapped, optimiser.accumulate)
        for number, (part, weight) in enumerate(parts):
            part, seen = part.to(device), None
            cross = text_context(model, text, len(part))
            if mixture.own:
                drawn = [optimiser.seed, step, 2, parallel.rank(), number]
                seen = partly_own(called, part, plan, mixture, drawn, cross)
            yield diagonal_loss(called, part, plan, cross, mixture.window, seen) * weight

    def validate(_weights: dict[str, Tensor]) -> dict[str, float]:
        return validate_decodings(model, val, mixture, frames, text)

    if run.step == 0 and not (folder / "log.jsonl").exists():
        model.eval()
        figures = validate(run.weights)
        # no step has had a loss yet
        run.log(loss=round(float(np.mean(list(figures.values()))), 4), **figures)
    fit(run, loss, validate, **options)
    return run


def text_context(model: Transformer, text: Tensor | None, batch: int) -> Cross:
    """Keys and values of one text for `batch` clips; None where there is none."""
    if text is None:
        return None
    return model.cross_context(text.to(next(model.parameters()).device).expand(batch, -1, -1))


@torch.inference_mode()
def validate_decodings(
    model: Transformer,
    val: WindowSampler,
    mixture: Mixture,
    frames: int,
    text: Tensor | None = None,
    count: int = 24,
) -> dict[str, float]:
    """Mean NLL (nats) of the codes after the largest prompt by NTP and by each decoding, as
    {"nll/NTP": ..., ...}.

    All of them see the same windows, `count` or fewer that are spread over the validation split.
    Several processes share them.
    """
    device, grid, prompt = next(model.parameters()).device, val.grid, mixture.prompts[-1]
    starts = np.flatnonzero(val.left >= frames)
    firsts = starts[np.unique(np.linspace(0, len(starts) - 1, count).astype(int))]
    share = firsts[parallel.rank() :: parallel.world_size()]
    cross, figures = text_context(model, text, 1), {}
    for label, decoding in {
        d.label(grid): d for d in (Decoding("ntp"), *mixture.decodings)
    }.items():
        plan = build_plan(grid, prompt, frames - prompt, decoding)
        nll = torch.zeros((), dtype=torch.float64, device=device)
        for n in range(len(share)):  # one at a time: the logits of a window are large
            own = val.sequences(share[n : n + 1], frames).to(device)
            nll += diagonal_loss(model, own, plan, cross, mixture.window)
        figures[f"nll/{label}"] = round(parallel.all_reduce(nll).item() / len(firsts), 4)
    return figures
