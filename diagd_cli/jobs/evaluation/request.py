"""How faithful decodings are, over clips and seeds: what is asked for, checked before torch and the
models are loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diagd_cli.errors import UsageError
from diagd_cli.files.atomic import together, write_json, write_text
from diagd_cli.files.outputs import Named, check_outputs
from diagd_cli.files.paths import path_text
from diagd_cli.inputs import clip_inputs, preset_inputs
from diagd_cli.jobs.candidates import Candidate, check_same_tokens, others_of
from diagd_cli.jobs.cluster import Cluster
from diagd_cli.jobs.evaluation import vbench
from diagd_cli.jobs.evaluation.trials import Trials, check_clips, results_of
from diagd_cli.jobs.prompts import Prompts, find_prompts
from diagd_cli.jobs.settings import Machine, Settings
from diagd_cli.preset import Preset
from diagd_cli.progress import Progress, Silent
from diagd_cli.report.evaluation import EvaluationReport
from diagd_cli.report.evaluation_table import markdown

REPORT, TABLE = "report.json", "table.md"


@dataclass(frozen=True)
class Evaluating:
    """What `diagd eval` is asked for.

    clips: videos that are longer than the context and the new frames together.
    candidates: the decodings, see `jobs.candidates_of`; the first is what others are held against.
    trials: seeds, batch and first frame.
    base: whose next-token prediction scores the tokens; None is the preset itself.
    out: folder for the results, REPORT and TABLE, from which a later call goes on; None writes none
        of them.
    i3d: I3D as TorchScript, for FVD. It is a program, and is run.
    export_vbench: folder for videos that VBench is to judge; None writes none.
    vbench_results: what VBench found of exported videos.
    """

    preset: Preset
    settings: Settings
    clips: Sequence[Path]
    candidates: Sequence[Candidate]
    trials: Trials = Trials()
    machine: Machine = Machine()
    base: Preset | None = None
    out: Path | None = None
    i3d: Path | None = None
    export_vbench: Path | None = None
    vbench_results: Sequence[Path] = ()

    @property
    def scorer(self) -> Preset:
        """The preset whose next-token prediction scores the tokens."""
        return self.base or self.preset

    @property
    def folders(self) -> list[str]:
        """The folder of each decoding's videos, below that for VBench."""
        return [
            vbench.folder_of(one.facts(self.preset, self.settings.context))
            for one in self.candidates
        ]

    @property
    def vbench_commands(self) -> list[str] | None:
        """What to run in VBench's environment; None where no videos are exported."""
        if self.export_vbench is None:
            return None
        return [path_text(line) for line in vbench.commands(self.export_vbench, self.folders)]

    def check(self) -> Prompts:
        """The prompts of the clips.

        Refuses, before any work is done, what cannot be written or measured.

        Raises DiagdError.
        """
        vbench.read_results(self.vbench_results, self.folders)
        self.preset.require_videos("eval")
        presets = (self.preset, self.scorer, *others_of(self.candidates))
        reads = preset_inputs(*presets, folder=self.machine.weights_folder) + clip_inputs(
            self.preset, self.clips
        )
        reads += [(self.i3d, "I3D")] if self.i3d else []
        reads += [(path, "VBench's result") for path in self.vbench_results]
        writes = results_of(self.out, (REPORT, TABLE)) if self.out else []
        check_outputs(writes + self._videos(), reads, instead="Choose other folders")
        check_same_tokens(self.scorer, self.preset)
        check_clips(self.clips)
        return find_prompts(self.preset, list(self.clips))

    def _videos(self) -> list[Named]:
        """The videos for VBench. Raises OutputError where their folders hold others."""
        if self.export_vbench is None:
            return []
        names = {
            vbench.video_name(n, clip, seed)
            for n, clip in enumerate(self.clips)
            for seed in self.trials.seeds
        }
        folders = [self.export_vbench / folder for folder in self.folders]
        for folder in folders:
            vbench.check_export(folder, names)
        return [
            (folder / name, "a video for VBench") for folder in folders for name in sorted(names)
        ]


def evaluate(
    evaluating: Evaluating, progress: Progress | None = None, cluster: Cluster | None = None
) -> EvaluationReport:
    """Continue every clip by every decoding and seed, measure what was made, and write what is
    asked for.

    cluster: whose workers do that, on Ray, with the same folders; None is this process.

    What `out` holds already is not made again. Raises UsageError, OutputError, ClipError and
    WeightsError.
    """
    progress = progress or Silent()
    if cluster and (evaluating.i3d or evaluating.export_vbench):
        option = "--i3d" if evaluating.i3d else "--export-vbench"
        raise UsageError(
            f"{option} needs the frames, and they stay with the workers of --ray",
            "Leave it out, and give it with the same --out afterwards, without --ray",
        )
    prompts = evaluating.check()

    from diagd_cli.jobs.evaluation.run import run  # and torch, which takes long

    report = run(evaluating, prompts, progress, cluster)
    if evaluating.out:
        with together():
            write_json(evaluating.out / REPORT, report.facts())
            write_text(evaluating.out / TABLE, markdown(report))
    return report
