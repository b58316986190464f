"""Decoding on a quiet machine and on one whose cores have other work.

Each contestant continues a shipped clip by the command line, in a process of its own. A busy
machine has one other process a core, which never rests. "as it comes" is what somebody gets who
sets nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from benchmarks import common
from benchmarks.common import Lap
from diagd_cli.cli.threads import NUMBER, WAITING
from diagd_cli.preset_files import preset_folder

CLIP = preset_folder() / "freedoom" / "clips" / "rooms.mp4"


def main(argv: list[str] | None = None) -> None:
    parser = common.options(__doc__)
    parser.add_argument("--frames", type=int, default=8, help="new frames")
    parser.add_argument(
        "--decoding", default="diagd", help="ntp, spatial or diagd, with the preset's k and d"
    )
    args = common.parse(parser, argv)
    runs = {
        "as it comes": partial(generate, args, {}),
        f"{args.threads} threads": partial(generate, args, {}, "--threads", args.threads),
        "one thread": partial(generate, args, {}, "--threads", 1),
        f"{args.threads} threads that do not spin": partial(
            generate, args, {"GOMP_SPINCOUNT": "0"}, "--threads", args.threads
        ),
    }
    rows: list[dict] = []
    for busy in (0, os.cpu_count() or 1):
        with others(busy):
            laps = {name: [] for name in runs}
            for _ in range(args.repeats):
                for name, run in runs.items():
                    laps[name].append(run())
        for name, own in laps.items():
            rows.append({"contestant": name, "other processes": busy, **common.figures(own)})
    common.report("busy", args, rows)


def generate(args, variables: dict[str, str], *options: object) -> Lap:
    """The decoding's time of one `diagd generate`, with these variables and no others about
    threads.
    """
    environment = {
        name: value for name, value in os.environ.items() if name not in (NUMBER, *WAITING)
    } | variables
    with tempfile.TemporaryDirectory() as folder:
        words = [
            "generate",
            CLIP,
            "--frames",
            args.frames,
            "--decoding",
            args.decoding,
            "--seed",
            0,
            "--json",
            "-q",
        ]
        command = [
            sys.executable,
            "-m",
            "diagd_cli",
            *map(str, [*words, *options, "-o", Path(folder) / "made.mp4"]),
        ]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    made = json.loads(done.stdout)
    return Lap(made["seconds"]["decode"], made["steps"], made["tokens"])


@contextmanager
def others(count: int):
    """`count` processes that never rest."""
    with ExitStack() as stack:
        for _ in range(count):
            process = stack.enter_context(
                subprocess.Popen([sys.executable, "-c", "while True: pass"])
            )
            stack.callback(process.kill)
        yield


if __name__ == "__main__":
    main()
