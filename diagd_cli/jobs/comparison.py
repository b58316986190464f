"""One clip, seed and context, continued by two or more decodings: videos side by side, figures, and
a page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from diagd_cli.clip.image import write_png
from diagd_cli.clip.read import Clip, read_clip
from diagd_cli.files.atomic import Held, together, write_json
from diagd_cli.files.outputs import check_outputs
from diagd_cli.files.paths import path_text
from diagd_cli.inputs import clip_inputs, preset_inputs
from diagd_cli.jobs.candidates import Candidate, others_of
from diagd_cli.jobs.plans import plans_of
from diagd_cli.jobs.prompts import Prompts, find_prompts
from diagd_cli.jobs.settings import Machine, Settings, Steering
from diagd_cli.preset import Preset
from diagd_cli.progress import Progress, Silent
from diagd_cli.report.comparison import Comparison
from diagd_cli.report.figure import figure_class
from diagd_cli.report.page import write_page
from diagd_cli.report.race import pace, write_race
from diagd_cli.report.sheet import contact_sheet_of
from diagd_cli.report.timeline import timeline
from diagd_cli.report.video import write_panels
from diagd_cli.tokens.actions import clip_actions

if TYPE_CHECKING:
    from diagd_cli.loading import Loaded, Request


@dataclass(frozen=True)
class Comparing:
    """What `diagd compare` is asked for.

    output: the MP4; the other files bear its name.
    start: first context frame. What follows the context in the clip is ground truth.
    heat: below each panel its difference to the first one.
    race: also write NAME-race.mp4, frames when the decoders had them.
    sheet: also write a PNG, frames of every panel.
    html: also write a page with all of it.
    command: what does this again, for the report; "" where there is none.
    """

    preset: Preset
    settings: Settings
    clip: Path
    candidates: Sequence[Candidate]
    output: Path
    steering: Steering = Steering()
    machine: Machine = Machine()
    start: int = 0
    heat: bool = False
    race: bool = False
    sheet: bool = False
    html: bool = False
    force: bool = False
    command: str = ""

    def check(self) -> Prompts:
        """The prompt of the clip. Refuses, before any work is done, what cannot be written or
        drawn. Raises DiagdError.
        """
        self.preset.require_pixels("compare")
        steering, machine, target = self.steering, self.machine, self.output
        reads = preset_inputs(
            self.preset,
            *others_of(self.candidates),
            folder=machine.weights_folder,
            weights=not machine.random_weights,
        )
        reads += clip_inputs(
            self.preset,
            [self.clip],
            steering.actions,
            steering.prompt_file,
            steering.prompt_embedding,
        )
        writes = [(target, "the output"), (target.with_suffix(".json"), "the report")]
        writes += [(race_path(target), "the race")] if self.race else []
        writes += [(target.with_suffix(".png"), "the contact sheet")] if self.sheet else []
        writes += [(target.with_suffix(".html"), "the page")] if self.html else []
        check_outputs(writes, reads, force=self.force)
        if self.html:
            figure_class("--html")
        return find_prompts(
            self.preset,
            [self.clip],
            steering,
            machine.random_weights,
            folder=machine.weights_folder,
        )


def race_path(target: Path) -> Path:
    """Where the race of a comparison goes."""
    return target.with_name(f"{target.stem}-race.mp4")


def compare(comparing: Comparing, progress: Progress | None = None) -> dict:
    """Continue the clip by every candidate, write what is asked for, and return the report.

    Raises UsageError, OutputError, ClipError and WeightsError.
    """
    progress, preset = progress or Silent(), comparing.preset
    prompts, settings = comparing.check(), comparing.settings.for_clip(comparing.clip, preset)
    source = read_clip(
        comparing.clip,
        settings.context,
        comparing.start,
        settings.frames,
        whole=True,
        tell=progress.note,
    )
    actions = clip_actions(
        comparing.clip,
        preset.actions,
        preset.parse_actions(comparing.steering.actions),
        comparing.start,
        settings.context,
        settings.frames,
        len(source.future),
    )
    prompts.embed(progress)

    # and torch, which takes long
    from diagd_cli.jobs.models import load_models, load_others, machine_facts

    machine, others = comparing.machine, others_of(comparing.candidates)
    with progress.stage(f"loading {preset.name}"):
        loaded = load_models(preset, comparing.settings, machine, beside=others)
        running = load_others(
            comparing.candidates, loaded, machine.weights_folder, machine.random_weights
        )
    requests = [
        (
            one,
            settings.request(
                one.decoding, actions, prompts.of(comparing.clip), negative=prompts.kept_from
            ),
        )
        for one in comparing.candidates
    ]
    comparison = run_all(loaded, running, source, requests, progress)

    facts = {
        "output": path_text(comparing.output),
        "input": {
            "path": path_text(comparing.clip),
            "sha256": source.sha256,
            "first": comparing.start,
        },
        "preset": preset.name,
        "seed": settings.seed,
        "frames": settings.frames,
        "context_frames": settings.context,
        "sampling": settings.sampling.facts,
        "steered_by": None
        if actions is None or not preset.actions
        else preset.actions.describe(actions),
        **prompts.about(comparing.clip),
        "command": comparing.command,
        "weights": machine.weights_of(preset),
        "tokenizer_limit": comparison.limit and asdict(comparison.limit),
        "decodings": [row.facts() for row in comparison.rows],
        **machine_facts(loaded, named=True),
    }
    with progress.stage("drawing"), together() as held:
        facts |= write_pictures(comparing, comparison)
        if comparing.html:
            write_report(comparing, facts, comparison, held)
        write_json(comparing.output.with_suffix(".json"), facts)
    return facts


def run_all(
    loaded: Loaded,
    others: Mapping[str, Loaded],
    source: Clip,
    requests: Sequence[tuple[Candidate, Request]],
    progress: Progress,
) -> Comparison:
    """Every candidate's request after a short warm-up; and what the tokenizer alone scores on
    ground truth.
    """
    from diagd_cli.jobs.judge import limit_of, rows_of, truth_of
    from diagd_cli.pipeline import continue_clip

    preset, results = loaded.preset, []
    with progress.stage("warming up"):
        continue_clip(loaded, source, replace(requests[-1][1], frames=1))
    for one, request in requests:
        tokens, models = (
            preset.new_latents(request.frames) * preset.grid.area,
            others.get(one.label, loaded),
        )
        with progress.follow(one.label, tokens, request.frames) as follow:
            results.append(continue_clip(models, source, request, follow.stage, follow.on_steps))
    context, truth = results[0].context, truth_of(loaded, source)
    decodings = [(one.label, one.facts(preset, context)) for one, _ in requests]
    return Comparison(
        rows=rows_of(results, decodings, preset.latents(context), truth),
        videos=[result.frames for result in results],
        truth=truth,
        context=context,
        temporal=preset.tokenizer.temporal,
        fps=source.fps or preset.clip.fps,
        limit=limit_of(loaded, source, truth, context),
    )


def write_pictures(comparing: Comparing, comparison: Comparison) -> dict:
    """Write the videos and the contact sheet; what they show, for the report."""
    target = comparing.output
    about: dict = {"heat": write_panels(target, comparison, comparing.heat), "race": None}
    if comparing.race:
        race = race_path(target)
        about["race"] = {"output": path_text(race), **write_race(race, comparison)}
    if comparing.sheet:
        write_png(target.with_suffix(".png"), contact_sheet_of(comparison))
    return about


def write_report(comparing: Comparing, facts: dict, comparison: Comparison, held: Held) -> None:
    """Write the page beside the video, which is `held` back with it."""
    target, preset = comparing.output, comparing.preset
    videos = {"The continuations at the clip's own speed": held.at(target)}
    if heat := facts["heat"]:
        videos = {
            f"The continuations, and below each its difference to {heat['reference']}": held.at(
                target
            )
        }
    if facts["race"]:
        videos[f"The decodings as they ran, {pace(facts['race']['speed'])}"] = held.at(
            race_path(target)
        )
    known, new = preset.latents(comparison.context), preset.new_latents(comparison.new)
    lines = [
        replace(timeline(plans_of(preset.grid, known, new, one.decoding, preset)), label=one.label)
        for one in comparing.candidates
    ]
    write_page(target.with_suffix(".html"), facts, comparison, videos, lines)
