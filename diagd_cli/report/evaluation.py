"""What an evaluation found, as records: made by `jobs.evaluation`, shown by tables, and written as
JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diagd_cli.report.measures import MEASURES, PSNR, Distance, Estimate, Measure, facts_of


@dataclass(frozen=True)
class EvaluationRow:
    """The figures of a decoding; or of what decodings are held against, which has neither
    `decoding` nor steps.

    label: the decoding's name, `ground truth` or `tokenizer`.
    by_frame: by key of each measure that applies, its mean at each new frame (NLL: latent frame).
    decoding: what was asked for, see `Decoding.facts`.
    steps: of the whole decoding of a clip.
    samples: continuations, over all clips and seeds.
    token_agreement: share of tokens that are those of the first decoding.
    tokens_per_second, frames_per_second: of the decode stage, over all clips of a batch.
    speedup: over the first decoding.
    fd_inv: distance of motion features.
    fvd: distance of I3D's features; None where they were not asked for.
    difference: by key of each measure, the paired difference to the first decoding; None for that
        one.
    vbench: VBench's mean by dimension.
    front: whether no other decoding beats it in both speed and NLL; None where that was not asked.
    """

    label: str
    by_frame: Mapping[str, Sequence[float | None]]
    psnr: Estimate | None = None
    ssim: Estimate | None = None
    nll: Estimate | None = None
    action_accuracy: Estimate | None = None
    decoding: Mapping | None = None
    steps: int = 0
    samples: int = 0
    token_agreement: Estimate | None = None
    tokens_per_second: Estimate | None = None
    frames_per_second: Estimate | None = None
    speedup: Estimate | None = None
    fd_inv: Distance | None = None
    fvd: Distance | None = None
    difference: Mapping[str, Estimate | None] | None = None
    vbench: Mapping[str, float] | None = None
    front: bool | None = None

    @property
    def made(self) -> Mapping:
        """The facts of the decoding, which a decoding's row has."""
        assert self.decoding is not None
        return self.decoding

    def estimate(self, measure: Measure) -> Estimate | None:
        """The row's figure for a measure; None where there is none."""
        found: Estimate | None = getattr(self, measure.key)
        return found

    def mean(self, name: str) -> float:
        """The mean of a figure that every decoding has, such as `speedup`."""
        found: Estimate | None = getattr(self, name)
        assert found is not None
        return found.mean

    def change(self, measure: Measure) -> Estimate | None:
        """The measure's paired difference to the first decoding; None where there is none."""
        return self.difference.get(measure.key) if self.difference else None

    def facts(self) -> dict:
        """The row as JSON has it: a row that is no decoding's lacks all that only decodings
        have.
        """
        made = self.decoding is not None
        found: dict[str, Any] = {"label": self.label}
        if made:
            found |= {"decoding": self.decoding, "steps": self.steps, "samples": self.samples}
        found |= {
            one.key: facts_of(self.estimate(one)) for one in MEASURES if one.key in self.by_frame
        }
        if made:
            rates = ("token_agreement", "tokens_per_second", "frames_per_second", "speedup")
            found |= {name: facts_of(getattr(self, name)) for name in rates}
        found["by_frame"] = self.by_frame
        if PSNR.key in self.by_frame:  # else it is the clip itself, which is at no distance
            found["fd_inv"] = facts_of(self.fd_inv)
        if not made:
            return found
        paired = None
        if self.difference is not None:
            paired = {key: facts_of(change) for key, change in self.difference.items()}
        found |= {"difference": paired, "vbench": self.vbench or {}}
        if self.fvd is not None:
            found["fvd"] = facts_of(self.fvd)
        return found if self.front is None else {**found, "front": self.front}


@dataclass(frozen=True)
class Scope:
    """Over what decodings were measured.

    preset, base_preset: names of the one that made the tokens and of the one that scored them.
    frames: new ones of each continuation.
    sampling: temperature and the rest, see `Sampling.facts`.
    clips: their paths.
    seeds: of each clip's continuations.
    batch: clips that were decoded together.
    """

    preset: str
    base_preset: str
    frames: int
    sampling: Mapping
    clips: Sequence[str]
    seeds: Sequence[int]
    batch: int

    @property
    def title(self) -> str:
        """One line: what was measured."""
        count = {"clip": len(self.clips), "seed": len(self.seeds)}
        sizes = ", ".join(f"{n} {name}{'s' * (n != 1)}" for name, n in count.items())
        return f"{self.preset}: {sizes}, {self.frames} new frames"


@dataclass(frozen=True)
class EvaluationReport:
    """What an evaluation found.

    rows: ground truth, the tokenizer's copy of it, and every decoding.
    notes: what a reader of the figures must know, a sentence each.
    machine: where it ran and by which versions, see `jobs.models.machine_facts`.
    vbench_commands: what to run in VBench's environment; None where no videos were exported.
    """

    scope: Scope
    rows: Sequence[EvaluationRow]
    notes: Sequence[str]
    machine: Mapping
    vbench_commands: Sequence[str] | None = None

    def facts(self) -> dict:
        """The report as JSON has it."""
        found = {
            **vars(self.scope),
            "rows": [row.facts() for row in self.rows],
            "notes": self.notes,
            **self.machine,
        }
        return (
            found
            if self.vbench_commands is None
            else {**found, "vbench_commands": self.vbench_commands}
        )
