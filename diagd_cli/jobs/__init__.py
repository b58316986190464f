"""What the commands do, without a command line: plain records in, files and records out, and a
Progress on the way.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "attention.request": ("AttentionRequest", "measure_attention"),
    "batches": ("generate",),
    "benchmark.request": ("Benchmark", "bench"),
    "candidates": ("Candidate", "candidates_of"),
    "cluster": ("Cluster",),
    "comparison": ("Comparing", "compare"),
    "devices": ("generate_on_devices",),
    "evaluation.request": ("Evaluating", "evaluate"),
    "evaluation.trials": ("Trials",),
    "generation": ("Generation", "Made", "Video", "check"),
    "manifest": ("read_manifest",),
    "on_ray": ("generate_on_ray",),
    "settings": ("Machine", "Settings", "Steering", "choose"),
    "sweeping.bounds": ("parse_bounds",),
    "sweeping.combinations": ("Combinations", "combine"),
    "sweeping.request": ("Sweeping", "sweep"),
    "tensor_parallel": ("generate_together",),
    "targets": ("Row", "Shard", "Target", "continuations", "parse_shard"),
    "vote.count": ("count_files",),
    "vote.pack": ("pack_ballot",),
}
_MODULE = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = list(_MODULE)


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE[name]}"), name)
