"""diagd train inverse: the model that reads actions from frames, by which `diagd eval` judges steering."""

from __future__ import annotations

from pathlib import Path

from diagd_cli.cli import options as o
from diagd_cli.cli import train as t
from diagd_cli.cli.console import Reporter
from diagd_cli.cli.guard import guard
from diagd_cli.cli.job import Job, check_run, load_splits, show_loss
from diagd_cli.cli.threads import THREADS, spin_little
from diagd_cli.errors import PresetError, UsageError
from diagd_cli.inputs import preset_inputs

HELP = "Train inverse dynamics (two frames -> the action between), by which eval judges steering. Not with torchrun."


def inverse(
    data: t.DataArgument,
    out: t.OutOption = None,
    recipe: t.RecipeOption = "freedoom",
    preset: t.PresetOption = None,
    steps: t.StepsOption = None,
    every: t.EveryOption = 200,
    cache: t.CacheOption = None,
    device: o.DeviceOption = "auto",
    precision: t.PrecisionOption = "auto",
    threads: o.ThreadsOption = 0,
    quiet: o.QuietOption = False,
    verbose: o.VerboseOption = False,
) -> None:
    reporter = Reporter(quiet, verbose)
    with guard(reporter, training=True):
        spin_little()
        from diagd_cli.device import choose_device
        from diagd_cli.families.freedoom.actions import NamedActions
        from diagd_cli.train.inverse import SETTINGS
        from diagd_cli.train.parallel import started
        from diagd_cli.train.recipe import load_recipe, recipe_path, trained_preset

        o.one_of(precision, t.PRECISIONS, "'--precision'")
        if started() > 1:
            raise UsageError(
                f"These are {started()} processes, and one trains inverse dynamics", "Start it without torchrun"
            )
        THREADS.fix(threads)
        chosen, out = load_recipe(recipe), out or Path("runs") / Path(recipe).stem
        model = trained_preset(chosen, out, preset)
        reads = [*preset_inputs(model, weights=False), (recipe_path(recipe), "the recipe")]
        reads += [(Path(preset), "the preset")] if preset else []
        check_run(out, "inverse", data, model, reads, cache)
        if not isinstance(model.actions, NamedActions):
            hint = "Inverse dynamics reads named actions: name them under actions, with kind: names"
            raise PresetError(f"The preset {model.name} has no named actions", hint)
        settings = SETTINGS.model_copy(update={"steps": steps} if steps else {})
        options = {"every": every, "precision": precision}
        job = Job(
            data, out, chosen, model, settings, choose_device(device), False, cache, None, options, reporter
        )  # fmt: skip
        reporter.result(str(train(job)))


def train(job: Job) -> Path:
    """Train it, say how well it reads the validation clips (`inverse/confusion.json`), and write the preset."""
    import torch

    from diagd_cli.files.atomic import together, write_json
    from diagd_cli.model.inverse import InverseDynamics
    from diagd_cli.train.data import load_episodes
    from diagd_cli.train.inverse import Pairs, accuracies, confusion, train_inverse
    from diagd_cli.train.recipe import write_preset
    from diagd_cli.weights.load import save_weights

    preset, settings, folder = job.preset, job.settings, job.out / "inverse"
    splits = load_splits(job, "reading {}", lambda name, show: load_episodes(job.data, name, preset, show, job.cache))
    pairs = [Pairs(episodes, preset.actions) for episodes in splits]
    torch.manual_seed(settings.seed)
    names = preset.actions.names
    model = InverseDynamics(len(names)).to(job.device)
    with job.reporter.bar("inverse dynamics", settings.steps) as bar:
        run = train_inverse(model, *pairs, settings, folder, on_step=show_loss(bar), **job.fit)
    table = confusion(run.shipped(), pairs[1])
    shares = accuracies(table)
    by_action = zip(names, shares["by_action"], strict=True)
    told = ", ".join(f"{name} {share:.0%}" for name, share in by_action if share is not None)
    job.reporter.note(f"read right: {shares['accuracy']:.1%} of {table.sum()} validation pairs ({told})")
    with together():
        write_json(folder / "confusion.json", {"actions": names, **shares, "confusion": table.tolist()})
        entry = save_weights(job.out / "inverse.safetensors", run.weights, torch.float16)
        return write_preset(preset, job.out, inverse_weights=entry)
