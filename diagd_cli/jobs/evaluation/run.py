"""An evaluation at work: what is missing is made and measured, and the report is put together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diagd_cli.jobs.evaluation import vbench
from diagd_cli.jobs.evaluation.measurement import Measurement
from diagd_cli.jobs.evaluation.rows import notes_of
from diagd_cli.jobs.evaluation.spread import measured
from diagd_cli.jobs.prompts import Prompts
from diagd_cli.progress import Progress
from diagd_cli.report.evaluation import EvaluationReport

if TYPE_CHECKING:
    from diagd_cli.jobs.cluster import Cluster
    from diagd_cli.jobs.evaluation.request import Evaluating


def run(
    evaluating: Evaluating, prompts: Prompts, progress: Progress, cluster: Cluster | None = None
) -> EvaluationReport:
    """Make and measure every sample that is missing, and say what was found. Raises DiagdError."""
    preset, settings, clips = evaluating.preset, evaluating.settings, evaluating.clips
    scores = vbench.read_results(evaluating.vbench_results, evaluating.folders)
    prompts.embed(progress)
    measurement = Measurement(
        preset=preset,
        scorer=evaluating.scorer,
        settings=settings,
        machine=evaluating.machine,
        clips=clips,
        candidates=evaluating.candidates,
        trials=evaluating.trials,
        prompts=prompts,
        out=evaluating.out,
    )
    if cluster:
        samples = measured(measurement, cluster, progress)
    else:
        shown = evaluating.export_vbench
        samples = measurement.maker(progress, i3d=evaluating.i3d, export=shown)
        for group in measurement.groups:
            samples.add(measurement.cases(group))

    rows = samples.rows(scores)
    return EvaluationReport(
        scope=evaluating.trials.scope(preset, evaluating.scorer, settings, clips),
        rows=rows,
        notes=notes_of(rows, len(clips)),
        machine=samples.machine,
        vbench_commands=evaluating.vbench_commands,
    )
