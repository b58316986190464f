"""The models that a job works with, loaded where the machine has room for them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from diagd_cli.device import choose_device, choose_dtype
from diagd_cli.jobs.settings import AUTO, Machine, Settings
from diagd_cli.loading import Loaded, load
from diagd_cli.preset import Preset
from diagd_cli.weights.memory import require
from diagd_cli.weights.parameters import transformer_parameters


def load_models(
    preset: Preset, settings: Settings, machine: Machine, *, batch: int = 1, beside: Sequence[Preset] = ()
) -> Loaded:
    """The preset's models on the device asked for. Raises DiagdError where they are missing or cannot fit.

    batch: clips that are going to be decoded together, which must fit too.
    beside: presets whose Transformers are going to be loaded as well.
    """
    device = choose_device(machine.device)
    dtype = choose_dtype(machine.dtype, device, transformer_parameters(preset.transformer, preset.positions))
    require(
        preset,
        device,
        batch=batch,
        dtype=dtype,
        kv_dtype=cache_dtype(machine, device) or dtype,
        frames=settings.context + settings.frames,
        offload=machine.offload,
        beside=beside,
    )
    random = settings.seed if machine.random_weights else None
    return load(preset, device, dtype, folder=machine.weights_dir, random=random, compile=machine.compile)


def cache_dtype(machine: Machine, device: torch.device) -> torch.dtype | None:
    """The type of keys and values; None is the model's. Raises UsageError for an unknown one."""
    return None if machine.kv_dtype == AUTO else choose_dtype(machine.kv_dtype, device)
