"""Many decodings over the same clips, to choose by quality and speed: what is asked for, and what
is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from diagd_cli.errors import UsageError
from diagd_cli.files.atomic import together, write_json
from diagd_cli.files.outputs import check_free, check_outputs
from diagd_cli.inputs import clip_inputs, preset_inputs
from diagd_cli.jobs.candidates import check_same_tokens
from diagd_cli.jobs.cluster import Cluster
from diagd_cli.jobs.evaluation.trials import Trials, check_clips, results_of
from diagd_cli.jobs.prompts import Prompts, find_prompts
from diagd_cli.jobs.settings import Machine, Settings
from diagd_cli.jobs.sweeping.bounds import Bound
from diagd_cli.jobs.sweeping.combinations import Combinations
from diagd_cli.jobs.sweeping.preset import write_chosen
from diagd_cli.preset import Preset, is_plain
from diagd_cli.progress import Progress, Silent
from diagd_cli.report import sweep_chart
from diagd_cli.report.measures import ACTIONS
from diagd_cli.report.sweep import SweepReport
from diagd_cli.report.sweep_page import write_page
from diagd_cli.report.sweep_table import write_csv
from diagd_cli.schedule.decoding import Decoding

CSV, JSON, CHART, PAGE = "sweep.csv", "sweep.json", "sweep.png", "sweep.html"


@dataclass(frozen=True)
class Sweeping:
    """What `diagd sweep` is asked for.

    clips: videos that are longer than the context and the new frames together.
    combinations: the decodings, see `jobs.combine`.
    out: folder for the results, CSV, JSON, CHART and PAGE, from which a later call goes on.
    trials: seeds, batch and first frame.
    base: whose next-token prediction scores the tokens; None is the preset itself.
    bounds: within which the fastest is to be named, see `jobs.parse_bounds`; none names none.
    write_preset: where the preset goes whose default is what was named; None writes none.
    chart: whether CHART is drawn, which needs matplotlib.
    force: replace a preset that exists.
    command: what does this again, for the report; "" where there is none.
    """

    preset: Preset
    settings: Settings
    clips: Sequence[Path]
    combinations: Combinations
    out: Path
    trials: Trials = Trials()
    machine: Machine = Machine()
    base: Preset | None = None
    bounds: Sequence[Bound] = ()
    write_preset: Path | None = None
    chart: bool = True
    force: bool = False
    command: str = ""

    @property
    def scorer(self) -> Preset:
        """The preset whose next-token prediction scores the tokens."""
        return self.base or self.preset

    def check(self) -> Prompts:
        """The prompts of the clips.

        Refuses, before any work is done, what cannot be written, drawn or measured.

        Raises DiagdError.
        """
        writes = results_of(self.out, (CSV, JSON, CHART, PAGE))
        if self.write_preset:
            check_name(self.write_preset, self.bounds)
            check_free(self.write_preset, self.force)
            writes.append((self.write_preset, "the new preset"))
        self.preset.require_videos("sweep")
        reads = preset_inputs(self.preset, self.scorer, folder=self.machine.weights_folder)
        reads += clip_inputs(self.preset, self.clips)
        check_outputs(writes, reads, instead="Choose another folder with --out, or another name")
        if self.chart:
            sweep_chart.check()
        check_same_tokens(self.scorer, self.preset)
        if any(bound.measure == ACTIONS for bound in self.bounds) and not reads_actions(
            self.preset
        ):
            raise UsageError(
                f"The preset {self.preset.name} has nothing that reads actions",
                "Bound another measure",
            )
        check_clips(self.clips)
        return find_prompts(self.preset, list(self.clips))


def reads_actions(preset: Preset) -> bool:
    """Whether the preset has inverse dynamics, see `weights.load.load_inverse`."""
    return preset.inverse_weights is not None and bool(preset.actions and preset.actions.names)


def check_name(path: Path, bounds: Sequence[Bound]) -> None:
    """Raise UsageError where no preset can be written under this name, or none will be chosen."""
    if not bounds:
        raise UsageError(
            "--write-preset needs a choice", "Give the bounds with --recommend, such as 'nll<=+2%'"
        )
    if path.suffix not in (".yaml", ".yml"):
        raise UsageError(f"--write-preset is {str(path)!r}", "Name a .yaml file")
    if not is_plain(path.stem):
        raise UsageError(
            f"No preset can be called {path.stem!r}", "Give --write-preset another file name"
        )


def sweep(
    sweeping: Sweeping,
    progress: Progress | None = None,
    on_report: Callable[[SweepReport], object] = lambda report: None,
    cluster: Cluster | None = None,
) -> SweepReport:
    """Measure every decoding, write the reports, and the preset of the choice where one is asked
    for.

    What `out` holds already is not made again; what else it holds of the same clips is in the
    reports, too. Raises UsageError, also where nothing is within the bounds and a preset is to be
    written; OutputError, ClipError and WeightsError.

    on_report: called when the reports are written, before the preset is.
    cluster: whose workers make the samples, on Ray, with the same folders; None is this process.
    """
    progress = progress or Silent()
    prompts = sweeping.check()
    for name, reason in sweeping.combinations.skipped:
        progress.note(f"left out: {name}: {reason}")

    from diagd_cli.jobs.sweeping.run import run  # and torch, which takes long

    report, decodings = run(sweeping, prompts, progress, cluster)
    with progress.stage("drawing"):
        write_reports(report, sweeping.out, sweeping.chart)
    on_report(report)
    if sweeping.write_preset:
        label = report.recommended.label if report.recommended else None
        save(sweeping, sweeping.write_preset, decodings[label] if label else None, progress)
    return report


def write_reports(report: SweepReport, out: Path, chart: bool) -> None:
    """Write all files of a report, or none. Raises MissingExtra, OutputError."""
    title, drawn = f"Decodings of {report.scope.title}", out / CHART if chart else None
    with together() as held:
        write_csv(out / CSV, report.rows)
        if drawn:
            sweep_chart.write_chart(drawn, report.rows, title)
        write_page(out / PAGE, report, title, held.at(drawn) if drawn else None)
        write_json(out / JSON, report.facts())


def save(sweeping: Sweeping, path: Path, decoding: Decoding | None, progress: Progress) -> None:
    """Write the preset of the choice. Raises UsageError where there is none."""
    if decoding is None:
        message = f"No decoding is within the bounds: {path} is not written"
        raise UsageError(message, "Allow more, or sweep other k and d")
    write_chosen(
        path, sweeping.preset, decoding, sweeping.settings.sampling, sweeping.machine.weights_folder
    )
    if not decoding.repair:
        progress.note(f"A preset does not say --no-repair: give it with each use of {path}")
