"""Rows of a sweep, written by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from diagd_cli.report.evaluation import EvaluationRow, Scope
from diagd_cli.report.measures import MEASURES, Distance, Estimate
from diagd_cli.report.sweep import SweepReport

METHODS = {"NTP": "ntp", "spatial": "spatial", "ZipAR": "zipar"}


def estimate(mean: float, reach: float | None = 0.1) -> Estimate:
    """A mean and its interval, `reach` to either side; None for one clip."""
    low, high = (None, None) if reach is None else (mean - reach, mean + reach)
    return Estimate(mean, low, high, 1 if reach is None else 4)


def row(
    k: int,
    d: int,
    speed: float,
    over: float,
    reach: float | None = 0.02,
    psnr: float = -0.3,
    **changes: Any,
) -> EvaluationRow:
    """A decoding `speed` times as fast as NTP whose NLL is 2 + `over`, the difference known to
    `reach`.
    """
    facts = {"method": "diagd", "k": k, "d": d, "stand_in": "previous-frame", "repair": True}
    facts |= {name: changes.pop(name) for name in list(changes) if name in facts}
    differences = {
        "nll": estimate(over, reach),
        "psnr": estimate(psnr, reach),
        "ssim": estimate(0.0, reach),
    }
    found = EvaluationRow(
        label=f"DiagD k={k} d={d}",
        by_frame={measure.key: [] for measure in MEASURES},
        decoding=facts,
        steps=round(2400 / speed),
        samples=4,
        speedup=estimate(speed),
        tokens_per_second=estimate(90 * speed),
        frames_per_second=estimate(0.3 * speed),
        token_agreement=estimate(0.4),
        nll=estimate(2 + over),
        psnr=estimate(20 + psnr),
        ssim=estimate(0.5),
        fd_inv=Distance(3.2, 32, 32),
        difference={**differences, "action_accuracy": None},
    )
    return replace(found, **changes)


def ntp(**changes: Any) -> EvaluationRow:
    """The row that others are held against: NLL 2, PSNR 20 dB."""
    return replace(
        row(20, 300, 1.0, 0.0, psnr=0.0, method="ntp"), label="NTP", difference=None, **changes
    )


def report(
    rows: list[EvaluationRow], clips: tuple[str, ...] = ("a.mp4",), **changes: Any
) -> SweepReport:
    """A sweep's report."""
    scope = Scope("freedoom", "freedoom", 8, {"top_p": 0.8}, clips, [0], 4)
    found = SweepReport(scope, 4, rows, [], {}, [], {}, None, "diagd sweep a.mp4")
    return replace(found, **changes)
