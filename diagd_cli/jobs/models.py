"""The models that a job works with, loaded where the machine has room for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch.distributed.device_mesh import init_device_mesh

from diagd_cli.device import choose_device, choose_dtype, choose_weights, device_name
from diagd_cli.jobs.candidates import Candidate, others_of
from diagd_cli.jobs.generation import Generation
from diagd_cli.jobs.settings import AUTO, Machine, Settings
from diagd_cli.loading import Loaded, load
from diagd_cli.pipeline import warm_up
from diagd_cli.preset import Preset
from diagd_cli.progress import Progress
from diagd_cli.versions import versions
from diagd_cli.weights.memory import require
from diagd_cli.weights.parameters import transformer_parameters


def load_models(
    preset: Preset,
    settings: Settings,
    machine: Machine,
    *,
    batch: int = 1,
    frames: int | None = None,
    beside: Sequence[Preset] = (),
    pixels: bool = True,
) -> Loaded:
    """The preset's models on the device asked for; of several processes (`machine.tp`) each calls
    this. Raises DiagdError where they are missing or cannot fit.

    batch: clips that are going to be decoded together, which must fit too.
    frames: that are in memory at once, a clip; None is all of them.
    beside: presets whose Transformers are going to be loaded as well.
    pixels: without, the tokenizer is left out.
    """
    device = choose_device(machine.device)
    dtype = choose_dtype(
        machine.dtype, device, transformer_parameters(preset.transformer, preset.positions)
    )
    wished = "float" if machine.tp > 1 else preset.weights
    weights = choose_weights(machine.weights, device, wished)
    require(
        preset,
        device,
        batch=batch,
        dtype=dtype,
        kv_dtype=cache_dtype(machine, device) or dtype,
        frames=settings.context + settings.frames if frames is None else frames,
        decoding=settings.decoding,
        offload=machine.offload,
        beside=beside,
        weights=weights,
        tp=machine.tp,
        pixels=pixels,
    )
    machine.fetch_weights(preset, *beside)
    random = settings.seed if machine.random_weights else None
    return load(
        preset,
        device,
        dtype,
        folder=machine.weights_folder,
        random=random,
        pixels=pixels,
        compile=machine.compile,
        weights=weights or "float",
        mesh=init_device_mesh(device.type, (machine.tp,)) if machine.tp > 1 else None,
    )


def load_for(generation: Generation, batch: int, progress: Progress, pixels: bool = True) -> Loaded:
    """A generation's models, ready for batches of so many clips. Raises DiagdError."""
    preset, settings, machine = generation.preset, generation.settings, generation.machine
    asked, held = (preset, settings, machine), generation.frames_held
    with progress.stage(f"loading {preset.name}"):
        loaded = load_models(*asked, batch=batch, frames=held, pixels=pixels)
    if machine.compile:  # before there is something to time
        with progress.stage("compiling"):
            context = preset.latents(settings.context)
            loaded = warm_up(loaded, settings.request(), context, batch)
    if machine.offload and loaded.device.type == "cpu":
        progress.note(
            "--offload changes nothing on the CPU: the tokenizer is in main memory anyway"
        )
    return loaded


def cache_dtype(machine: Machine, device: torch.device) -> torch.dtype | None:
    """The type of keys and values; None is the model's. Raises UsageError for an unknown one."""
    return None if machine.kv_dtype == AUTO else choose_dtype(machine.kv_dtype, device)


def load_others(
    candidates: Sequence[Candidate],
    loaded: Loaded,
    folder: Path | None = None,
    random: bool = False,
) -> dict[str, Loaded]:
    """The models of those on another preset's Transformer, by label, with the tokenizer of
    `loaded`; each loaded once.

    folder: where weights are looked for first.
    random: with made-up weights.

    Raises WeightsError.
    """
    seed = 0 if random else None
    others = {
        preset.path: replace(
            load(
                preset,
                loaded.device,
                loaded.dtype,
                folder=folder,
                random=seed,
                pixels=False,
                weights=loaded.weights or "float",
            ),
            tokenizer=loaded.tokenizer,
        )
        for preset in others_of(candidates)
    }
    return {one.label: others[one.preset.path] for one in candidates if one.preset}


def machine_facts(loaded: Loaded, named: bool = False) -> dict:
    """What runs it, as reports and sidecars tell: device, numbers, threads, versions; `named`: the
    hardware in words too.
    """
    machine = {
        "device": str(loaded.device),
        "dtype": str(loaded.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }
    if loaded.weights:
        machine["weights"] = loaded.weights
    if loaded.mesh:
        machine["tp"] = loaded.mesh.size()
    if named:
        machine["name"] = device_name(loaded.device)
    return {"machine": machine, "versions": versions()}
