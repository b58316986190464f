"""What an evaluation and a sweep have in common: of every clip the truth, and its continuations by
every decoding and seed, made and measured here or on a cluster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diagd_cli.jobs.candidates import Candidate, others_of
from diagd_cli.jobs.evaluation.i3d import I3d
from diagd_cli.jobs.evaluation.judged import decisive, load_judged, read_case
from diagd_cli.jobs.evaluation.measure import Case
from diagd_cli.jobs.evaluation.samples import Samples
from diagd_cli.jobs.evaluation.store import Store
from diagd_cli.jobs.evaluation.trials import Trials
from diagd_cli.jobs.models import load_others, machine_facts
from diagd_cli.jobs.prompts import Prompts
from diagd_cli.jobs.settings import Machine, Settings
from diagd_cli.preset import Preset
from diagd_cli.progress import Progress


@dataclass(frozen=True)
class Measurement:
    """What is measured; it travels to the workers of a cluster.

    scorer: whose next-token prediction scores the tokens.
    prompts: of the clips; `embed` has been called.
    out: folder of what has been measured before; None where there is none.
    """

    preset: Preset
    scorer: Preset
    settings: Settings
    machine: Machine
    clips: Sequence[Path]
    candidates: Sequence[Candidate]
    trials: Trials
    prompts: Prompts
    out: Path | None = None

    @property
    def groups(self) -> list[Sequence[Path]]:
        """The clips as they are decoded together."""
        return self.trials.groups(self.clips)

    def cases(self, group: Sequence[Path]) -> list[Case]:
        """Clips of a group, read. Raises ClipError."""
        asked = self.preset, self.settings, self.trials.start, self.prompts
        return [read_case(path, *asked) for path in group]

    def samples(self, store: Store, machine: dict, progress: Progress) -> Samples:
        """What is in a store, without models to make more; machine: what has made it."""
        return Samples(
            preset=self.preset,
            context=self.settings.context,
            decodings={one.label: one.decoding for one in self.candidates},
            presets={one.label: one.preset for one in self.candidates if one.preset},
            seeds=self.trials.seeds,
            store=store,
            machine=machine,
            progress=progress,
        )

    def maker(
        self,
        progress: Progress,
        *,
        written: bool = True,
        i3d: Path | None = None,
        export: Path | None = None,
    ) -> Samples:
        """What is in `out`, with models to make the rest. Raises DiagdError.

        written: whether what is made is written there, too.
        i3d, export: as in `Samples`.
        """
        preset, machine, batch = self.preset, self.machine, self.trials.batch
        with progress.stage(f"loading {preset.name}"):
            models = load_judged(
                preset,
                self.scorer,
                self.settings,
                machine,
                batch=min(batch, len(self.clips)),
                beside=others_of(self.candidates),
            )
            store = Store(self.out, decisive(models, self.settings, batch), written)
            samples = self.samples(store, machine_facts(models.loaded), progress)
            samples.models = models
            folder = machine.weights_folder
            samples.others = load_others(self.candidates, models.loaded, folder)
            samples.i3d = I3d(i3d, models.loaded.device) if i3d else None
            samples.export = export
        return samples
