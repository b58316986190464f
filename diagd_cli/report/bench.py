"""What a benchmark found, as records: made by `jobs.benchmark`, shown by a table and a plot, and
written as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class MachineSpeed:
    """What a device can do at best.

    device: as torch names it.
    name: of the hardware.
    threads: of the CPU.
    bandwidth: bytes/s read from memory.
    flops: FLOP/s of products, by dtype.
    flops_by_rows: by dtype, FLOP/s when n rows are multiplied by a matrix that lies in the cache,
        as the Transformer does it. It is there to be read: the limit is the peak.
    """

    device: str
    name: str
    threads: int
    bandwidth: float
    flops: Mapping[str, float]
    flops_by_rows: Mapping[str, Mapping[int, float]]


@dataclass(frozen=True)
class PixelTimes:
    """The tokenizer's decoder at work on one clip.

    seconds: of each repeat.
    frames: that were decoded.
    frames_per_second: by the median.
    """

    seconds: Sequence[float]
    frames: int
    frames_per_second: float


@dataclass(frozen=True)
class ModelTimes:
    """What models in one dtype took beside decoding; pixels: None where they were not asked for."""

    dtype: str
    load_seconds: float
    pixels: PixelTimes | None
    compile_seconds: float


@dataclass(frozen=True)
class Rates:
    """How fast a whole decoding is.

    decode_seconds: of all clips of a batch.
    tokens_per_second, frames_per_second: over all clips of a batch.
    speedup: over the baseline.
    speedup_share: the speed-up over the ratio of steps.
    """

    decode_seconds: float
    tokens_per_second: float
    frames_per_second: float
    speedup: float
    speedup_share: float


@dataclass(frozen=True)
class BenchRow:
    """One decoding at one batch size and dtype.

    decoding: see `Decoding.facts`.
    batch: clips at once.
    steps: of the whole decoding.
    tokens: made, of all clips.
    fed_tokens: fed to the model, of all clips.
    tokens_per_step: mean, of all clips.
    rows: tokens that a step feeds on average.
    timed_steps: how many of the steps were timed.
    seconds: of `prefill` and of the timed steps, `decode`; each a list with one of each repeat.
    ms_per_step: by the median.
    peak_memory_bytes: `host` or `device`, see `device.peak_memory`.
    baseline: index of the row that it is compared with.
    floor_ms_per_step: the least that the machine allows, mean over the steps.
    limit_share: the machine's least time over the time taken, of the timed steps.
    flops_at_rows: FLOP/s of the machine at so many rows.
    extrapolated: whether the rates are, from some steps.
    """

    label: str
    decoding: Mapping
    dtype: str
    batch: int
    steps: int
    tokens: int
    fed_tokens: int
    tokens_per_step: float
    rows: int
    timed_steps: int
    seconds: Mapping[str, Sequence[float]]
    ms_per_step: float
    peak_memory_bytes: Mapping[str, int]
    baseline: int
    floor_ms_per_step: float
    limit_share: float
    flops_at_rows: float
    extrapolated: bool
    rates: Rates

    def facts(self) -> dict:
        """The row as JSON has it.

        The rates of a decoding that was timed to its end stand in the row itself, and
        `extrapolated` is None. Of one that was not, they stand under `extrapolated`, so that
        nothing can take them for measured ones.
        """
        found, rates = asdict(self), asdict(self.rates)
        del found["rates"], found["extrapolated"]
        return (
            {**found, "extrapolated": rates}
            if self.extrapolated
            else {**found, "extrapolated": None, **rates}
        )


@dataclass(frozen=True)
class BenchReport:
    """What a benchmark found.

    preset: its name.
    weights: whose they are, in words.
    versions: of the packages that matter.
    frames, context_frames: new ones and those before them.
    seed: of the drawn codes and tokens.
    sampling: see `Sampling.facts`.
    repeats: runs of each row after the warm-up.
    steps: steps of each that were timed; None for all.
    models: one a dtype.
    """

    preset: str
    weights: str
    machine: MachineSpeed
    versions: Mapping[str, str]
    frames: int
    context_frames: int
    seed: int
    sampling: Mapping
    repeats: int
    steps: int | None
    models: Sequence[ModelTimes]
    rows: Sequence[BenchRow]

    def facts(self) -> dict:
        """The report as JSON has it."""
        settings = ("frames", "context_frames", "seed", "sampling", "repeats", "steps")
        return {
            "preset": self.preset,
            "weights": self.weights,
            "machine": asdict(self.machine),
            "versions": self.versions,
            "settings": {
                **{name: getattr(self, name) for name in settings},
                "context": "codes drawn at random from the seed",
            },
            "models": [asdict(model) for model in self.models],
            "rows": [row.facts() for row in self.rows],
        }
