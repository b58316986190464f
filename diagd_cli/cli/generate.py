"""diagd generate: clips in, MP4s with their continuation out."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from diagd_cli.cli import options as o
from diagd_cli.cli.app import app, explain, guard, report
from diagd_cli.cli.console import Reporter
from diagd_cli.errors import DiagdError, Exit, UsageError

HELP = """Continue video clips: each MP4 holds the clip's context and the frames made after it.

[bold]Examples[/]

  diagd generate walk.mp4                                   # the shipped model, its default k and d

  diagd generate walk.mp4 --actions 'forward*8,left*8'      # steer it

  diagd generate clips/*.mp4 -o out/ --seed 1 --resume      # many clips; again: only what is missing

  diagd generate walk.mp4 --decoding ntp --frames 32        # next-token prediction, beyond the model's window

  diagd generate walk.mp4 --dry-run                         # show the plan and the paths, make nothing
"""


@app.command(help=HELP)
def generate(
    clips: Annotated[list[Path], typer.Argument(help="Video files (or images, for a preset with one context frame).")],
    preset: o.PresetOption = "freedoom",
    frames: o.FramesOption = None,
    decoding: o.DecodingOption = None,
    k: o.KOption = None,
    d: o.DOption = None,
    stand_in: o.StandInOption = None,
    repair: o.RepairOption = True,
    temperature: o.TemperatureOption = None,
    top_p: o.TopPOption = None,
    top_k: o.TopKOption = None,
    seed: o.SeedOption = None,
    actions: o.ActionsOption = None,
    start: Annotated[
        int | None, typer.Option(min=0, help="First context frame [default: the clip's last ones].")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="An .mp4 file, or a folder.")] = None,
    save_tokens: Annotated[
        bool, typer.Option("--save-tokens", help="Write the token grid beside the MP4 (.npz).")
    ] = False,
    device: o.DeviceOption = "auto",
    dtype: o.DtypeOption = "auto",
    threads: o.ThreadsOption = 0,
    force: o.ForceOption = False,
    resume: Annotated[bool, typer.Option("--resume", help="Skip clips whose output matches these settings.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and the paths; make nothing.")] = False,
    json: o.JsonOption = False,
    quiet: o.QuietOption = False,
    verbose: o.VerboseOption = False,
) -> None:
    reporter = Reporter(quiet, verbose)
    with guard(reporter):
        from diagd_cli.config import load_preset

        chosen = load_preset(preset)
        settings = o.merge(chosen, frames, decoding, k, d, stand_in, repair, temperature, top_p, top_k, seed)
        targets = output_paths(clips, output)
        batch = Batch(chosen, settings, actions, start, save_tokens, force, resume, seed is not None, json, reporter)
        if dry_run:
            batch.show(list(zip(clips, targets, strict=True)))
            return
        o.set_threads(threads)
        failed = batch.run(list(zip(clips, targets, strict=True)), device, dtype)
    raise typer.Exit(Exit.FAILED if failed else Exit.OK)


def output_paths(clips: list[Path], output: Path | None) -> list[Path]:
    """One MP4 path a clip: `-o FILE`, `-o FOLDER` (FOLDER/CLIP.mp4), or CLIP-continued.mp4 here. Raises UsageError."""
    if output is None:
        targets = [Path(f"{clip.stem}-continued.mp4") for clip in clips]
    elif output.suffix.lower() == ".mp4" and not output.is_dir():
        if len(clips) > 1:
            raise UsageError(f"-o {output} is one file for {len(clips)} clips", "Name a folder")
        targets = [output]
    elif output.suffix and not output.is_dir():
        raise UsageError(f"-o {output} does not end in .mp4", "Name an .mp4 file or a folder")
    else:
        targets = [output / f"{clip.stem}.mp4" for clip in clips]
    for i, target in enumerate(targets):
        if target in targets[:i]:
            twin = clips[targets.index(target)]
            raise UsageError(
                f"{twin} and {clips[i]} would both be written to {target}", "Rename one, or run them apart"
            )
        if target.exists() and clips[i].exists() and target.samefile(clips[i]):
            raise UsageError(f"{target} is the input itself", "Choose another output with -o")
    return targets


class Batch:
    """Clips one after another with one loaded model; a clip that fails does not stop the rest."""

    def __init__(self, preset, settings, actions, start, save_tokens, force, resume, seeded, json, reporter):
        self.preset, self.settings, self.actions, self.start = preset, settings, actions, start
        self.save_tokens, self.force, self.resume, self.seeded = save_tokens, force, resume, seeded
        self.json, self.reporter = json, reporter
        self.loaded = None

    def run(self, jobs: list[tuple[Path, Path]], device: str, dtype: str) -> int:
        """Make every clip; returns how many failed."""
        failures = []
        for clip, target in jobs:
            try:
                self.one(clip, target, device, dtype)
            except (DiagdError, MemoryError, RuntimeError) as error:
                if len(jobs) == 1:
                    raise
                report(self.reporter, error)
                failures.append(f"{clip}: {explain(error)}")
        if failures:
            self.reporter.error(
                f"{len(failures)} of {len(jobs)} clips failed: {', '.join(f.split(':')[0] for f in failures)}"
            )
        return len(failures)

    def one(self, path: Path, target: Path, device: str, dtype: str) -> None:
        """Read, generate, write one clip, its sidecar last."""
        from diagd_cli.clip.read import read_clip
        from diagd_cli.clip.write import VideoWriter, check_target, write_json, write_npz

        sidecar, tokens = target.with_suffix(".json"), target.with_suffix(".npz")
        clip = read_clip(path, self.preset.clip.context, self.start)
        if self.resume and (made := self.matching(sidecar, target, clip.sha256)):
            self.reporter.note(f"{target} is there already, with these settings")
            self.reporter.result(made if self.json else str(target))
            return
        for wanted in [target, sidecar, *([tokens] if self.save_tokens else [])]:
            check_target(wanted, self.force or self.resume)
        actions = o.clip_actions(path, self.preset, self.actions, clip.first, self.settings.frames)
        loaded = self.load(device, dtype)
        result = self.generate(loaded, clip, actions)
        started = time.perf_counter()
        with self.reporter.stage("writing"), VideoWriter(target, *result.frames.shape[1:3], self.fps(clip)) as writer:
            writer.write(result.frames)
        if self.save_tokens:
            write_npz(tokens, codes=result.codes, context=result.context)
        result.seconds["write"] = time.perf_counter() - started
        made = self.describe(loaded, clip, result, target, actions)
        write_json(sidecar, made)
        rates = result.rates
        self.reporter.note(
            f"{target}: {self.settings.frames} new frames, {result.steps} steps in {result.seconds['decode']:.2f} s "
            f"({rates['tokens_per_second']:.0f} tokens/s, {rates['frames_per_second']:.1f} frames/s), seed {self.settings.seed}"
        )
        self.reporter.result(made if self.json else str(target))

    def load(self, device: str, dtype: str):
        """The models, loaded once, when the first clip needs them."""
        if self.loaded is None:
            from diagd_cli.engine.device import choose_device, choose_dtype
            from diagd_cli.pipeline import load

            where = choose_device(device)
            with self.reporter.stage(f"loading {self.preset.name}"):
                self.loaded = load(self.preset, where, choose_dtype(dtype, where))
        return self.loaded

    def generate(self, loaded, clip, actions):
        from diagd_cli.pipeline import Request, continue_clip

        s = self.settings
        request = Request(s.frames, s.decoding, s.seed, s.temperature, s.top_k, s.top_p, actions)
        tokens = s.frames * self.preset.grid.area
        with self.reporter.follow(clip.path.name, tokens, s.frames) as follow:
            return continue_clip(loaded, clip, request, follow.stage, follow.on_steps)

    def fps(self, clip) -> float:
        return clip.fps or self.preset.clip.fps

    def choices(self) -> dict:
        """What decides the output, for the sidecar and for --resume."""
        s = self.settings
        given = {k: v for k, v in asdict(s).items() if k not in ("decoding", "frames")}
        k, d, stand_in, repair = s.decoding.resolve(self.preset.grid, self.preset.clip.context)
        decoding = {"method": s.decoding.method, "k": k, "d": d, "stand_in": stand_in, "repair": repair}
        return {"preset": self.preset.name, "frames": s.frames, "decoding": decoding, **given, "actions": self.actions}

    def describe(self, loaded, clip, result, target, actions) -> dict:
        """The sidecar: settings, input, machine, counts, times."""
        from diagd_cli.cli.info import versions
        from diagd_cli.engine.device import device_name, peak_memory

        seconds = {"load": loaded.seconds, **result.seconds}
        weights = [w.sha256 for w in (self.preset.tokenizer_weights, self.preset.transformer_weights)]
        return {
            "output": str(target),
            "settings": self.choices(),
            "input": {"path": str(clip.path), "sha256": clip.sha256, "first": clip.first, "fps": self.fps(clip)},
            "weights": dict(zip(("tokenizer", "transformer"), weights, strict=True)),
            "steered_by": actions,
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

    def matching(self, sidecar: Path, target: Path, digest: str) -> dict | None:
        """The sidecar's content when it tells of these settings and this input, and its MP4 is there."""
        import json

        try:
            made = json.loads(sidecar.read_text(encoding="utf-8"))
            settings, wanted = dict(made["settings"]), self.choices()
            if not self.seeded:
                settings["seed"] = wanted["seed"]
            same = settings == wanted and made["input"]["sha256"] == digest
            first = self.start is None or made["input"]["first"] == self.start
            return made if same and first and target.is_file() else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def show(self, jobs: list[tuple[Path, Path]]) -> None:
        """What would be done: the plan and the paths."""
        from diagd_cli.cli.plan import summary

        facts = summary(
            self.preset.grid, self.preset.clip.context, self.settings.frames, self.settings.decoding, self.preset
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
