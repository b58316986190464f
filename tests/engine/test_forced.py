"""The teacher-forced form of a plan: one masked pass gives the logits of the stepped, cached
engine.
"""

import warnings
from dataclasses import replace

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    FEWER,
    SEEDS,
    World,
    build_model,
    configs,
    paddings,
    random_sequences,
    slide,
    starts,
    stepped_logits,
    worlds,
)

from diagd_cli.engine.decode import decode_plan
from diagd_cli.engine.forced import block_mask, entry_mask, forced_logits, plan_entries
from diagd_cli.model.attention import attend
from diagd_cli.model.config import Positions, TransformerConfig
from diagd_cli.model.mask import Mask
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.tokens.grid import Grid

STANDING_IN = World(
    Grid(3, 4, conditioning=1), context=1, frames=2, decoding=Decoding("diagd", k=2, d=3)
)


@FEWER
@given(worlds(padded=False), configs(), SEEDS, st.data())
def test_one_pass_gives_the_logits_of_the_cached_steps(world, config, seed, data):
    """However much of each clip's prefix is padding."""
    model = build_model(config, world.grid, world.context + world.frames, seed)
    truth, padding = random_sequences(world, config, seed, batch=2), data.draw(paddings(world, 2))
    logits = forced_logits(model, truth, world.plan(), start=starts(padding, 2))
    stepped = stepped_logits(model, world, truth, padding)
    torch.testing.assert_close(logits, stepped, atol=1e-4, rtol=1e-4)


@FEWER
@given(
    worlds(frames=6, padded=False),
    configs(("rope-1d", "rope-3d")),
    SEEDS,
    st.integers(2, 4),
    st.integers(0, 2),
    st.data(),
)
def test_one_pass_gives_the_logits_of_a_window_that_slides(
    world, config, seed, window, sinks, data
):
    padding = data.draw(paddings(world, 2))
    model, seen = build_model(config, world.grid, 1, seed), {}
    truth = random_sequences(world, config, seed, batch=2)

    def choose(logits, targets):
        seen.update(zip(targets.tolist(), logits.unbind(1), strict=True))
        return truth[:, targets]

    slide(model, world, world.prompt(truth), choose, window, sinks, padding=padding)
    stepped = torch.stack([seen[p] for p in world.new.tolist()], dim=1)
    world = replace(world, decoding=replace(world.decoding, sinks=sinks, window="slide"))
    logits = forced_logits(model, truth, world.plan(), window=window, start=starts(padding, 2))
    torch.testing.assert_close(logits, stepped, atol=1e-4, rtol=1e-4)


@FEWER
@given(worlds(frames=5, padded=False), st.sampled_from([0, 2, 3]), st.integers(0, 1))
def test_entries_and_mask_are_those_of_the_oracle(world, window, sinks):
    """Also beyond what logits can tell: what expires, and when."""
    world = replace(world, decoding=replace(world.decoding, sinks=sinks, window="slide"))
    within = world.layout.within(window, sinks) if window else oracle.everything
    truth = np.arange(world.length)
    walked = oracle.walk(
        world.layout,
        world.context,
        world.frames,
        world.rules,
        world.known(truth),
        oracle.forced(truth),
    )
    visible, entries = oracle.visible(walked, within), plan_entries(world.plan(), window)
    place = {(e.position, e.step): n for n, e in enumerate(walked)}
    order = [
        place[key] for key in zip(entries.position.tolist(), entries.step.tolist(), strict=True)
    ]
    assert sorted(order) == list(range(len(walked)))
    assert entries.source.tolist() == [walked[n].source for n in order]
    assert entries.target.tolist() == [
        -1 if walked[n].target is None else walked[n].target for n in order
    ]
    assert (entries.visible == visible[np.ix_(order, order)]).all()


def test_targets_come_first_in_raster_order():
    entries = plan_entries(STANDING_IN.plan())
    new = len(STANDING_IN.new)
    assert (
        entries.target[:new].tolist() == STANDING_IN.new.tolist()
        and (entries.target[new:] == -1).all()
    )


def test_a_stand_in_expires_when_the_true_token_comes():
    """d = 3 is less than the frame's 8 diagonals: rows and frames start before the token in front
    of them is made.
    """
    plan = STANDING_IN.plan()
    entries = plan_entries(plan)
    fed = entries.step >= 0
    covers = fed & (entries.source != entries.position)
    assert covers.sum() > 2
    for n in np.flatnonzero(covers):
        true = np.flatnonzero(
            (entries.position == entries.position[n]) & (entries.source == entries.position)
        )
        assert entries.expires[n] == (entries.step[true[0]] if len(true) else plan.steps)
    assert (entries.expires[~covers] == plan.steps).all()


