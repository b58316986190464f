"""What a GPU gives, in one prepared run of some minutes, with nothing to download: is it right, how
fast is it, and where does a step go.

Weights are random but for the shipped preset's. Figures are written as they come, so that a run
that is cut off still tells; what there is no time left for is told as such. `--tiny` takes the same
way at sizes for a CPU, which tells nothing but that the script works.

python -m benchmarks.gpu --minutes 8 --out results
"""

from __future__ import annotations

import argparse
import json
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks import common
from benchmarks.gpu_fast import (
    FAST,
    NTP,
    SMALLEST,
    Model,
    ceilings,
    endless,
    passes,
    profiled,
    speeds,
)
from benchmarks.gpu_right import IN_8_BITS, correctness
from diagd_cli import Decoding
from diagd_cli.device import choose_device

# of each kind of positions, conditioning and tokens
FAMILIES = ("freedoom", "mineworld-300m", "cosmos-4b", "cosmos-5b-video2world")
PROFILES = 2  # of the first models

MODELS = [
    Model("freedoom", 40, (NTP, Decoding("diagd", 2, 10, window="slide")), ("float32", "bfloat16")),
    Model("cosmos-4b", 24, (NTP, Decoding("diagd", 2, 10), FAST), ("bfloat16", SMALLEST)),
    Model("mineworld-700m", 15, (NTP, Decoding("diagd", 2, 28), Decoding("diagd", 1, 14))),
    Model("cosmos-12b", 24, (NTP, Decoding("diagd", 2, 10), FAST), ("bfloat16", SMALLEST)),
]


class Log:
    """Rows on paper and in a JSON file, which is whole after each of them."""

    def __init__(self, path: Path, about: dict, seconds: float):
        self.path, self.about, self.ends = path, about, time.monotonic() + seconds
        self.rows: list[dict] = []
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, row: dict) -> None:
        self.rows.append(row)
        facts = {**self.about, "rows": self.rows}
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(facts, indent=1) + "\n")
        part.replace(self.path)
        print("  ".join(f"{key} {_short(value)}" for key, value in row.items()), flush=True)

    def take(self, name: str, work: Callable[[], Iterator[dict]]) -> None:
        """Add the rows of a part, or why it has none: a part that fails does not stop the next."""
        if time.monotonic() > self.ends:
            self.add({"part": name, "left out": "no time was left"})
            return
        try:
            for row in work():
                self.add({"part": name, **row})
        except Exception as error:
            traceback.print_exc()
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            self.add({"part": name, "failed": reason[:300]})
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=8, help="after which no part begins")
    parser.add_argument(
        "--tiny", action="store_true", help="all models shrunken, to try the script"
    )
    parser.add_argument(
        "--models", nargs="*", default=[model.preset for model in MODELS], help="that are timed"
    )
    parser.add_argument("--out", type=Path, default=common.RESULTS, help="folder of the JSON file")
    args = parser.parse_args(argv)
    device = choose_device(args.device)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "none"
    about = {"benchmark": "gpu", "gpu": gpu, "tiny": args.tiny, "machine": common.machine()}
    log = Log(args.out / "gpu.json", about, 60 * args.minutes)
    speed: dict = {}
    log.take("ceilings", lambda: ceilings(device, speed, args.tiny))
    for name in FAMILIES:
        log.take(f"correct, {name}", lambda name=name: correctness(name, device))
    log.take("correct, 8 bits", lambda: correctness(FAMILIES[0], device, IN_8_BITS[device.type]))
    for model in (model for model in MODELS if model.preset in args.models):
        for kind in model.numbers:
            log.take(
                f"{model.preset}, {kind}",
                lambda model=model, kind=kind: speeds(model, kind, device, speed, args.tiny),
            )
    log.take("passes", lambda: passes(device, args.tiny))
    log.take("endless", lambda: endless(device, args.tiny))
    for model in (model for model in MODELS[:PROFILES] if model.preset in args.models):
        for kind in model.numbers:
            log.take(
                f"profile of {model.preset}, {kind}",
                lambda model=model, kind=kind: profiled(model, kind, device, args.tiny),
            )


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
