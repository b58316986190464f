"""NLL of true tokens by frame index: does a model continue what it sees, or paint every frame anew?

python -m benchmarks.health data --preset freedoom --windows 192

`data` is a folder as `diagd train` takes it. Of its validation split, windows as long as the
model's own; nats a token, with standard errors over the windows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from diagd_cli.pipeline import load
from diagd_cli.train.data import load_tokens
from diagd_cli.train.transformer import WindowSampler, validate_transformer


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--preset", default="freedoom")
    parser.add_argument("--windows", type=int, default=192)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(arguments)
    loaded = load(args.preset, args.device)
    val = WindowSampler(load_tokens(args.data, "val", loaded), loaded.preset)
    figures = validate_transformer(
        loaded.transformer, None, val, loaded.preset.window, args.windows
    )
    for n, (nll, error) in enumerate(
        zip(figures["nll_by_frame"], figures["nll_by_frame_error"], strict=True)
    ):
        print(f"frame {n + 1}: {nll:.3f} +- {error:.3f}")
    first, *rest = figures["nll_by_frame"]
    late = rest[2:] or rest[-1:]  # from frame 4 on
    print(
        f"all: {figures['nll']:.3f}; last {len(late)} frames "
        f"{100 * (np.mean(late) / first - 1):+.1f} % against the first"
    )


if __name__ == "__main__":
    main()
