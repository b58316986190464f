"""Attention maps are the model's own, and are made without ever holding the scores of all pairs."""

import subprocess
import sys

import numpy as np
import pytest
import strategies
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diagd_cli.engine.decode import prefill
from diagd_cli.errors import UsageError
from diagd_cli.jobs.attention import reading
from diagd_cli.jobs.attention.neighbours import Surroundings
from diagd_cli.jobs.attention.reading import attention_map, probabilities, watch
from diagd_cli.model.cache import KVCache
from diagd_cli.pipeline import load
from diagd_cli.report.attention import NEIGHBOURS, PARTS
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.tokens.grid import Grid

DIAGD = Decoding("diagd", k=1, d=2)


@settings(max_examples=15)
@given(strategies.grids(), strategies.configs(), st.integers(1, 5), strategies.SEEDS)
def test_maps_times_values_are_what_the_attention_gives(grid, config, chunk, seed):
    """Any norm, rotation, grouping and bias: out(softmax(qk) v) from what is caught is what the
    module adds.
    """
    model = strategies.build_model(config, grid, 2, seed)
    length = grid.length(2)
    tokens = torch.randint(
        config.logits, (1, length), generator=torch.Generator().manual_seed(seed)
    )
    cache, seen, given_out = KVCache(config, 1, length), [], []
    hooks = [
        b.attention.register_forward_hook(
            lambda m, a, named, out: given_out.append(out - named["onto"]), with_kwargs=True
        )
        for b in model.blocks
    ]
    with watch(model, lambda layer, q, k, slots: seen.append((layer, probabilities(q, k, slots)))):
        prefill(model, cache, tokens, np.arange(length), chunk=chunk)
    assert len(seen) == len(given_out) == config.layers * -(-length // chunk)
    for (layer, maps), own in zip(seen, given_out, strict=True):
        values = cache.values[layer, 0, :, : maps.shape[2]].repeat_interleave(
            config.heads // config.kv_heads, dim=0
        )
        mixed = (maps @ values).movedim(0, 1).flatten(1)
        with torch.inference_mode():
            torch.testing.assert_close(
                model.blocks[layer].attention.out(mixed), own[0], rtol=1e-4, atol=1e-4
            )
    for hook in hooks:
        hook.remove()
    assert not any(m._forward_hooks for m in model.modules())


def by_hand(grid, frame, context, radius):
    """What each position is to each token of the frame, one pair after the other: {name: set of
    (query, position)}.
    """
    pairs = {name: set() for name in NEIGHBOURS}
    first = grid.position(frame, 0, 0)
    for query in range(grid.area):
        row, column = divmod(query, grid.w)
        for position in range(first + (grid.h - 1) * grid.stride + grid.w):
            names = set()
            block, rest = divmod(position - grid.prefix, grid.block)
            if position < grid.prefix:
                names = {"prefix"}
            elif rest >= grid.h * grid.stride or rest % grid.stride >= grid.w:
                names = {"conditioning"}
            else:
                i, j = divmod(rest, grid.stride)
                near, same = max(abs(i - row), abs(j - column)) <= radius, (i, j) == (row, column)
                ago = frame - block
                names |= {("this_frame", "previous_frame")[ago] if ago < 2 else "earlier_frames"}
                if ago == 0:
                    found = {
                        "itself": same,
                        "same_row": i == row,
                        "row_above": i == row - 1,
                        "near": near,
                    }
                elif ago == 1:
                    found = {"same_place_before": same, "near_before": near}
                else:
                    found = {}
                found["prompt_frames"] = block < context and ago > 0
                names |= {name for name, holds in found.items() if holds}
            for name in names:
                pairs[name].add((query, position))
    return pairs


@pytest.mark.parametrize(
    "grid",
    [
        Grid(2, 3),
        Grid(3, 4, conditioning=2, prefix=1),
        Grid(1, 1),
        Grid(4, 1, 1),
        Grid(2, 3, 1, 1, row_end=(7, 8), frame_end=(9,)),
    ],
)
@pytest.mark.parametrize("frame, context, radius", [(0, 1, 1), (1, 1, 0), (3, 2, 1)])
def test_neighbourhoods(grid, frame, context, radius):
    around = Surroundings(grid, frame, context, radius, Decoding("ntp"))
    masks = around.masks(around.queries, around.end)
    found = {name: set(map(tuple, mask.nonzero().tolist())) for name, mask in masks.items()}
    later = found.pop("not_yet_made")
    expected = by_hand(grid, frame, context, radius)
    assert found == {name: pairs for name, pairs in expected.items() if name != "not_yet_made"}
    assert not later


def test_not_yet_made():
    """Two rows of five by k = 1: the query of a row's last token predicts the next row's first,
    early, by a stand-in.
    """
    around = Surroundings(Grid(2, 5), 1, 1, 1, Decoding("diagd", k=1, d=6))
    mask = around.masks(torch.arange(10, 20), 20)["not_yet_made"]
    assert not mask[:4, :14].any() and not mask[:, :10].any()
    assert mask[4, 10:15].tolist() == [False, True, True, True, False]  # fed with (0, 0)
    # fed with (0, 1); the stand-in is there
    assert mask[5, 10:15].tolist() == [False, False, True, True, False]


@pytest.fixture(scope="module")
def loaded(tiny):
    return load(tiny.preset)


@pytest.fixture(scope="module")
def codes():
    return np.random.default_rng(0).integers(0, 25, (5, 2, 3))


def test_map(loaded, codes, monkeypatch):
    """Each row is a distribution over what its token sees; the parts are all of it; blocks make no
    difference.
    """
    seen = attention_map(loaded, codes, 3)
    grid, (rows, length) = loaded.preset.grid, seen.weights.shape
    assert (rows, length) == (6, grid.position(3, 2, 0)) and seen.frame == 3
    np.testing.assert_allclose(seen.weights.sum(1), 1, rtol=1e-5)
    assert (seen.weights[:, -rows:] == np.tril(seen.weights[:, -rows:])).all() and (
        seen.weights[:, :-rows] > 0
    ).all()
    for shares in (seen.shares, seen.uniform, *seen.layers):
        assert (
            sum(shares[name] for name in PARTS) == pytest.approx(1) and tuple(shares) == NEIGHBOURS
        )
    own = [seen.weights[q, length - rows + q] for q in range(rows)]
    assert seen.shares["itself"] == pytest.approx(np.mean(own), rel=1e-5)
    assert seen.uniform["itself"] == pytest.approx(
        np.mean([1 / (length - rows + q + 1) for q in range(rows)])
    )
    monkeypatch.setattr(reading, "SCORES", 1)
    again = attention_map(loaded, codes, 3)
    np.testing.assert_allclose(again.weights, seen.weights, atol=1e-6)
    assert again.shares == pytest.approx(seen.shares, abs=1e-6)


def test_one_head_and_the_mean_of_all(loaded, codes):
    every, heads = (
        attention_map(loaded, codes, 2),
        [attention_map(loaded, codes, 2, head=n, layer=0) for n in (0, 1)],
    )
    np.testing.assert_allclose(every.weights, (heads[0].weights + heads[1].weights) / 2, atol=1e-6)
    assert heads[0].shares == heads[0].layers[0] != heads[1].shares


def test_later_frames_and_other_actions(loaded, codes):
    """Frames after the one that is looked at are not read; actions before it are."""
    changed, rest = codes.copy(), np.full((3, 1), 25)
    changed[3:] = 0
    seen = attention_map(loaded, codes, 2, actions=rest)
    assert (attention_map(loaded, changed, 2, actions=rest).weights == seen.weights).all()
    assert (attention_map(loaded, codes, 2, actions=rest + 1).weights != seen.weights).any()


def test_what_a_decoding_hides(loaded, codes):
    assert attention_map(loaded, codes, 3, decoding=Decoding("ntp")).shares["not_yet_made"] == 0
    assert 0 < attention_map(loaded, codes, 3, decoding=DIAGD).shares["not_yet_made"] < 1
    # a frame of the prompt
    assert attention_map(loaded, codes, 1, decoding=DIAGD).shares["not_yet_made"] == 0


@pytest.mark.parametrize(
    "given_", [{"frame": 5}, {"frame": -1}, {"frame": 1, "layer": 1}, {"frame": 1, "head": 2}]
)
def test_numbers_that_are_not_there(loaded, codes, given_):
    with pytest.raises(UsageError, match=r"The (frame|layer|head) is -?\d"):
        attention_map(loaded, codes, **given_)


def test_peak_memory():
    """20x32 tokens, 3 frames, 32 heads: scores of a layer take 473 MB, of the frame alone 157 MB;
    blocks of 4 MB are there.
    """
    code = """
import resource, types
import numpy as np, torch
from diagd_cli.jobs.attention import reading
from diagd_cli.preset_files import load_preset
from diagd_cli.model.transformer import initialise
from diagd_cli.pipeline import Loaded
from diagd_cli.weights.build import build_transformer
torch.set_num_threads(1)
preset = load_preset("freedoom")
sizes = {"dim": 32, "layers": 1, "heads": 32, "kv_heads": 8, "head_dim": 12, "mlp_dim": 32}
clip = preset.clip.model_copy(update={"height": 160, "width": 256})
preset = preset.model_copy(update={"transformer": preset.transformer.model_copy(update=sizes), "clip": clip})
preset.__dict__.pop("grid", None)
model = build_transformer(preset)
initialise(model, 0)
loaded = Loaded(preset, None, model.eval(), torch.device("cpu"), torch.float32, 0.0)
reading.SCORES = 1 << 20
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
reading.attention_map(loaded, np.zeros((1, 20, 32), int), 0)
before = peak()
seen = reading.attention_map(loaded, np.zeros((3, 20, 32), int), 2)
assert seen.weights.shape == (640, 3 * 641 - 1), seen.weights.shape
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 80
