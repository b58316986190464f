"""The JSON beside each MP4: what decided it, what made it, how long that took; and whether a
resumed run may keep it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diagd_cli.clip.read import Clip
from diagd_cli.device import peak_memory
from diagd_cli.engine.chunk import chunk_on
from diagd_cli.files.hidden import is_running, process_name
from diagd_cli.files.paths import path_text
from diagd_cli.files.remote import is_file, local, read_text
from diagd_cli.files.url import Place
from diagd_cli.jobs.models import machine_facts
from diagd_cli.loading import Loaded
from diagd_cli.pipeline import Result
from diagd_cli.preset import Preset
from diagd_cli.weights.locate import digest
from diagd_cli.weights.memory import LIBRARIES, codec_dtype, estimate

if TYPE_CHECKING:
    from diagd_cli.jobs.generation import Generation
    from diagd_cli.jobs.prompts import Prompts
    from diagd_cli.jobs.work import Work

CPU = "cpu"


def steered_by(
    preset: Preset, actions: np.ndarray | None, result: Result | None = None
) -> list | None:
    """The actions as a sidecar tells them: of the frames of a result, or of all."""
    if actions is None or preset.actions is None:
        return None
    made = len(actions) if result is None else result.context + result.new
    return preset.actions.describe(actions[:made])


def gaps_text(result: Result) -> str:
    """How evenly frames were completed, for people; "" where there is one."""
    told, ms = result.evenness, 1000
    if result.new < 2:
        return ""
    return f"then one every {told['median'] * ms:.0f} ms (at most {told['longest'] * ms:.0f}), "


def fps(generation: Generation, clip: Clip) -> float:
    """Frames per second of the output: the clip's, or the preset's for a still image."""
    return clip.fps or generation.preset.clip.fps


def source(generation: Generation, work: Work) -> dict:
    """What a sidecar tells of the clip that is continued; of none, that it is none."""
    clip = work.clip
    if generation.of_nothing:
        return {"path": None, "sha256": "", "first": clip.first}
    told = {
        "path": path_text(work.target.clip),
        "sha256": clip.sha256,
        "first": clip.first,
        "start": generation.start,
        "fps": fps(generation, clip),
    }
    return told | ({"damage": clip.damage} if clip.damage else {})


def unfinished(generation: Generation, work: Work) -> dict:
    """The sidecar of a video while it grows under its own name: what a killed run leaves is known
    by it.
    """
    about = {"output": path_text(work.target.output), "unfinished": process_name()}
    return {
        **about,
        "settings": generation.choices(work.target),
        "input": source(generation, work),
    }


def describe(
    generation: Generation,
    loaded: Loaded,
    work: Work,
    result: Result,
    written: Path,
    first_frame: dict[str, float],
    prompt: dict[str, str],
) -> dict:
    """The sidecar of a clip that is made: settings, input, machine, counts, times.

    written: where its MP4 is now.
    first_frame: see `first_frame`.
    prompt: what is told of its text.
    """
    preset, machine = generation.preset, generation.machine
    compiling = {"compile": loaded.compile_seconds} if machine.compile else {}
    seconds = {"load": loaded.seconds, **compiling, **result.seconds}
    return {
        "output": path_text(work.target.output),
        "output_sha256": digest(written),
        "settings": generation.choices(work.target),
        "input": source(generation, work),
        "weights": machine.weights_of(preset),
        "steered_by": steered_by(preset, work.actions, result),
        **prompt,
        **machine_facts(loaded, named=True),
        "context_frames": result.context,
        "new_frames": result.new,
        **({"stopped": True} if result.stopped else {}),
        "tokens": result.tokens,
        "batch": result.batch,
        "steps": result.steps,
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "first_frame_seconds": {name: round(value, 4) for name, value in first_frame.items()},
        "frame_seconds": {name: round(value, 4) for name, value in result.evenness.items()},
        "rates": {name: round(value, 3) for name, value in result.rates.items()},
        "peak_memory_bytes": memory(generation, loaded, result),
    }


def first_frame(result: Result, started: float) -> dict[str, float]:
    """Seconds until the pixels of the first new frame, from the start of the decode and from that
    of the command.
    """
    return {"decode": result.first_frame, "command": result.began + result.first_frame - started}


def memory(generation: Generation, loaded: Loaded, result: Result) -> dict[str, int]:
    """Peak bytes so far of this process and the CUDA allocator; before anything was loaded; and as
    predicted.
    """
    machine, on_cpu = generation.machine, loaded.device.type == CPU
    need = estimate(
        generation.preset,
        batch=result.batch,
        frames=generation.frames_held,
        decoding=generation.settings.decoding,
        dtype=loaded.dtype,
        kv_dtype=None if machine.kv_dtype == "auto" else machine.kv_dtype,
        codec_dtype=codec_dtype(loaded.device, loaded.dtype),
        offload=machine.offload and not on_cpu,
        chunk=chunk_on(loaded.device),
        weights=loaded.weights,
        tp=machine.tp,
    )
    base, libraries = (loaded.base, LIBRARIES) if on_cpu else (0, 0)
    return {
        **peak_memory(loaded.device),
        "before": base,
        "predicted": base + libraries + need.total,
    }


def made_before(target: Place) -> dict | None:
    """The sidecar of an output that diagd made, None where there is none: such an output a resumed
    run may replace.

    An output that is still being made by another process is none. Raises OutputError where that of
    a URL cannot be known.
    """
    try:
        made = json.loads(read_text(target.with_suffix(".json")))
        if "unfinished" in made and is_running(made["unfinished"]):
            return None
        told = made["settings"]["preset"] and isinstance(made["input"]["sha256"], str)
        return made if told and ("unfinished" in made or made["output_sha256"]) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def unread(generation: Generation, made: dict, path: Path, sha256: str) -> Clip | None:
    """The clip that a sidecar tells of, without its frames, where the file is the same and so would
    be the context that is read of it; else None.
    """
    told = made["input"]
    known = "start" in told and isinstance(made.get("context_frames"), int)
    if not known or told["sha256"] != sha256 or told["start"] != generation.start:
        return None
    nothing = Clip.nothing(path)
    return replace(nothing, sha256=sha256, first=told["first"])


def matches(generation: Generation, prompts: Prompts, made: dict, work: Work) -> bool:
    """Whether a sidecar tells of these settings and this input."""
    if "unfinished" in made or "stopped" in made:
        return False
    clip, preset = work.clip, generation.preset
    # Of the actions their text may differ; steered_by is what it means.
    free = {"actions", "seed"} if work.target.drawn and generation.resume else {"actions"}
    wanted = generation.choices(work.target)
    before = made["settings"]
    # before there was a choice
    before = {
        **before,
        "decoding": {"window": "roll", "sinks": 0, "attend": 0, **before["decoding"]},
    }
    told, wanted = ({k: v for k, v in s.items() if k not in free} for s in (before, wanted))
    found = (
        made["input"]["sha256"],
        made["input"].get("first"),
        made.get("steered_by"),
        made.get("weights"),
    )
    steered, weights = steered_by(preset, work.actions), generation.machine.weights_of(preset)
    own = (clip.sha256, clip.first, steered, weights)
    text = {
        key: made[key] for key in ("prompt", "prompt_embedding", "negative_prompt") if key in made
    }
    prompt = prompts.about(work.target.clip, work.target.prompt)
    return told == wanted and found == own and text == prompt


def is_whole(generation: Generation, made: dict, output: Place) -> bool:
    """Whether a video and its tokens are those that its sidecar tells of."""
    tokens = not generation.save_tokens or is_file(output.with_suffix(".npz"))
    if not tokens or not is_file(output):
        return False
    with local(output) as path:
        return digest(path) == made["output_sha256"]
