"""The JSON beside each MP4: what decided it, what made it, how long that took; and whether --resume may keep it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from diagd_cli.cli.console import path_text

if TYPE_CHECKING:
    import numpy as np

    from diagd_cli.cli.batch import Batch, Work
    from diagd_cli.clip.read import Clip
    from diagd_cli.pipeline import Loaded, Result
    from diagd_cli.preset import Preset


def choices(run: Batch, seed: int) -> dict:
    """What decides the output, for the sidecar and for --resume."""
    s = run.settings
    return {
        **asdict(s),
        "seed": seed,
        "preset": run.preset.name,
        "clip": run.preset.clip.model_dump(),
        "decoding": s.decoding.facts(run.preset.grid, run.preset.context),
        "actions": run.actions,
        "dtype": run.machine.dtype,
        "kv_dtype": run.kv_dtype,
    }


def weights(preset: Preset, random: bool) -> dict[str, str | None]:
    """What tells the weights in use from others."""
    return {role: "random" if random else key for role, key in preset.weight_keys.items()}


def steered_by(run: Batch, actions: np.ndarray | None) -> list | None:
    """The actions as a sidecar tells them."""
    return None if actions is None else run.preset.actions.describe(actions)


def fps(run: Batch, clip: Clip) -> float:
    """Frames per second of the output: the clip's, or the preset's for a still image."""
    return clip.fps or run.preset.clip.fps


def source(run: Batch, clip: Clip) -> dict:
    """What a sidecar tells of the clip that is continued."""
    told = {"path": path_text(clip.path), "sha256": clip.sha256, "first": clip.first, "fps": fps(run, clip)}
    return told | ({"damage": clip.damage} if clip.damage else {})


def unfinished(run: Batch, work: Work) -> dict:
    """The sidecar of a video while it grows under its own name: what a killed run leaves is known by it."""
    from diagd_cli.files.hidden import process_name

    about = {"output": path_text(work.job.target), "unfinished": process_name()}
    return {**about, "settings": choices(run, work.job.seed), "input": source(run, work.clip)}


def describe(run: Batch, loaded: Loaded, work: Work, result: Result, written: Path) -> dict:
    """The sidecar of a clip that is made: settings, input, machine, counts, times. written: where its MP4 is now."""
    from diagd_cli.cli.info import versions
    from diagd_cli.device import device_name
    from diagd_cli.weights.locate import digest

    clip = work.clip
    compiling = {"compile": loaded.compile_seconds} if run.compile else {}
    seconds = {"load": loaded.seconds, **compiling, **result.seconds}
    return {
        "output": path_text(work.job.target),
        "output_sha256": digest(written),
        "settings": choices(run, work.job.seed),
        "input": source(run, clip),
        "weights": weights(run.preset, run.random),
        "steered_by": steered_by(run, work.actions),
        **run.prompts.about(clip.path),
        "machine": {**machine(loaded), "name": device_name(loaded.device)},
        "versions": versions(),
        "context_frames": result.context,
        "new_frames": len(result.pixels) - result.context,
        "tokens": result.tokens,
        "batch": result.batch,
        "steps": result.steps,
        "seconds": {k: round(v, 4) for k, v in seconds.items()},
        "first_frame_seconds": {k: round(v, 4) for k, v in first_frame(run, result).items()},
        "rates": {k: round(v, 3) for k, v in result.rates.items()},
        "peak_memory_bytes": memory(run, loaded, result),
    }


def first_frame(run: Batch, result: Result) -> dict[str, float]:
    """Seconds until the pixels of the first new frame, from the start of the decode and from that of the command."""
    return {"decode": result.first_frame, "command": result.began + result.first_frame - run.reporter.started}


def memory(run: Batch, loaded: Loaded, result: Result) -> dict[str, int]:
    """Peak bytes so far of this process and the CUDA allocator; before anything was loaded; and as predicted for the device."""
    from diagd_cli.device import peak_memory
    from diagd_cli.engine.chunk import chunk_on
    from diagd_cli.weights.memory import LIBRARIES, codec_dtype, estimate

    need = estimate(
        run.preset,
        batch=result.batch,
        frames=len(result.pixels),
        dtype=loaded.dtype,
        kv_dtype=None if run.kv_dtype == "auto" else run.kv_dtype,
        codec_dtype=codec_dtype(loaded.device, loaded.dtype),
        offload=run.offload and loaded.device.type != "cpu",
        chunk=chunk_on(loaded.device),
    )
    own = LIBRARIES if loaded.device.type == "cpu" else 0
    base = loaded.base if loaded.device.type == "cpu" else 0
    return {**peak_memory(loaded.device), "before": base, "predicted": base + own + need.total}


def made_before(target: Path) -> dict | None:
    """The sidecar of an output that diagd made, None where there is none: such an output --resume may replace.

    An output that is still being made by another process is none.
    """
    from diagd_cli.files.hidden import is_running

    try:
        made = json.loads(target.with_suffix(".json").read_text(encoding="utf-8"))
        if "unfinished" in made and is_running(made["unfinished"]):
            return None
        told = made["settings"]["preset"] and made["input"]["sha256"]
        return made if told and ("unfinished" in made or made["output_sha256"]) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def matches(run: Batch, made: dict, work: Work) -> bool:
    """Whether a sidecar tells of these settings, this input and the MP4 that is there."""
    from diagd_cli.weights.locate import digest

    if "unfinished" in made:
        return False
    clip, target = work.clip, work.job.target
    free = ["actions"] if run.seeded else ["actions", "seed"]  # the text of --actions; steered_by is what it means
    wanted = choices(run, work.job.seed)
    told, wanted = ({k: v for k, v in s.items() if k not in free} for s in (made["settings"], wanted))
    source = (made["input"]["sha256"], made["input"].get("first"), made.get("steered_by"), made.get("weights"))
    own = (clip.sha256, clip.first, steered_by(run, work.actions), weights(run.preset, run.random))
    text = {key: made[key] for key in ("prompt", "prompt_embedding") if key in made}
    same = told == wanted and source == own and text == run.prompts.about(clip.path)
    tokens = not run.save_tokens or target.with_suffix(".npz").is_file()
    return same and tokens and target.is_file() and digest(target) == made["output_sha256"]


def machine(loaded: Loaded) -> dict:
    """Device, dtype and threads in use."""
    import torch

    return {
        "device": str(loaded.device),
        "dtype": str(loaded.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }
