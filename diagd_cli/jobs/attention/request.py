"""Where a preset's model looks while it reads a clip: what is asked for, checked before torch and
the model are loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diagd_cli.clip.read import Clip, read_clip
from diagd_cli.errors import UsageError
from diagd_cli.files.outputs import check_outputs
from diagd_cli.files.paths import path_text
from diagd_cli.inputs import clip_inputs, preset_inputs
from diagd_cli.jobs.prompts import Prompts, find_prompts
from diagd_cli.jobs.settings import Machine, Settings, Steering
from diagd_cli.preset import Preset
from diagd_cli.progress import Progress, Silent
from diagd_cli.report.attention import AttentionMap, AttentionReport
from diagd_cli.report.attention_map import write_map
from diagd_cli.report.attention_table import title
from diagd_cli.report.figure import figure_class
from diagd_cli.tokens.actions import clip_actions


@dataclass(frozen=True)
class AttentionRequest:
    """What `diagd attention` is asked for. The clip's own tokens are read.

    settings: the decoding among them decides what is not yet made.
    frame: latent frame whose tokens ask, from 0; None is the first after the context.
    layer, head: the one to look at, from 0; None is the mean of all.
    radius: rows and columns that are near.
    start: first frame of the clip that is read.
    output: PNG of the map; None draws none.
    force: replace a picture that exists.
    """

    preset: Preset
    settings: Settings
    clip: Path
    frame: int | None = None
    layer: int | None = None
    head: int | None = None
    radius: int = 2
    steering: Steering = Steering()
    machine: Machine = Machine()
    start: int = 0
    output: Path | None = None
    force: bool = False

    @property
    def latent(self) -> int:
        """The latent frame to look at."""
        return (
            min(self.preset.context, self.preset.window - 1) if self.frame is None else self.frame
        )

    def check(self) -> Prompts:
        """The prompt of the clip.

        Refuses, before any work is done, what the model has not and what cannot be written.

        Raises DiagdError.
        """
        preset, steering, random = self.preset, self.steering, self.machine.random_weights
        if steering.negative_prompt is not None:
            message = "attention is that of the clip itself, and --negative-prompt guides"
            raise UsageError(message, "Leave it out")
        if self.latent >= preset.window:
            hint = f"The preset {preset.name} holds frames 0 to {preset.window - 1}"
            raise UsageError(f"The frame is {self.latent}", hint)
        config = preset.transformer
        for name, value, count in (
            ("layer", self.layer, config.layers),
            ("head", self.head, config.heads),
        ):
            if value is not None and value >= count:
                hint = f"The preset {preset.name} has {count}: give 0 to {count - 1}"
                raise UsageError(f"--{name} is {value}", hint)
        if self.output:
            if self.output.suffix.lower() != ".png":
                raise UsageError(f"-o is {str(self.output)!r}", "Name a .png file")
            figure_class("The picture (leave it out with --no-picture)")
            reads = preset_inputs(preset, folder=self.machine.weights_folder, weights=not random)
            given = steering.actions, steering.prompt_file, steering.prompt_embedding
            reads += clip_inputs(preset, [self.clip], *given)
            check_outputs([(self.output, "the picture")], reads, force=self.force)
        return find_prompts(preset, [self.clip], steering, random)


def measure_attention(
    request: AttentionRequest, progress: Progress | None = None
) -> AttentionReport:
    """See where the model looks, and draw it where that is asked for.

    Raises UsageError, OutputError, ClipError and WeightsError.
    """
    progress, preset = progress or Silent(), request.preset
    prompts = request.check()
    source = read_clip(
        request.clip,
        1 + request.latent * preset.tokenizer.temporal,
        request.start,
        tell=progress.note,
    )
    if source.damage:
        progress.note(f"{request.clip} is {source.damage}")
    seen = look(request, source, prompts, progress)
    decoding, grid = request.settings.decoding, preset.grid
    report = AttentionReport(
        clip=path_text(request.clip),
        sha256=source.sha256,
        first=request.start,
        preset=preset.name,
        seen=seen,
        layer=request.layer,
        head=request.head,
        radius=request.radius,
        decoding={"label": decoding.label(grid), **decoding.facts(grid, preset.context)},
        output=path_text(request.output) if request.output else None,
    )
    if request.output:
        write_map(request.output, seen, title(report))
    return report


def look(
    request: AttentionRequest, source: Clip, prompts: Prompts, progress: Progress
) -> AttentionMap:
    """The attention of the frame that is asked about."""
    preset, frame = request.preset, request.latent
    actions = clip_actions(
        request.clip,
        preset.actions,
        preset.parse_actions(request.steering.actions),
        request.start,
        max(frame, 1),  # the actions that lead to the frame
        min(frame, 1),
    )
    prompts.embed(progress)
    with progress.stage(f"loading {preset.name}"):
        from diagd_cli.jobs.attention.reading import attention_map  # and torch, which takes long
        from diagd_cli.jobs.models import load_models
        from diagd_cli.pipeline import encode_frames

        loaded = load_models(preset, request.settings, request.machine)
    with progress.stage("reading"):
        return attention_map(
            loaded,
            encode_frames(loaded, source.frames).cpu().numpy(),
            frame,
            actions=actions,
            text=prompts.of(request.clip),
            layer=request.layer,
            head=request.head,
            radius=request.radius,
            decoding=request.settings.decoding,
        )
