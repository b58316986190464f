"""diagd generate: what decides the tokens, and what does not."""

import json
import shutil

import numpy as np
import pytest
from tiny import moving, save_clip

pytest_plugins = ["cli.continuing"]


def same(a, b):
    return a.shape == b.shape and (a == b).all()


def test_seed_decides_the_tokens(tokens):
    first = tokens()
    assert first.shape == (5, 2, 3) and same(first, tokens()) and not same(first, tokens(seed=1))
    assert same(first[:2], tokens(seed=1)[:2])  # the context


def test_clip_alone_and_in_a_batch(generate, tokens, tiny, tmp_path):
    other = save_clip(tmp_path / "in" / "other.mp4", moving(5, 32, 32))
    alone = tokens()
    generate(other, tiny.clip, "--seed", 0, "--save-tokens", "--force")
    with np.load(tmp_path / "out" / "walk.npz") as arrays:
        assert same(alone, arrays["codes"]) and arrays["context"] == 2


def test_seed_is_drawn_and_told(generate, tiny, tokens):
    [first], [second] = (generate(tiny.clip, "--json", "--force").objects for _ in range(2))
    assert first["settings"]["seed"] != second["settings"]["seed"]
    assert same(tokens(seed=first["settings"]["seed"]), tokens(seed=first["settings"]["seed"]))


def test_greedy_needs_no_seed(tokens):
    assert same(tokens("--temperature", 0), tokens("--temperature", 0, seed=1))


def test_actions_inline_and_from_a_file(tokens, tmp_path):
    (tmp_path / "steer.jsonl").write_text('{"action": "left"}\n{"action": "right"}\n')
    steered = tokens("--actions", "left,right")
    assert same(steered, tokens("--actions", tmp_path / "steer.jsonl"))
    assert not same(steered, tokens("--actions", "idle")) and not same(steered, tokens())


def test_start_chooses_the_context(tokens, generate, tiny):
    assert not same(tokens("--start", 0), tokens())
    assert same(tokens("--start", 6), tokens())
    assert "Start at frame 6 or before" in generate(tiny.clip, "--start", 7, "--force").err


def test_frames_beyond_the_window_roll_it(tokens, generate, tiny):
    long = tokens("--frames", 9)
    assert long.shape == (11, 2, 3)
    assert same(long[:5], tokens("--frames", 3))  # as much as the first window holds
    [told] = generate(tiny.clip, "--frames", 9, "--json", "--force").objects
    assert told["steps"] == 3 * 8 and told["tokens"] == 9 * 6


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16"])
def test_a_cache_of_another_precision(generate, tiny, kind):
    """It changes how much the cache takes, not how much is made."""
    [told] = generate(tiny.clip, "--kv-dtype", kind, "--json").objects
    assert (told["settings"]["kv_dtype"], told["tokens"], told["new_frames"]) == (kind, 18, 3)
    [own] = generate(tiny.clip, "--json", "--force").objects
    # keys and values: frames, tokens, and a place for padding; head_dim, bytes
    cache = 2 * (5 * (6 + 1) + 1) * 8 * 4
    peaks = [each["peak_memory_bytes"] for each in (own, told)]
    needs = [peak["predicted"] - peak["before"] for peak in peaks]
    assert needs[0] - needs[1] == (0 if kind == "float32" else cache // 2)


def test_offloading_on_the_cpu_is_nothing(generate, tokens, tiny):
    assert (
        "--offload changes nothing on the CPU"
        in generate(tiny.clip, "--offload", "tokenizer", "--seed", 0).err
    )
    assert same(tokens("--offload", "tokenizer"), tokens())
    done = generate(tiny.clip, "--offload", "everything")
    assert done.code == 2 and "'everything' is not one of tokenizer" in done.err


# ---- weights of 8 bits ---------------------------------------------------------------------------


def test_weights_of_8_bits_are_told_and_give_the_same_tokens_by_any_number_of_threads(
    tokens, tiny, tmp_path, int8_processor
):
    small = tokens("--frames", 3, "--weights", "int8")
    told = json.loads((tmp_path / "out" / f"{tiny.clip.stem}.json").read_text())
    assert told["machine"]["weights"] == told["settings"]["weights"] == "int8"
    assert same(small, tokens("--frames", 3, "--weights", "int8", "--threads", 1))


def test_without_products_of_int8_it_is_said_what_to_take_instead(generate, tiny):
    done = generate(tiny.clip, "--weights", "int8", DIAGD_NATIVE_INT8="0")
    assert done.code == 2
    assert done.err == (
        "error: int8 weights need a CPU with VNNI or AMX instructions, and cpu is none. "
        "Use --weights float\n"
    )


def test_what_a_preset_wishes_is_done_where_it_can_be(diagd, tiny, tmp_path):
    preset = tmp_path / "small.yaml"
    preset.write_text(tiny.preset.read_text() + "weights: int8\n")
    for name in ("transformer", "tokenizer"):
        shutil.copy(tiny.folder / f"{name}.safetensors", tmp_path)
    for native, weights in (("0", None), ("1", "int8")):
        done = diagd(
            "generate", tiny.clip, "-p", preset, "-o", tmp_path / "out", "--force", "--frames", 1,
            DIAGD_NATIVE_INT8=native,
        )  # fmt: skip
        assert done.code == 0, done.err
        told = json.loads((tmp_path / "out" / f"{tiny.clip.stem}.json").read_text())
        assert told["machine"].get("weights") == weights


def test_compiled_blocks_have_no_products_of_int8(generate, tiny, int8_processor):
    done = generate(tiny.clip, "--weights", "int8", "--compile")
    assert done.code == 2 and "--compile has no products of int8 weights" in done.err
