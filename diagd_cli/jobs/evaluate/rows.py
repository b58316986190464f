"""From records to the rows of the report: means over clips with intervals, paired differences, Frechet distances."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from diagd_cli.jobs.evaluate.statistics import estimate, frechet
from diagd_cli.jobs.evaluate.store import Record
from diagd_cli.model.inverse import FEATURES

MEASURES = ("psnr", "ssim", "nll", "action_accuracy")  # of which differences are told, too
PLAIN = ("token_agreement", "tokens_per_second", "frames_per_second")
BY_FRAME = {"psnr": "psnr", "ssim": "ssim", "nll": "nll", "action_accuracy": "hits"}  # and where a record has them
FEW_PAIRS, FEW_VIDEOS = 10 * FEATURES, 2048  # below these a Frechet distance mostly tells how few samples there are


def mean(values: list | None) -> float:
    """Mean of numbers, bools and None (left out); NaN where there is none."""
    known = [value for value in values or [] if value is not None]
    return float(np.mean(known)) if known else float("nan")


def rows_of(truths: list[Record], groups: list[list[list[Record]]], labels: list[str], context: int) -> list[dict]:
    """A row each for the truth, the tokenizer's copy of it, and every decoding, as JSON can hold them.

    truths: one a clip. groups: of every decoding, of every clip, a record a seed. context: latent frames. Clips are what
    varies: a clip's value is the mean over its seeds, and intervals are over clips.
    """
    first = cells(groups[0], groups[0], context)
    copy = _truth_row("tokenizer", truths, "copied_hits", ("psnr", "ssim"))
    rows = [_truth_row("ground truth", truths, "hits", ("nll",)), copy]
    copy["fd_inv"] = fd_inv(truths, truths, "copied_features")
    for label, group in zip(labels, groups, strict=True):
        values = cells(group, groups[0], context)
        flat = [record for own in group for record in own]
        row = {"label": label, "decoding": flat[0].about["decoding"]}
        row |= {"steps": flat[0].figures["steps"], "samples": len(flat)}
        row |= {name: told(values[name]) for name in (*MEASURES, *PLAIN)}
        row["speedup"] = told(values["tokens_per_second"] / first["tokens_per_second"])
        row["by_frame"] = {name: by_frame(flat, key) for name, key in BY_FRAME.items()}
        row["fd_inv"] = fd_inv(truths, flat, "features")
        paired = {name: told(values[name] - first[name]) for name in MEASURES}
        rows.append(row | {"difference": paired if label != labels[0] else None})
    return rows


def cells(group: list[list[Record]], reference: list[list[Record]], context: int) -> dict[str, np.ndarray]:
    """Each measure's value of every clip, float64 [clips], NaN where a clip has none."""
    values: dict[str, list[float]] = {name: [] for name in (*MEASURES, *PLAIN)}
    for own, other in zip(group, reference, strict=True):
        for name in MEASURES:
            values[name].append(mean([_known(mean(r.figures.get(BY_FRAME[name]))) for r in own]))
        for name in PLAIN[1:]:
            values[name].append(mean([r.figures[name] for r in own]))
        codes = [(a.arrays["codes"][context:], b.arrays["codes"][context:]) for a, b in zip(own, other, strict=True)]
        values["token_agreement"].append(mean([float(np.mean(a == b)) for a, b in codes]))
    return {name: np.array(column, dtype=np.float64) for name, column in values.items()}


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


def _truth_row(label: str, truths: list[Record], hits: str, kept: tuple[str, ...]) -> dict:
    keys = {name: BY_FRAME[name] for name in kept} | {"action_accuracy": hits}
    row = {name: told(np.array([mean(r.figures.get(key)) for r in truths])) for name, key in keys.items()}
    return {"label": label, **row, "by_frame": {name: by_frame(truths, key) for name, key in keys.items()}}


def told(values: np.ndarray) -> dict | None:
    """An estimate as JSON can hold it."""
    found = estimate(values)
    return found and {key: round(v, 5) if isinstance(v, float) else v for key, v in asdict(found).items()}


def by_frame(records: list[Record], key: str) -> list[float | None]:
    """Mean of a figure at each new frame (NLL: latent frame) over all samples."""
    columns = zip(*(r.figures[key] for r in records if r.figures.get(key)), strict=True)
    return [None if (value := _known(mean(list(column)))) is None else round(value, 4) for column in columns]


def fd_inv(truths: list[Record], records: list[Record], key: str) -> dict | None:
    """Frechet distance of motion features, and of how many frame pairs on each side."""
    real = [r.arrays["features"] for r in truths if "features" in r.arrays]
    made = [r.arrays[key] for r in records if key in r.arrays]
    return distance(np.concatenate(made), np.concatenate(real)) if made and real else None


def distance(made: np.ndarray, real: np.ndarray) -> dict | None:
    """Frechet distance of features [n, D] and [m, D] with the sizes of the samples; None where they are too few."""
    value = frechet(made, real)
    return None if value is None else {"value": round(value, 4), "samples": len(made), "real": len(real)}


def notes_of(rows: list[dict], clips: int) -> list[str]:
    """What a reader of the figures must know: samples that are too few to conclude much from."""
    notes = []
    if clips < 2:
        notes.append("One clip: no intervals. Differences say nothing about other clips.")
    elif clips < 10:
        notes.append(f"{clips} clips: intervals over so few are rough, and too narrow.")
    pairs = min((row["fd_inv"]["real"] for row in rows if row.get("fd_inv")), default=FEW_PAIRS)
    if pairs < FEW_PAIRS:
        text = f"FD-inv is from {pairs} real frame pairs and {FEATURES} features: compare rows with each other only."
        notes.append(text)
    videos = min((row["fvd"]["real"] for row in rows if row.get("fvd")), default=FEW_VIDEOS)
    if videos < FEW_VIDEOS:
        notes.append(f"FVD is from {videos} real videos; published figures take 2,048 and are not comparable.")
    return notes
