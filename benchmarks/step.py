"""Where the time of a step goes: the shipped preset continues a shipped clip, once timed and once
under the profiler.

"python" is what no operation accounts for: the loop, the modules, the progress callback; under the
profiler it and the small operations weigh more than they do without. Only functions of the
package's Python interface are used, so that another checkout can be profiled by the same script:
PYTHONPATH=CHECKOUT python benchmarks/step.py
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from diagd_cli.clip.read import read_clip
from diagd_cli.pipeline import Request, continue_clip, load
from diagd_cli.preset_files import preset_folder
from diagd_cli.schedule.decoding import Decoding

ALL, OTHER, PYTHON = "all steps", "other operations", "python"
KINDS = {  # by parts of operators' names
    "products": ("linear", "mm", "bmm"),
    "attention": ("scaled_dot", "softmax"),
    "norms": ("norm", "rsqrt", "pow", "mean"),
    "sampling": ("topk", "sort", "cumsum", "log", "argmax", "bitwise", "shift", "gather"),
}
# frames to make
DECODINGS = {"NTP": (1, Decoding("ntp")), "DiagD k=2 d=10": (4, Decoding("diagd", k=2, d=10))}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--out", type=Path, help="JSON file")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    loaded = load("freedoom")
    clip = read_clip(preset_folder() / "freedoom" / "clips" / "rooms.mp4", 4, 0)
    rows = []
    for name, (frames, decoding) in DECODINGS.items():
        request = loaded.request(frames, seed=0, decoding=decoding)
        rows.append({"decoding": name, **measure(loaded, clip, request)})
    for cells in (list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)):
        print("| " + " | ".join(map(str, cells)) + " |")
    if args.out:
        args.out.write_text(json.dumps({"threads": args.threads, "rows": rows}, indent=1) + "\n")


def measure(loaded, clip, request: Request) -> dict:
    """Steps, milliseconds a step, and percentages of the profiled steps by kind; the first step is
    left out.
    """
    continue_clip(loaded, clip, request)  # to warm up
    times, profiler, everything = (
        [],
        profile(activities=[ProfilerActivity.CPU]),
        record_function(ALL),
    )

    def watch(done: int, total: int) -> None:
        if done == 1:
            profiler.start()
            everything.__enter__()
        if done == total:
            everything.__exit__(None, None, None)
            profiler.stop()

    continue_clip(
        loaded, clip, request, on_steps=lambda done, total: times.append(time.perf_counter())
    )
    continue_clip(loaded, clip, request, on_steps=watch)
    spent = dict.fromkeys((*KINDS, OTHER, PYTHON), 0.0)
    for event in profiler.key_averages():
        kinds = (kind for kind, parts in KINDS.items() if any(part in event.key for part in parts))
        spent[PYTHON if event.key == ALL else next(kinds, OTHER)] += event.self_cpu_time_total
    shares = {
        kind: round(100 * microseconds / sum(spent.values()), 1)
        for kind, microseconds in spent.items()
    }
    return {
        "steps": len(times),
        "ms/step": round(1000 * (times[-1] - times[0]) / (len(times) - 1), 2),
        **shares,
    }


if __name__ == "__main__":
    main()
