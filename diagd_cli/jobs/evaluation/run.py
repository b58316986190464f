"""An evaluation at work: the models are loaded, what is missing is made and measured, and the
report is put together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diagd_cli.jobs.candidates import others_of
from diagd_cli.jobs.evaluation import vbench
from diagd_cli.jobs.evaluation.i3d import I3d
from diagd_cli.jobs.evaluation.judged import decisive, load_judged, read_case
from diagd_cli.jobs.evaluation.rows import notes_of
from diagd_cli.jobs.evaluation.samples import Samples
from diagd_cli.jobs.evaluation.store import Store
from diagd_cli.jobs.models import load_others, machine_facts
from diagd_cli.jobs.prompts import Prompts
from diagd_cli.progress import Progress
from diagd_cli.report.evaluation import EvaluationReport

if TYPE_CHECKING:
    from diagd_cli.jobs.evaluation.request import Evaluating


def run(evaluating: Evaluating, prompts: Prompts, progress: Progress) -> EvaluationReport:
    """Make and measure every sample that is missing, and say what was found. Raises DiagdError."""
    preset, settings, machine = evaluating.preset, evaluating.settings, evaluating.machine
    clips, batch, others = (
        evaluating.clips,
        evaluating.trials.batch,
        others_of(evaluating.candidates),
    )
    scores = vbench.read_results(evaluating.vbench_results, evaluating.folders)
    prompts.embed(progress)
    with progress.stage(f"loading {preset.name}"):
        together = min(batch, len(clips))
        models = load_judged(
            preset, evaluating.scorer, settings, machine, batch=together, beside=others
        )
        samples = Samples(
            models=models,
            decodings={one.label: one.decoding for one in evaluating.candidates},
            seeds=evaluating.trials.seeds,
            store=Store(evaluating.out, decisive(models, settings, batch)),
            progress=progress,
            others=load_others(evaluating.candidates, models.loaded, machine.weights_dir),
            i3d=I3d(evaluating.i3d, models.loaded.device) if evaluating.i3d else None,
            export=evaluating.export_vbench,
        )
    for group in evaluating.trials.groups(clips):
        samples.add(
            [read_case(path, preset, settings, evaluating.trials.start, prompts) for path in group]
        )

    rows = samples.rows(scores)
    return EvaluationReport(
        scope=evaluating.trials.scope(preset, evaluating.scorer, settings, clips),
        rows=rows,
        notes=notes_of(rows, len(clips)),
        machine=machine_facts(models.loaded),
        vbench_commands=evaluating.vbench_commands,
    )
