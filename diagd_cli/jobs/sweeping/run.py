"""A sweep at work: samples of every decoding, and what earlier calls have left of others in the
same folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from diagd_cli.errors import WeightsError
from diagd_cli.jobs.candidates import Candidate
from diagd_cli.jobs.evaluation.measurement import Measurement
from diagd_cli.jobs.evaluation.rows import notes_of
from diagd_cli.jobs.evaluation.samples import Samples
from diagd_cli.jobs.evaluation.spread import measured
from diagd_cli.jobs.prompts import Prompts
from diagd_cli.jobs.sweeping.bounds import recommend
from diagd_cli.jobs.sweeping.combinations import earlier
from diagd_cli.jobs.sweeping.front import ranked, unsteady
from diagd_cli.progress import Progress
from diagd_cli.report.evaluation import EvaluationRow
from diagd_cli.report.sweep import SweepReport
from diagd_cli.schedule.decoding import Decoding, labels

if TYPE_CHECKING:
    from diagd_cli.jobs.cluster import Cluster
    from diagd_cli.jobs.sweeping.request import Sweeping

UNSTEADY = (
    "A speed-up is above the ratio of steps: the machine was busy now and then. Do not trust the "
    "speeds."
)


def run(
    sweeping: Sweeping, prompts: Prompts, progress: Progress, cluster: Cluster | None = None
) -> tuple[SweepReport, dict[str, Decoding]]:
    """Make and measure every sample that is missing; the report, and its decodings by label.

    Raises DiagdError.
    """
    preset, clips, trials = sweeping.preset, sweeping.clips, sweeping.trials
    samples = measure(sweeping, prompts, progress, cluster)
    rows = samples.rows({})
    limits = [row for row in rows if row.decoding is None]
    measured, notes = ranked_rows(rows[len(limits) :], sweeping), notes_of(rows, len(clips))
    report = SweepReport(
        scope=trials.scope(preset, sweeping.scorer, sweeping.settings, clips),
        context=sweeping.settings.context,
        rows=measured,
        limits=limits,
        skipped=dict(sweeping.combinations.skipped),
        notes=[*notes, UNSTEADY] if unsteady(measured) else notes,
        machine=samples.machine,
        recommended=recommend(measured, sweeping.bounds, len(clips)) if sweeping.bounds else None,
        command=sweeping.command,
    )
    return report, samples.decodings


def measure(
    sweeping: Sweeping, prompts: Prompts, progress: Progress, cluster: Cluster | None
) -> Samples:
    """The samples of every decoding that was asked for, and of those of which the folder has
    all.
    """
    preset, asked = sweeping.preset, sweeping.combinations.decodings
    pairs = zip(labels(asked, preset.grid), asked, strict=True)
    prompts.embed(progress)
    measurement = Measurement(
        preset=preset,
        scorer=sweeping.scorer,
        settings=sweeping.settings,
        machine=sweeping.machine,
        clips=sweeping.clips,
        candidates=[Candidate(*pair) for pair in pairs],
        trials=sweeping.trials,
        prompts=prompts,
        out=sweeping.out,
    )
    samples = measured(measurement, cluster, progress) if cluster else measurement.maker(progress)
    context = preset.latents(sweeping.settings.context)
    others = earlier(samples.store.decodings, asked, preset.grid, context)
    for group in () if cluster else measurement.groups:
        samples.add(measurement.cases(group))
    for decoding, facts in others:
        samples.recall(str(facts), decoding, facts)
    # a name depends on which others there are
    names = labels(samples.decodings.values(), preset.grid)
    samples.made = dict(zip(names, samples.made.values(), strict=True))
    samples.decodings = dict(zip(names, samples.decodings.values(), strict=True))
    return samples


def ranked_rows(rows: Sequence[EvaluationRow], sweeping: Sweeping) -> list[EvaluationRow]:
    """The rows of the decodings, with the front.

    Raises WeightsError where an NLL is not a number, without which there is nothing to choose by.
    """
    if unknown := next((row.label for row in rows if row.nll is None), None):
        message = f"The NLL of {unknown} under the preset {sweeping.scorer.name} is not a number"
        raise WeightsError(
            message,
            "Its weights are broken, or its numbers overflow: try others, or --dtype float32",
        )
    return ranked(rows)
