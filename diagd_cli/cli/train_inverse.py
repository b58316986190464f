"""diagd train inverse: the model that reads actions from frames, for `diagd eval`."""

from __future__ import annotations

from diagd_cli.cli import options as o
from diagd_cli.cli import train as t
from diagd_cli.cli.console import Reporter
from diagd_cli.cli.guard import guard
from diagd_cli.train.requests import InverseRequest

HELP = """\
Train inverse dynamics (two frames -> the action between), by which eval judges steering. \
Not with torchrun."""


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
        products = t.start_training(precision, threads)
        from diagd_cli.train.jobs.inverse import train_inverse

        request = InverseRequest(
            data=data,
            out=t.run_folder(out, recipe),
            recipe=recipe,
            preset=preset,
            steps=steps,
            every=every,
            cache=cache,
            device=device,
            precision=products,
            verbose=verbose,
        )
        reporter.result(str(train_inverse(request, reporter)))
