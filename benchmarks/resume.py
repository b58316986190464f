"""A manifest of which all is there already: what `generate --resume` takes to see that.

Seconds and the most memory of the process, without Ray and, with --ray, of the command that hands
batches to workers. Clips and outputs are tiny, so that it is what files and rows cost.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import common
from diagd_cli.preset_files import preset_folder, save_preset


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--ray", help="address of a cluster, or local")
    parser.add_argument("--folder", help="where rows are laid out, and left")
    args = parser.parse_args(argv)
    folder = Path(args.folder or tempfile.mkdtemp(prefix="diagd-resume-"))
    try:
        command = lay_out(folder, args.rows)
        ray = ["--ray", args.ray] if args.ray else []
        print(json.dumps({"rows": args.rows, "ray": args.ray, **measure([*command, *ray])}))
    finally:
        if not args.folder:
            shutil.rmtree(folder)


def lay_out(folder: Path, rows: int) -> list[str]:
    """The command line over so many rows, of which all has been made: of one by the command itself,
    and the others are its copies.
    """
    preset, clip = small(folder), shipped_clip()
    manifest, outputs = folder / "rows.jsonl", folder / "out"
    command = ["generate", "--manifest", str(manifest), "-p", str(preset), "-o", f"{outputs}/"]
    command += ["--seed", "0", "--resume", "-q", "--device", "cpu", "--random-weights"]
    if manifest.exists():
        return command
    clips = folder / "clips"
    clips.mkdir(parents=True)
    for n in range(rows):
        for suffix in (".mp4", ".jsonl"):  # the same actions beside each
            os.symlink(clip.with_suffix(suffix), clips / f"{n}{suffix}")
    manifest.write_text(json.dumps({"clip": "clips/0.mp4", "output": "0.mp4"}) + "\n")
    subprocess.run([sys.executable, "-m", "diagd_cli", *command], check=True, capture_output=True)
    for n in range(rows):
        for suffix in (".mp4", ".json") if n else ():
            shutil.copyfile(outputs / f"0{suffix}", outputs / f"{n}{suffix}")
    lines = (json.dumps({"clip": f"clips/{n}.mp4", "output": f"{n}.mp4"}) for n in range(rows))
    manifest.write_text("\n".join(lines) + "\n")
    return command


def small(folder: Path) -> Path:
    """The shipped preset with frames and a Transformer so small that files are a few kilobytes."""
    shape = {"dim": 32, "layers": 1, "heads": 2, "kv_heads": 2, "head_dim": 16, "mlp_dim": 32}
    clip = {"height": 32, "width": 48, "frames": 1}
    preset = common.vary("freedoom", clip=clip, transformer=shape, decoding={"d": 1})
    folder.mkdir(parents=True, exist_ok=True)
    save_preset(preset, folder / "small.yaml")
    return folder / "small.yaml"


def shipped_clip() -> Path:
    """One of those that the package has."""
    return min((preset_folder() / "freedoom" / "clips").glob("*.mp4"))


def measure(command: list[str]) -> dict[str, float]:
    """Seconds by the clock and of the processor, and the most memory, of a command that makes
    nothing.
    """
    script = (
        "import atexit, sys; from diagd_cli.device import peak_memory, CPU;"
        "atexit.register(lambda: print('peak', peak_memory(CPU)['host'], file=sys.stderr));"
        "from diagd_cli.__main__ import main; main()"
    )
    began, before = time.perf_counter(), os.times()
    done = subprocess.run(
        [sys.executable, "-c", script, *command], check=True, capture_output=True, text=True
    )
    after = os.times()
    peak = re.search(r"peak (\d+)", done.stderr)
    return {
        "seconds": round(time.perf_counter() - began, 1),
        "processor_seconds": round(
            after.children_user
            + after.children_system
            - before.children_user
            - before.children_system,
            1,
        ),
        "megabytes": round(int(peak[1]) / 1e6) if peak else 0,
        "told": len(done.stdout.splitlines()),
    }


if __name__ == "__main__":
    main()
