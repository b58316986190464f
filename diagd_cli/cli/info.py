"""diagd info: what diagd sees of this machine; the first thing to put into a bug report."""

from __future__ import annotations

import platform
import sys

from diagd_cli.cli import options as o
from diagd_cli.cli.console import Reporter
from diagd_cli.cli.guard import guard
from diagd_cli.cli.layout import listed, width_of
from diagd_cli.versions import versions

HELP = """Versions, devices, threads, memory, and where weights are looked for.

[bold]Examples[/]

  diagd info

  diagd info --json | jq .device
"""


def info(json: o.JsonOption = False) -> None:
    reporter = Reporter()
    with guard(reporter):
        facts = gather()
        if json:
            reporter.result(facts)
            return
        for key, value in facts.items():
            value = (
                ", ".join(f"{k} {v}" for k, v in value.items())
                if isinstance(value, dict)
                else value
            )
            value = ", ".join(map(str, value)) if isinstance(value, list) else value
            reporter.result("\n".join(listed((key, str(value)), (18,), width_of(sys.stdout))))


def gather() -> dict:
    """Facts about the machine, as JSON can hold them."""
    import os

    import imageio_ffmpeg
    import torch

    from diagd_cli.device import choose_device, device_name, native_bfloat16
    from diagd_cli.free_memory import free_main_memory
    from diagd_cli.model.own import own_kernels
    from diagd_cli.preset_files import load_preset, preset_names
    from diagd_cli.processor import native_int8
    from diagd_cli.weights.locate import weights_folders

    device = choose_device()
    with torch.no_grad():
        own = own_kernels(device)
    names = preset_names()
    return {
        "versions": versions(),
        "platform": platform.platform(),
        "device": f"{device} ({device_name(device)})",
        "cuda_devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "native_bfloat16": native_bfloat16(device),
        "native_int8": native_int8(),
        "own_kernels": own,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "free_memory_bytes": free_main_memory(),
        "ffmpeg": imageio_ffmpeg.get_ffmpeg_exe(),
        "presets": names,
        "weights_folders": [str(f) for f in weights_folders(load_preset(names[0]))],
    }
