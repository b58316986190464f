"""How fast a preset decodes on this machine: what is asked for, checked before torch and the models
are loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diagd_cli.errors import UsageError
from diagd_cli.files.atomic import together, write_json
from diagd_cli.files.outputs import check_outputs
from diagd_cli.inputs import preset_inputs
from diagd_cli.jobs.settings import AUTO, Machine, Settings
from diagd_cli.preset import Preset
from diagd_cli.progress import Progress, Silent
from diagd_cli.report.bench import BenchReport
from diagd_cli.report.bench_plot import write_plot
from diagd_cli.report.figure import figure_class
from diagd_cli.schedule.decoding import Decoding


@dataclass(frozen=True)
class Benchmark:
    """What `diagd bench` is asked for. The machine's own dtypes are not asked: `dtypes` are.

    decodings: each is timed at every batch size and dtype.
    batches: clips at once.
    dtypes: as --dtypes takes each.
    repeats: runs of each after a warm-up.
    steps: time so many steps of each only, after the first; None times all.
    pixels: whether the tokenizer's decoder is timed, too.
    output: JSON file for the report; None writes none.
    plot: PNG of speed-up against steps; None draws none.
    force: replace files that exist.
    """

    preset: Preset
    settings: Settings
    decodings: Sequence[Decoding]
    batches: Sequence[int] = (1,)
    dtypes: Sequence[str] = (AUTO,)
    machine: Machine = Machine()
    repeats: int = 3
    steps: int | None = None
    pixels: bool = True
    output: Path | None = None
    plot: Path | None = None
    force: bool = False

    def check(self) -> None:
        """Refuse, before any work is done, what cannot be decoded or written. Raises DiagdError."""
        for decoding in self.decodings:
            decoding.resolve(self.preset.grid, self.preset.latents(self.settings.context))
        machine = self.machine
        reads = preset_inputs(
            self.preset, folder=machine.weights_folder, weights=not machine.random_weights
        )
        files = ((self.output, "the report"), (self.plot, "the plot"))
        writes = [(path, what) for path, what in files if path]
        check_outputs(writes, reads, force=self.force, instead="Choose another name for it")
        if self.plot:
            if self.plot.suffix.lower() != ".png":
                raise UsageError(f"--plot is {str(self.plot)!r}", "Name a .png file")
            figure_class("--plot")


def bench(benchmark: Benchmark, progress: Progress | None = None) -> BenchReport:
    """Time every decoding, measure the machine, and write what is asked for.

    The threads are those that torch is set to. Raises UsageError, OutputError and WeightsError.
    """
    benchmark.check()

    from diagd_cli.jobs.benchmark.run import run  # and torch, which takes long

    report = run(benchmark, progress or Silent())
    with together():
        if benchmark.output:
            write_json(benchmark.output, report.facts())
        if benchmark.plot:
            write_plot(benchmark.plot, report)
    return report
