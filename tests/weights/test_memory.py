"""Memory: what is estimated is what is allocated, and working sets are those that are measured."""

import ctypes
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import TINY
from yaml import safe_load

from diagd_cli.engine.chunk import CHUNK
from diagd_cli.engine.ring import ring_for
from diagd_cli.errors import DiagdError
from diagd_cli.model.cache import KVCache
from diagd_cli.model.config import TransformerConfig
from diagd_cli.model.transformer import Transformer
from diagd_cli.pipeline import FRAMES_AT_ONCE
from diagd_cli.preset import Preset
from diagd_cli.preset_files import load_preset
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.weights import memory
from diagd_cli.weights.build import build_tokenizer, build_transformer
from diagd_cli.weights.memory import (
    estimate,
    itemsize,
    require,
)

NEEDED = {"batch": 1, "frames": None, "dtype": "float32", "kv_dtype": None}


def test_transformers_beside_are_counted():
    preset, large = load_preset("cosmos-4b"), load_preset("cosmos-12b")
    alone, both = (estimate(preset, dtype="bfloat16", beside=others) for others in ((), (large,)))
    assert both.total - alone.total == estimate(large, dtype="bfloat16").weights > 20e9


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_and_cache_are_what_is_allocated(dtype):
    preset = Preset.model_validate(safe_load(TINY))
    need = estimate(preset, batch=3, dtype=dtype)
    model = build_transformer(preset, dtype=dtype)
    held = [*model.parameters(), *model.buffers()]
    assert need.weights == sum(tensor.nbytes for tensor in held)
    assert need.tokenizer == sum(
        p.nbytes for p in build_tokenizer(preset, dtype=dtype).parameters()
    )
    assert (
        need.cache
        == KVCache(preset.transformer, 3, preset.grid.length(preset.window) + 1, dtype=dtype).bytes
    )
    assert need.total == need.weights + need.cache + need.tokenizer + need.work


