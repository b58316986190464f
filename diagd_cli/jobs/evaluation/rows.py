"""From records of samples to the rows of the report: means over clips with intervals, paired
differences, distances.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np

from diagd_cli.jobs.evaluation.statistics import distance, estimate
from diagd_cli.jobs.evaluation.store import Record
from diagd_cli.model.inverse import FEATURES
from diagd_cli.report.evaluation import EvaluationRow
from diagd_cli.report.measures import (
    ACTIONS,
    MEASURES,
    NLL,
    PSNR,
    SSIM,
    Distance,
    Estimate,
    Measure,
)

RATES = ("tokens_per_second", "frames_per_second")
FEW_PAIRS = 10 * FEATURES  # real frame pairs; below, FD-inv mostly tells how few there are
FEW_VIDEOS = 2048  # real videos; below, FVD does
Samples = Sequence[Sequence[Record]]  # of one decoding: of every clip, a record a seed


def rows_of(
    truths: Sequence[Record], groups: Sequence[Samples], labels: Sequence[str], context: int
) -> list[EvaluationRow]:
    """A row each for the truth, the tokenizer's copy of it, and every decoding.

    Clips are what varies: a clip's value is the mean over its seeds, and intervals are over clips.

    truths: a record a clip.
    groups: the samples of every decoding.
    labels: of every decoding; differences are to the first.
    context: latent frames, whose tokens are not compared.
    """
    copy = truth_row(
        "tokenizer", truths, {PSNR: PSNR.figure, SSIM: SSIM.figure, ACTIONS: "copied_hits"}
    )
    copy = replace(copy, fd_inv=fd_inv(truths, truths, "copied_features"))
    rows = [truth_row("ground truth", truths, {NLL: NLL.figure, ACTIONS: ACTIONS.figure}), copy]
    first = values_of(groups[0], groups[0], context)
    for label, group in zip(labels, groups, strict=True):
        own = values_of(group, groups[0], context)
        paired = {one.key: known(own[one.key] - first[one.key]) for one in MEASURES}
        records = [record for samples in group for record in samples]
        rows.append(
            EvaluationRow(
                label=label,
                decoding=records[0].about["decoding"],
                steps=records[0].figures["steps"],
                samples=len(records),
                **cast(Any, {name: known(values) for name, values in own.items()}),
                speedup=known(own["tokens_per_second"] / first["tokens_per_second"]),
                by_frame={one.key: by_frame(records, one.figure) for one in MEASURES},
                fd_inv=fd_inv(truths, records, "features"),
                difference=None if label == labels[0] else paired,
            )
        )
    return rows


def values_of(group: Samples, reference: Samples, context: int) -> dict[str, np.ndarray]:
    """Each figure's value of every clip, float64 [clips], NaN where a clip has none; by its key in
    a row.

    reference: the samples whose tokens count as the same ones.
    """
    columns: dict[str, list[float]] = {}
    for own, other in zip(group, reference, strict=True):
        values = {
            one.key: mean([a_number(mean(r.figures.get(one.figure))) for r in own])
            for one in MEASURES
        }
        values |= {name: mean([r.figures[name] for r in own]) for name in RATES}
        pairs = zip(own, other, strict=True)
        codes = [(a.arrays["codes"][context:], b.arrays["codes"][context:]) for a, b in pairs]
        values["token_agreement"] = mean([float(np.mean(a == b)) for a, b in codes])
        for name, value in values.items():
            columns.setdefault(name, []).append(value)
    return {name: np.array(column, dtype=np.float64) for name, column in columns.items()}


def truth_row(
    label: str, truths: Sequence[Record], figures: Mapping[Measure, str]
) -> EvaluationRow:
    """The row of what decodings are held against; figures: by measure, its name in the records."""
    measured = {
        one.key: known(np.array([mean(r.figures.get(name)) for r in truths]))
        for one, name in figures.items()
    }
    frames = {one.key: by_frame(truths, name) for one, name in figures.items()}
    return EvaluationRow(label=label, by_frame=frames, **cast(Any, measured))


def mean(values: Sequence[float | None] | None) -> float:
    """Mean of numbers and bools; None is left out; NaN where nothing is left."""
    found = [value for value in values or () if value is not None]
    return float(np.mean(found)) if found else float("nan")


def a_number(value: float) -> float | None:
    """The value itself; None where it is not a number."""
    return None if np.isnan(value) else value


def known(values: np.ndarray) -> Estimate | None:
    """The estimate of one value a clip, float [clips], rounded as reports have it; None where no
    clip has a value.
    """
    found = estimate(values)
    return found and found.rounded()


def by_frame(records: Sequence[Record], figure: str) -> list[float | None]:
    """Mean of a figure at each new frame (NLL: latent frame) over all samples."""
    columns = zip(*(r.figures[figure] for r in records if r.figures.get(figure)), strict=True)
    return [
        None if (value := a_number(mean(column))) is None else round(value, 4) for column in columns
    ]


def fd_inv(truths: Sequence[Record], records: Sequence[Record], key: str) -> Distance | None:
    """Distance of motion features, which records have by that key; None where the preset has
    nothing that reads them.
    """
    real = [r.arrays["features"] for r in truths if "features" in r.arrays]
    made = [r.arrays[key] for r in records if key in r.arrays]
    return distance(np.concatenate(made), np.concatenate(real)) if made and real else None


def notes_of(rows: Sequence[EvaluationRow], clips: int) -> list[str]:
    """What a reader of the figures must know: samples that are too few to conclude much from."""
    notes = []
    if clips < 2:
        notes.append("One clip: no intervals. Differences say nothing about other clips.")
    elif clips < 10:
        notes.append(f"{clips} clips: intervals over so few are rough, and too narrow.")
    pairs = least_real([row.fd_inv for row in rows], FEW_PAIRS)
    if pairs < FEW_PAIRS:
        text = (
            f"FD-inv is from {pairs} real frame pairs and {FEATURES} features: compare rows with "
            "each other only."
        )
        notes.append(text)
    videos = least_real([row.fvd for row in rows], FEW_VIDEOS)
    if videos < FEW_VIDEOS:
        notes.append(
            f"FVD is from {videos} real videos; published figures take 2,048 and are not "
            "comparable."
        )
    return notes


def least_real(found: Sequence[Distance | None], default: int) -> int:
    """The fewest real samples of any distance; the default where there is no distance."""
    return min(
        (one.real for one in found if one is not None and one.value is not None), default=default
    )
