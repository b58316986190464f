"""Training curves: a panel for each log.jsonl that `diagd train` or `diagd finetune` has written.

python -m benchmarks.curves runs/mine/*/log.jsonl -o curves.png

A tokenizer's log gives PSNR and codes in use; a Transformer's the NLL by frame of the window;
a fine-tuning's how far each decoding's NLL is above next-token prediction's.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

SHIPPED = [
    Path(__file__).parent / "results" / "training" / f"{name}.jsonl"
    for name in ("tokenizer", "decoder", "transformer", "finetune")
]


def read(path: Path) -> list[dict]:
    """The lines of a log in the order of their steps; of two with one step (a resumed run) the
    later one.
    """
    rows = {
        row["step"]: row for row in map(json.loads, path.read_text(encoding="utf-8").splitlines())
    }
    return [rows[step] for step in sorted(rows)]


def draw(axes, name: str, rows: list[dict]) -> None:
    """Draw the log of `name`, by what it holds."""
    steps = [row["step"] for row in rows]
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    if "psnr" in rows[0]:
        axes.set(title=f"{name}: validation frames", ylabel="PSNR, dB")
        axes.plot(steps, [row["psnr"] for row in rows], color="C0")
        codes = axes.twinx()
        codes.plot(steps, [row["codes"] for row in rows], color="C1")
        codes.set_ylabel("codes in use", color="C1")
    elif "nll_by_frame" in rows[0]:
        axes.set(title=f"{name}: validation NLL by frame", ylabel="nats a token")
        for frame in range(max(len(row["nll_by_frame"]) for row in rows)):
            known = [
                (row["step"], row["nll_by_frame"][frame])
                for row in rows
                if frame < len(row["nll_by_frame"])
            ]
            axes.plot(*zip(*known, strict=True), label=f"frame {frame + 1}")
        axes.legend(ncols=2, frameon=False)
    else:
        axes.set(title=f"{name}: NLL over NTP's", ylabel="nats a token")
        for key in (key for key in rows[0] if key.startswith("nll/") and key != "nll/NTP"):
            axes.plot(
                steps,
                [row[key] - row["nll/NTP"] for row in rows],
                marker="o",
                label=key.removeprefix("nll/"),
            )
        axes.set_ylim(0, 1.5 * axes.get_ylim()[1])  # room for the legend above the curves
        axes.legend(frameon=False)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "logs",
        nargs="*",
        type=Path,
        default=SHIPPED,
        help="log.jsonl files; the shipped model's by default",
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("curves.png"))
    args = parser.parse_args(arguments)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * len(args.logs), 3.8), layout="constrained")
    for axes, path in zip(
        figure.subplots(1, len(args.logs), squeeze=False)[0], args.logs, strict=True
    ):
        draw(axes, path.parent.name if path.stem == "log" else path.stem, read(path))
    figure.savefig(args.output, dpi=90, metadata={"Software": None})
    print(args.output)


if __name__ == "__main__":
    main()
