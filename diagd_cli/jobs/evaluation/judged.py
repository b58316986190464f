"""What an evaluation works with: the models that make and judge tokens, and clips with their
future.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from diagd_cli.clip.read import read_clip
from diagd_cli.errors import ClipError
from diagd_cli.jobs.evaluation.measure import Case, Models
from diagd_cli.jobs.models import load_models, machine_facts
from diagd_cli.jobs.prompts import Prompts
from diagd_cli.jobs.settings import AUTO, Machine, Settings
from diagd_cli.loading import load
from diagd_cli.model.inverse import InverseDynamics
from diagd_cli.preset import Preset
from diagd_cli.tokens.actions import clip_actions
from diagd_cli.weights.load import load_inverse


def load_judged(
    preset: Preset,
    base: Preset,
    settings: Settings,
    machine: Machine,
    *,
    batch: int,
    beside: Sequence[Preset] = (),
) -> Models:
    """The models that make tokens, score them, and read actions. Raises DiagdError.

    base: whose next-token prediction scores the tokens.
    batch: clips that are decoded together.
    beside: presets whose Transformers are going to be loaded too.
    """
    rounded = machine.weights not in (AUTO, "float") or preset.weights != "float"
    folder, others = machine.weights_folder, [base] if rounded or base != preset else []
    loaded = load_models(preset, settings, machine, batch=batch, beside=[*others, *beside])
    # weights of 8 bits are judged by those that they were
    scorer = (
        load(base, loaded.device, loaded.dtype, folder=folder, pixels=False) if others else loaded
    )
    inverse = cast(InverseDynamics | None, load_inverse(preset, loaded.device, folder))
    return Models(loaded, scorer, inverse)


def read_case(path: Path, preset: Preset, settings: Settings, start: int, prompts: Prompts) -> Case:
    """A clip with its future, and what steers it.

    Raises ClipError where it ends before the new frames do.

    start: first context frame.
    """
    clip = read_clip(path, settings.context, start, settings.frames, whole=True)
    if len(clip.future) < settings.frames:
        message = (
            f"{path} goes on for {len(clip.future)} frames after the context, and "
            f"{settings.frames} are to be judged"
        )
        raise ClipError(message, "Give a longer clip, an earlier --start or fewer --frames")
    actions = clip_actions(
        path, preset.actions, None, start, settings.context, settings.frames, settings.frames
    )
    steered = None if actions is None or not preset.actions else preset.actions.describe(actions)
    about = {"sha256": clip.sha256, "first": start, "steered_by": steered, **prompts.about(path)}
    return Case(clip, settings.request(actions=actions, text=prompts.of(path)), about)


def decisive(models: Models, settings: Settings, batch: int) -> dict:
    """All that decides a sample's figures and times, but its clip, decoding and seed."""
    preset, base = models.loaded.preset, models.base.preset
    without = {"name", "about", "licence", "duties", "decoding"}
    return {
        "preset": preset.model_dump(mode="json", exclude=without),
        "base": base.model_dump(mode="json", exclude={*without, "inverse_weights"}),
        "frames": settings.frames,
        "context": settings.context,
        "sampling": settings.sampling.facts,
        "first": preset.decoding.first,
        "batch": batch,
        **machine_facts(models.loaded),
    }