@pytest.mark.parametrize("name", ["freedoom", "mineworld-300m", "cosmos-5b-video2world"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_of_8_bits_are_what_is_allocated(name, dtype):
    """With a text's matrices, without, and with gates; nothing is allocated to count it."""
    preset = load_preset(name)
    model = build_transformer(preset, "meta", dtype, "int8")
    held = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    assert estimate(preset, dtype=dtype, weights="int8").weights == held


def test_a_window_that_slides_takes_room_for_the_frames_in_flight():
    """And no more, however many frames are made; a stream holds few of their pixels."""
    preset = load_preset("freedoom")
    rolls, slides = (Decoding("diagd", 2, 10, window=window) for window in ("roll", "slide"))
    ring = ring_for(preset.grid, slides, preset.window)
    need = {n: estimate(preset, frames=n, dtype="float32", decoding=slides) for n in (40, 4000)}
    kept = KVCache(preset.transformer, 1, ring.places + 1)
    assert need[40].cache == need[4000].cache == kept.bytes
    assert (
        ring.frames == 8 + 48 // 10
    )  # of a window of 8, and others that a frame's 48 steps overlap
    assert estimate(preset, frames=40, dtype="float32", decoding=rolls).cache < kept.bytes


def test_a_cache_of_its_own_precision():
    preset = load_preset("cosmos-4b")
    whole, half = (
        estimate(preset, dtype="bfloat16", kv_dtype=kind).cache for kind in (None, "float8_e4m3fn")
    )
    assert whole == (5 * 40 * 64 + 1) * 65_536 == 2 * half
    assert [itemsize(kind) for kind in (torch.float32, torch.float16, "bfloat16", "int8")] == [
        4,
        2,
        2,
        1,
    ]


def test_the_text_counts():
    with_text, without = (
        estimate(load_preset(f"cosmos-{name}"), dtype="bfloat16")
        for name in ("5b-video2world", "4b")
    )
    slot, keys = 2 * 16 * 8 * 128 * 2, 512
    assert with_text.cache - without.cache == slot * (keys + 1)  # and the begin-of-video token


def test_tokens_alone_need_no_tokenizer():
    preset = load_preset("emu3-gen")
    whole, tokens = (estimate(preset, dtype="bfloat16", pixels=pixels) for pixels in (True, False))
    assert (whole.weights, whole.cache) == (tokens.weights, tokens.cache)
    assert tokens.tokenizer == 0 < whole.tokenizer and tokens.work < whole.work / 10


def test_what_grows_with_what():
    preset = load_preset("mineworld-300m")
    one, three = (estimate(preset, batch=n, dtype="float32") for n in (1, 3))
    assert three.cache == 3 * one.cache and three.weights == one.weights and three.work >= one.work
    short, long = (estimate(preset, frames=n, dtype="float32") for n in (16, 10_000))
    assert long.work - short.work == (10_000 - 16) * 224 * 384 * 3 * 2 and long.cache == short.cache
    two, four = (estimate(preset, frames=n, dtype="float32") for n in (2, 4))
    frame = 2 * (14 * 24 + 11) * 20 * 4 * 64 * 4
    assert (
        four.cache - two.cache == 2 * frame
        and four.cache < short.cache
        and two.weights == short.weights
    )


@pytest.mark.parametrize("name", ["cosmos-4b", "wham-1.6b", "freedoom"])
def test_an_offloaded_tokenizer_is_never_there_with_the_cache(name):
    preset = load_preset(name)
    frames = preset.clip.context + preset.clip.frames
    usual, spare = (estimate(preset, dtype="bfloat16", offload=away) for away in (False, True))
    pixels = spare.weights + spare.tokenizer + memory.codec_work(preset, frames, 2)
    assert usual.offloaded == 0 and pixels <= spare.total < usual.total
    assert spare.weights + spare.cache < spare.total


# ---- measured ------------------------------------------------------------------------------------


def measured() -> dict[str, tuple[int, int]]:
    """(Bytes that the resident set grows by, bytes estimated), of each stage. In a fresh process
    only.
    """
    base = {**safe_load(TINY), "actions": None}
    clip = {"fps": 10, "frames": 1, "window": 2, "context": 1}
    codecs = {
        "fsq-image": (
            {"height": 160, "width": 240, "context": 8, "frames": 8, "window": 16},
            {"channels": (64, 96)},
        ),
        "vq-image": ({"height": 128, "width": 192}, {"channels": (64, 64, 96), "codebook": 999}),
        "llamagen-vq": (
            {"height": 128, "width": 192},
            {"channels": 64, "multipliers": (1, 1, 2, 2), "codebook": 999},
        ),
        "emu3-vq": ({"height": 96, "width": 128}, {"channels": 64, "codebook": 999}),
        "vit-vq": (
            {"height": 180, "width": 300, "context": 8, "window": 9},
            {"dim": 256, "layers": 1, "codebook": 999},
        ),
        "cosmos-dv": (
            {"height": 192, "width": 128, "context": 17, "frames": 16, "window": 33},
            {"channels": 8},
        ),
    }
    found = {}
    for kind, (size, sizes) in codecs.items():
        settings = {**base, "clip": {**clip, **size}, "tokenizer": {"kind": kind, **sizes}}
        vocab = {"vocab": 70_000, "outputs": 0}
        preset = Preset.model_validate(
            {**settings, "transformer": {**base["transformer"], **vocab}}
        )
        codec = build_tokenizer(preset)
        for p in codec.parameters():
            p.requires_grad_(False).normal_(0, 0.02)
        frames = preset.clip.context + preset.clip.frames
        codes = torch.zeros(preset.latents(frames), preset.grid.h, preset.grid.w, dtype=torch.long)
        at_once = codes if kind == "cosmos-dv" else codes[:FRAMES_AT_ONCE]
        pixels = torch.randint(
            256, (preset.clip.context, preset.clip.height, preset.clip.width, 3), dtype=torch.uint8
        )
        codec.decode(at_once[:1])
        both = (
            growth(lambda c=codec, p=pixels: c.encode(p)),
            growth(lambda c=codec, x=at_once: c.decode(x)),
        )
        found[kind] = (max(both), memory.codec_work(preset, frames, 4))
    found["prefill"] = measured_prefill()
    return found


def measured_prefill() -> tuple[int, int]:
    from diagd_cli.engine.decode import prefill

    sizes = {
        "vocab": 9,
        "dim": 512,
        "layers": 1,
        "heads": 16,
        "kv_heads": 4,
        "head_dim": 64,
        "mlp_dim": 2048,
    }
    config, length = TransformerConfig(**sizes), 2048
    model = Transformer(config, torch.zeros(length, 3, dtype=torch.long)).requires_grad_(False)
    cache, tokens = KVCache(config, 1, length), torch.zeros(1, length, dtype=torch.long)
    last = torch.arange(length - CHUNK, length).numpy()
    prefill(model, cache, tokens, last[:8])
    grown = growth(lambda: prefill(model, cache, tokens, last))
    return grown, memory.prefill_work(config, 1, length, 4)


def growth(work) -> int:
    """Bytes that the resident set of this process grows by at most."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    work()
    return status("VmHWM") - before


def status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


@pytest.mark.skipif(platform.system() != "Linux", reason="reads /proc")
def test_working_sets_are_those_measured():
    """What is freed goes back to the system at once, or a stage would work in what the one before
    it left.
    """
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "262144", "OMP_NUM_THREADS": "1"}
    tests = Path(__file__).parents[1]
    environment["PYTHONPATH"] = os.pathsep.join([str(tests), str(tests.parent)])
    done = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True, check=True
    )
    for stage, (seen, expected) in json.loads(done.stdout).items():
        assert 0.7 * seen < expected < 1.6 * seen, (
            f"{stage}: {seen / 1e6:.0f} MB, estimated {expected / 1e6:.0f}"
        )


# ---- what fits -----------------------------------------------------------------------------------


def test_a_model_that_cannot_fit():
    preset = Preset.model_validate(safe_load(TINY))
    huge = preset.model_copy(
        update={"transformer": preset.transformer.model_copy(update={"vocab": 10**12})}
    )
    with pytest.raises(DiagdError) as caught:
        require(huge, "cpu", dtype="bfloat16")
    assert caught.value.message.startswith(
        "tiny needs about 32000.0 GB (weights 32000.0, cache 0.00, tokenizer 0.00, "
    )
    assert caught.value.message.endswith(" GB are free on cpu")
    assert require(preset, "cpu", dtype="float32") == estimate(preset, dtype="float32")


@pytest.mark.parametrize(
    ("name", "asked", "free", "way"),
    [
        (
            "cosmos-12b",
            {},
            30,
            "Use --dtype bfloat16; or take a smaller model, --preset cosmos-5b-video2world",
        ),
        (
            "cosmos-12b",
            {"dtype": "bfloat16"},
            20,
            "Take a smaller model, --preset cosmos-5b-video2world",
        ),
        ("mineworld-700m", {"frames": 10**6}, 8, "Ask for fewer --frames"),
        ("wham-200m", {"batch": 8}, 4, "Make one clip at a time"),
        ("wham-1.6b", {}, 0.01, "Use a device with more memory, or a smaller preset"),
    ],
)
def test_the_way_out_is_one_that_fits(name, asked, free, way, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: int(free * 1e9))
    with pytest.raises(DiagdError) as caught:
        require(load_preset(name), "cpu", **{**NEEDED, **asked})
    assert caught.value.hint == way


def test_memory_that_cannot_be_told_is_enough(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: None)
    assert require(load_preset("cosmos-12b"), "cpu", dtype="float32").total > 5e10


def test_it_is_ready_without_torch():
    code = "import sys, diagd_cli.weights.memory; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(measured()))
