"""Clips a second of two nodes of one CPU each, against one: both by Ray, on one machine.

`whole` counts from the start of the command, with the workers' start and the loading of models;
`steady` counts from when each worker has made its first batch. The machine must have two cores that
are free; needs diagd[ray].
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from diagd_cli.jobs import Cluster, Generation, Machine, check, choose, continuations
from diagd_cli.jobs.on_ray import generate_on_ray
from diagd_cli.preset_files import load_preset, preset_folder


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", nargs="+", type=int, default=[24, 96])
    parser.add_argument("--frames", type=int, default=16, help="new ones of each clip")
    parser.add_argument("--preset", default="freedoom", help="whose clips are continued")
    args = parser.parse_args(argv)
    for clips in args.clips:
        found = [measure(nodes, clips, args) for nodes in (1, 2)]
        for row in found:
            print(json.dumps(row))
        ratios = {key: round(found[1][key] / found[0][key], 2) for key in ("whole", "steady")}
        print(json.dumps({"clips": clips, "ratio": ratios}), flush=True)


def measure(nodes: int, clips: int, args: argparse.Namespace) -> dict:
    """Clips a second on a cluster of so many nodes, which is there for this alone."""
    from ray.cluster_utils import Cluster as Nodes

    cluster = Nodes(initialize_head=True, head_node_args={"num_cpus": 1})
    for _ in range(nodes - 1):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    done: list[float] = []
    try:
        with tempfile.TemporaryDirectory(prefix="diagd-cluster-") as folder:
            generation = asked(clips, args, Path(folder))
            check(generation)
            began = time.perf_counter()
            where = Cluster(cluster.address, nodes, nodes)
            made = generate_on_ray(
                generation, where, on_video=lambda video: done.append(time.perf_counter())
            )
            whole = time.perf_counter() - began
    finally:
        cluster.shutdown()
    assert len(made.videos) == clips, made.failures
    steady = (clips - nodes) / (done[-1] - done[nodes - 1])
    rates = {"whole": round(clips / whole, 4), "steady": round(steady, 4)}
    return {"nodes": nodes, "clips": clips, "seconds": round(whole, 1), **rates}


def asked(clips: int, args: argparse.Namespace, folder: Path) -> Generation:
    """So many continuations of the clips that the preset ships."""
    preset = load_preset(args.preset)
    paths = sorted((preset_folder() / args.preset / "clips").glob("*.mp4"))
    targets = continuations(paths, f"{folder}/", 0, -(-clips // len(paths)))[:clips]
    machine = Machine(device="cpu", dtype="float32")
    settings = choose(preset, frames=args.frames, seed=0)
    return Generation(
        preset, settings, targets, machine=machine, failures=folder / "failures.jsonl"
    )


if __name__ == "__main__":
    main()