def test_padding_is_seen_by_itself_alone():
    world = World(Grid(2, 2, prefix=3), context=0, frames=1, decoding=Decoding("ntp"))
    entries, start = plan_entries(world.plan()), torch.tensor([[0], [2]])
    own, other = entry_mask(entries, torch.device("cpu"), start).visible.numpy()
    real = (entries.position >= 2) | np.eye(len(entries), dtype=bool)
    assert (own == entries.visible).all()
    assert (other == (entries.visible & real)).all() and (own != other).any()
    config = ROTATED.model_copy(update={"positions": Positions(kind="rope-1d")})
    model, truth = build_model(config, world.grid, 1, seed=0), torch.zeros(2, world.length).long()
    truth[1, 1] = 7  # which is padding
    hidden = forced_logits(model, truth, world.plan(), start=start)[1]
    without = forced_logits(model, torch.zeros_like(truth), world.plan(), start=start)[1]
    torch.testing.assert_close(hidden, without)
    assert (forced_logits(model, truth, world.plan())[1] - hidden).abs().max() > 0.01


def test_ntp_is_a_causal_pass():
    world = STANDING_IN.ntp
    entries = plan_entries(world.plan())
    assert sorted(entries.position.tolist()) == list(range(world.length - 1))
    assert (entries.visible == (entries.position <= entries.position[:, None])).all()


STEERED = TransformerConfig(
    vocab=11, dim=24, layers=2, heads=4, kv_heads=2, head_dim=12, mlp_dim=16, cross_dim=6, qk_norm=True,
    positions=Positions(kind="rope-3d", absolute=True),
)  # fmt: skip


def test_with_text():
    """By cross-attention, and with the position table of Cosmos Video2World."""
    model, plan = build_model(STEERED, STANDING_IN.grid, 3, seed=0), STANDING_IN.plan()
    truth, seen = random_sequences(STANDING_IN, STEERED, seed=0), {}
    with torch.inference_mode():
        cross = model.cross_context(
            torch.randn(1, 5, 6, generator=torch.Generator().manual_seed(0))
        )

    def choose(logits, targets):
        seen.update(zip(targets.tolist(), logits.unbind(1), strict=True))
        return truth[:, targets]

    decode_plan(model, plan, truth, choose, cross)
    stepped = torch.stack([seen[p] for p in STANDING_IN.new.tolist()], dim=1)
    torch.testing.assert_close(
        forced_logits(model, truth, plan, cross), stepped, atol=1e-4, rtol=1e-4
    )
    unsteered = forced_logits(model, truth, plan)
    assert (unsteered - stepped).abs().max() > 0.01


# ---- FlexAttention, by its uncompiled form -------------------------------------------------------

ROTATED = TransformerConfig(
    vocab=20,
    dim=32,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=8,
    mlp_dim=32,
    positions=Positions(kind="rope-3d"),
)
LONG = World(Grid(6, 8, conditioning=1), context=2, frames=3, decoding=Decoding("diagd", k=2, d=5))


@pytest.fixture(autouse=True)
def uncompiled():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "flex_attention called without torch.compile")
        yield


@pytest.mark.parametrize("start", [None, torch.tensor([[0], [3]])])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_flex_attention_is_the_masked_attention(kv_heads, start):
    world = replace(LONG, grid=replace(LONG.grid, prefix=4))
    entries = plan_entries(world.plan())  # more than one block of 128
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(2, n, len(entries), 16, generator=generator) for n in (4, kv_heads, kv_heads)
    )
    blocks, matrix = (
        Mask(blocks=block_mask(entries, "cpu", start)),
        entry_mask(entries, torch.device("cpu"), start),
    )
    torch.testing.assert_close(attend(q, k, v, blocks), attend(q, k, v, matrix))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_model_under_a_block_mask(precision):
    """Under autocast queries and keys are rotated in float32, and values are not. FlexAttention has
    no backward on CPUs.
    """
    plan = LONG.plan()
    entries = plan_entries(plan)
    model = build_model(ROTATED, LONG.grid, 5, seed=0)
    tokens = random_sequences(LONG, ROTATED, seed=0)
    source, position = torch.from_numpy(entries.source), torch.from_numpy(entries.position)
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        blocks = Mask(blocks=block_mask(entries, "cpu"))
        under_blocks = model(tokens[:, source], position, blocks, outputs=plan.new_tokens)
        forced = forced_logits(model, tokens, plan)
    close = 1e-4 if precision == torch.float32 else 0.05 * forced.abs().max().item()
    torch.testing.assert_close(under_blocks, forced, atol=close, rtol=close)
