"""The loop that DiagD's authors published for MineWorld against ours, in one run: the same weights,
prompt, actions, sampling and number of tokens, float32 on a CPU.

Their code is not ours to ship: get it yourself (github.com/microsoft/mineworld), and name its
folder. Its modules `utils`, `diagonal_decoding` and `lvm` are run, with their CUDA devices read as
CPUs and without torch.compile unless it is asked for. Of MineWorld's geometry alone, which their
loops have built in: 14x24 tokens and 11 of actions a frame.

python -m benchmarks.authors ../mineworld --each-threads 1 2
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import torch
from transformers import LlamaConfig, modeling_rope_utils

from benchmarks import common
from benchmarks.common import Lap, Prompted
from benchmarks.transformers_generate import decodings, same_weights
from diagd_cli import Preset
from diagd_cli.model.linear import pack

MODULES = "utils", "diagonal_decoding", "lvm"  # in the order in which they import each other
# what names a GPU in them
CUDA = {'device="cuda"': 'device="cpu"', ".cuda()": "", 'autocast("cuda"': 'autocast("cpu"'}


def main(argv: list[str] | None = None) -> None:
    parser = common.options(__doc__, repeats=2)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("checkout", type=Path, help="folder of their code")
    parser.add_argument("--size", default="512", choices=["512", "300m"])
    parser.add_argument("--frames", type=int, default=4, help="new frames")
    parser.add_argument("--each-threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--compile", action="store_true", help="compile their steps, as they do")
    args = common.parse(parser, argv)
    missing = [name for name in MODULES if not (args.checkout / f"{name}.py").is_file()]
    if missing:
        parser.error(f"{args.checkout} is no checkout of MineWorld: it has no {missing[0]}.py")
    preset = common.mineworld(args.size, 1 + args.frames)
    lvm = load(args.checkout)
    theirs = model_of(lvm, preset)
    ours = Prompted(preset, pack(same_weights(theirs, preset)), context=1, frames=args.frames)
    torch.compiler.set_stance("default" if args.compile else "force_eager")
    rows = [
        row
        for threads in args.each_threads
        for row in contest(lvm, theirs, ours, preset, threads, args.repeats)
    ]
    args.checkout = args.checkout.name  # where it lay is nobody's affair
    common.report("authors", args, rows)


def contest(
    lvm: ModuleType,
    theirs: torch.nn.Module,
    ours: Prompted,
    preset: Preset,
    threads: int,
    repeats: int,
) -> list[dict]:
    """Rows of both, for each of the settings that they publish, on so many threads."""
    torch.set_num_threads(threads)
    sampling, walks, runs = preset.sampling(), decodings(preset), {}
    for name, walk in walks.items():
        runs[f"authors, {name}"] = partial(run, lvm, theirs, ours, name, walk.k, sampling.top_p)
        runs[f"diagd, {name}"] = partial(ours.run, ours.plan(walk), sampling)
    laps, rows = common.interleave(runs, repeats), []
    for label, own in laps.items():
        whose, name = label.split(", ")
        base = common.figures(laps[f"authors, {name}"])["tokens/s"]
        row = {"whose": whose, "decoding": walks[name].label(preset.grid), "threads": threads}
        row |= common.figures(own)
        rows.append(row | {"times theirs": row["tokens/s"] / base})
    return rows


# ---- theirs --------------------------------------------------------------------------------------


def load(checkout: Path) -> ModuleType:
    """Their module `lvm`, for a CPU; raises what their code raises."""
    for name in MODULES:
        path = checkout / f"{name}.py"
        text = path.read_text(encoding="utf-8")
        for gpu, cpu in CUDA.items():
            text = text.replace(gpu, cpu)
        module = sys.modules[name] = ModuleType(name)
        module.__file__ = str(path)
        exec(compile(text, path, "exec"), module.__dict__)  # code that whoever runs this has named
    return sys.modules["lvm"]


def model_of(lvm: ModuleType, preset: Preset) -> torch.nn.Module:
    """Their Transformer of the preset's shape, with random weights in float32."""
    # transformers 5 has left it out, which they ask for by this name
    modeling_rope_utils.ROPE_INIT_FUNCTIONS.setdefault("default", frequencies)
    c = preset.transformer
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=c.vocab,
        hidden_size=c.dim,
        intermediate_size=c.mlp_dim,
        num_hidden_layers=c.layers,
        num_attention_heads=c.heads,
        num_key_value_heads=c.kv_heads,
        rms_norm_eps=c.norm_eps,
        max_position_embeddings=preset.grid.length(preset.window),
        rope_parameters={"rope_type": "default", "rope_theta": c.positions.base},
    )
    model = lvm.LlamaForCausalLM(config).float().eval().requires_grad_(False)
    for weight in model.parameters():
        if weight.ndim == 2:
            weight.normal_(0, 0.02)
    model.lm_head.weight.mul_(8)  # as `common.sharpen`
    return model


def frequencies(config: LlamaConfig, device: object = None, **rest: object) -> tuple:
    """Inverse frequencies of rotary positions, and the factor of attention."""
    size = config.hidden_size // config.num_attention_heads
    exponents = torch.arange(0, size, 2, dtype=torch.float32) / size
    return 1.0 / config.rope_parameters["rope_theta"] ** exponents, 1.0


@torch.no_grad()
def run(
    lvm: ModuleType, model: torch.nn.Module, ours: Prompted, name: str, k: int, top_p: float
) -> Lap:
    """The new frames by one of their loops, timed from the end of the prompt's pass."""
    for layer in model.model.layers:
        layer.self_attn.init_kv_cache(torch.float32)
    frame, rest = ours.grid.area, ours.tokens[:, ours.grid.area : ours.grid.block]
    count, clock = ours.frames * frame, []
    lvm.prefill = timed(clock)
    actions = [rest] * (ours.frames + 1)
    generate: dict[str, Callable] = {
        "ntp": model.naive_generate,
        "spatial": partial(model.img_diagd_generate, windowsize=k),
        "diagd": partial(model.vid_diagd_generate, windowsize=k),
    }
    wanted = {"max_new_tokens": count, "action_all": actions, "top_p": top_p}
    made = generate[name.split("-")[0]](ours.tokens[:, :frame], **wanted)
    seconds = time.perf_counter() - clock[0]
    # the prompt's pass makes the first; a loop may make more than it is asked for, in the same time
    tokens = min(count, made.numel()) - 1
    return Lap(seconds, tokens if name == "ntp" else 1, tokens)


def timed(clock: list[float]) -> Callable:
    """Their prefill, which notes when it has ended."""
    prefill = sys.modules["diagonal_decoding"].prefill

    def run(*given: object, **named: object) -> torch.Tensor:
        token = prefill(*given, **named)
        clock.append(time.perf_counter())
        return token

    return run


if __name__ == "__main__":
    main()
