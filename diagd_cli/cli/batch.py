"""What diagd generate does with its clips: one after another, each an MP4 and a sidecar that tells how it was made."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from diagd_cli.cli import options as o
from diagd_cli.cli.app import report
from diagd_cli.cli.console import Reporter, path_text

if TYPE_CHECKING:
    import numpy as np

    from diagd_cli.cli.prompts import Prompts
    from diagd_cli.clip.read import Clip
    from diagd_cli.config import Preset
    from diagd_cli.pipeline import Loaded, Result


@dataclass
class Batch:
    """Clips one after another with one loaded model; a clip that fails does not stop the rest."""

    preset: Preset
    settings: o.Settings
    actions: str | None  # the text of --actions
    asked: np.ndarray | None  # what it means
    prompts: Prompts
    start: int | None
    device: str
    dtype: str
    threads: int
    folder: Path | None  # of weights
    random: bool  # weights
    save_tokens: bool
    force: bool
    resume: bool
    seeded: bool
    json: bool
    reporter: Reporter
    alone: bool
    loaded: Loaded | None = None
    failed: list[str] = field(default_factory=list)

    def run(self, jobs: list[tuple[Path, Path]]) -> int:
        """Make every clip; returns how many failed."""
        for path, target in jobs:
            work = None
            with self.attempt(path):
                work = self.prepare(path, target)
            if work:
                loaded = self.load()  # outside the attempt: without a model no clip can be made
                with self.attempt(path):
                    self.make(loaded, target, *work)
        if self.failed:
            self.reporter.error(f"{len(self.failed)} of {len(jobs)} clips failed: {', '.join(self.failed)}")
        return len(self.failed)

    @contextmanager
    def attempt(self, path: Path) -> Iterator[None]:
        """What goes wrong with one clip of several is reported, and the next one follows."""
        try:
            yield
        except Exception as error:
            if self.alone or isinstance(error, BrokenPipeError):
                raise
            report(self.reporter, error)
            self.failed.append(str(path))

    def prepare(self, path: Path, target: Path) -> tuple | None:
        """The clip and what steers it, when it is to be made and may be; None when that was done before."""
        from diagd_cli.clip.read import read_clip
        from diagd_cli.clip.write import check_target

        clip = read_clip(path, o.context_of(path, self.preset, self.settings), self.start)
        context = len(clip.frames)
        actions = o.clip_actions(path, self.preset, self.asked, clip.first, context, self.settings.frames)
        made = self.made_before(target) if self.resume else None
        if made and self.matches(made, clip, actions, target):
            self.reporter.note(f"{target} is there already, with these settings")
            self.reporter.result(made if self.json else str(target))
            return None
        for suffix in (target.suffix, ".json", *([".npz"] if self.save_tokens else [])):
            check_target(target.with_suffix(suffix), self.force or made is not None)
        return clip, actions

    def load(self) -> Loaded:
        """The models, loaded once, when the first clip needs them; the text encoder has come and gone before."""
        if self.loaded is None:
            if self.prompts.texts or self.prompts.embedding:
                with self.reporter.stage("reading the prompt"):
                    self.prompts.embed(self.reporter)
            with self.reporter.stage(f"loading {self.preset.name}"):
                self.loaded = o.load_models(
                    self.preset, self.settings, self.device, self.dtype, self.threads, self.folder, self.random
                )
        return self.loaded

    def make(self, loaded: Loaded, target: Path, clip: Clip, actions: np.ndarray | None) -> None:
        """Generate and write one clip, its sidecar last."""
        from diagd_cli.clip.write import VideoWriter, write_json, write_npz

        result = self.generate(loaded, clip, actions)
        started = time.perf_counter()
        with self.reporter.stage("writing"), VideoWriter(target, *result.frames.shape[1:3], self.fps(clip)) as writer:
            writer.write(result.frames)
        if self.save_tokens:
            write_npz(target.with_suffix(".npz"), codes=result.codes, context=result.context)
        result.seconds["write"] = time.perf_counter() - started
        made = self.describe(loaded, clip, result, target, actions)
        write_json(target.with_suffix(".json"), made)
        rates = result.rates
        self.reporter.note(
            f"{target}: {self.settings.frames} new frames, {result.steps} steps in {result.seconds['decode']:.2f} s "
            f"({rates['tokens_per_second']:.0f} tokens/s, {rates['frames_per_second']:.1f} frames/s), "
            f"seed {self.settings.seed}"
        )
        self.reporter.result(made if self.json else str(target))

    def generate(self, loaded: Loaded, clip: Clip, actions: np.ndarray | None) -> Result:
        """What the pipeline makes of a clip, followed on stderr."""
        from diagd_cli.pipeline import continue_clip

        request = o.request(self.settings, self.settings.decoding, actions, self.prompts.of(clip.path))
        new = self.preset.new_latents(self.settings.frames)
        with self.reporter.follow(clip.path.name, new * self.preset.grid.area, self.settings.frames) as follow:
            return continue_clip(loaded, clip, request, follow.stage, follow.on_steps)

    def fps(self, clip: Clip) -> float:
        """Frames per second of the output: the clip's, or the preset's for a still image."""
        return clip.fps or self.preset.clip.fps

    def choices(self) -> dict:
        """What decides the output, for the sidecar and for --resume."""
        s = self.settings
        k, d, stand_in, repair = s.decoding.resolve(self.preset.grid, self.preset.context)
        return {
            **asdict(s),
            "preset": self.preset.name,
            "clip": self.preset.clip.model_dump(),
            "decoding": {"method": s.decoding.method, "k": k, "d": d, "stand_in": stand_in, "repair": repair},
            "actions": self.actions,
            "dtype": self.dtype,
        }

    def weights(self) -> dict[str, str | None]:
        """What tells the weights that the preset names from others."""
        entries = {"tokenizer": self.preset.tokenizer_weights, "transformer": self.preset.transformer_weights}
        if self.random:
            return dict.fromkeys(entries, "random")
        return {role: entry.key if entry else None for role, entry in entries.items()}

    def steered_by(self, actions: np.ndarray | None) -> list | None:
        """The actions as a sidecar tells them."""
        return None if actions is None else self.preset.actions.describe(actions)

    def describe(self, loaded: Loaded, clip: Clip, result: Result, target: Path, actions: np.ndarray | None) -> dict:
        """The sidecar: settings, input, machine, counts, times."""
        from diagd_cli.cli.info import versions
        from diagd_cli.engine.device import device_name, peak_memory

        seconds = {"load": loaded.seconds, **result.seconds}
        return {
            "output": path_text(target),
            "output_sha256": digest(target),
            "settings": self.choices(),
            "input": {"path": path_text(clip.path), "sha256": clip.sha256, "first": clip.first, "fps": self.fps(clip)},
            "weights": self.weights(),
            "steered_by": self.steered_by(actions),
            **self.prompts.about(clip.path),
            "machine": {**machine(loaded), "name": device_name(loaded.device)},
            "versions": versions(),
            "context_frames": result.context,
            "new_frames": len(result.frames) - result.context,
            "tokens": result.tokens,
            "steps": result.steps,
            "seconds": {k: round(v, 4) for k, v in seconds.items()},
            "rates": {k: round(v, 3) for k, v in result.rates.items()},
            "peak_memory_bytes": peak_memory(loaded.device),
        }

    def made_before(self, target: Path) -> dict | None:
        """The sidecar of an output that diagd made, None where there is none: such an output --resume may replace."""
        try:
            made = json.loads(target.with_suffix(".json").read_text(encoding="utf-8"))
            return made if made["settings"]["preset"] and made["input"]["sha256"] and made["output_sha256"] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def matches(self, made: dict, clip: Clip, actions: np.ndarray | None, target: Path) -> bool:
        """Whether a sidecar tells of these settings, this input and the MP4 that is there."""
        free = ["actions"] if self.seeded else ["actions", "seed"]  # the text of --actions; steered_by is what it means
        told, wanted = ({k: v for k, v in s.items() if k not in free} for s in (made["settings"], self.choices()))
        source = (made["input"]["sha256"], made["input"].get("first"), made.get("steered_by"), made.get("weights"))
        own = (clip.sha256, clip.first, self.steered_by(actions), self.weights())
        text = {key: made[key] for key in ("prompt", "prompt_embedding") if key in made}
        same = told == wanted and source == own and text == self.prompts.about(clip.path)
        tokens = not self.save_tokens or target.with_suffix(".npz").is_file()
        return same and tokens and target.is_file() and digest(target) == made["output_sha256"]

    def show(self, jobs: list[tuple[Path, Path]]) -> None:
        """What would be done: the plan and the paths."""
        from diagd_cli.cli.plan import summary

        facts = summary(
            self.preset.grid,
            self.preset.latents(self.settings.context),
            self.preset.new_latents(self.settings.frames),
            self.settings.decoding,
            self.preset,
        )
        for clip, target in jobs:
            if self.json:
                self.reporter.result(
                    {"input": str(clip), "output": str(target), "settings": self.choices(), "plan": facts}
                )
            else:
                self.reporter.result(
                    f"{clip} -> {target}: {facts['label']}, {facts['steps']} steps for {facts['tokens']} tokens"
                )


def machine(loaded) -> dict:
    """Device, dtype and threads in use."""
    import torch

    return {
        "device": str(loaded.device),
        "dtype": str(loaded.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
