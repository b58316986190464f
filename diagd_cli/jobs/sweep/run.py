"""A sweep's measuring: an evaluation of every combination, and what earlier calls have left in the same folder."""

from __future__ import annotations

from collections.abc import Iterable

from diagd_cli.errors import WeightsError
from diagd_cli.jobs.evaluate.measure import Case
from diagd_cli.jobs.evaluate.run import Evaluation
from diagd_cli.jobs.sweep.combinations import earlier
from diagd_cli.jobs.sweep.front import ranked, unsteady
from diagd_cli.schedule.decoding import labels


def run(evaluation: Evaluation, groups: Iterable[list[Case]], context: int) -> None:
    """Measure groups of clips as far as that is not done; then take in what else has been measured of the same clips.

    context: latent frames. Afterwards `walks` and `made` of the evaluation hold all of it.
    """
    grid = evaluation.models.loaded.preset.grid
    older = earlier(evaluation.store.decodings, list(evaluation.walks.values()), grid, context)
    for group in groups:
        evaluation.add(group)
    for walk, facts in older:
        evaluation.recall(str(facts), walk, facts)
    names = labels(evaluation.walks.values(), grid)  # a name depends on which others there are
    evaluation.made = dict(zip(names, evaluation.made.values(), strict=True))
    evaluation.walks = dict(zip(names, evaluation.walks.values(), strict=True))


def results(evaluation: Evaluation) -> dict:
    """Rows of the decodings, with the front; what they are held against as `limits`; and notes.

    Raises WeightsError where an NLL is not a number, without which there is nothing to choose by.
    """
    found = evaluation.report({})
    limits = [row for row in found["rows"] if "steps" not in row]
    measured, notes = found["rows"][len(limits) :], list(found["notes"])
    if unknown := next((row["label"] for row in measured if not row["nll"]), None):
        message = f"The NLL of {unknown} under the preset {evaluation.models.base.preset.name} is not a number"
        raise WeightsError(message, "Its weights are broken, or its numbers overflow: try others, or --dtype float32")
    rows = ranked(measured)
    if unsteady(rows):
        notes.append(
            "A speed-up is above the ratio of steps: the machine was busy now and then. Do not trust the speeds."
        )
    return {"rows": rows, "limits": limits, "notes": notes}
