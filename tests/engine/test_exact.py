"""P1's second clause: tokens that are guessed and checked are those of next-token prediction."""

from dataclasses import replace

import numpy as np
import oracle
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    SEEDS,
    TEMPERATURES,
    WIDE,
    World,
    build_model,
    careful,
    configs,
    grids,
    known_ends,
    open_session,
    reference,
    sampler,
    worlds,
)

from diagd_cli.schedule.decoding import Decoding
from diagd_cli.tokens.grid import Grid

WIDTHS = st.integers(0, 40)
NTP = Decoding("ntp")


def exact(world, width, **options):
    """Of at most as many tokens a pass as the grid allows; 0 is what suits the device."""
    return Decoding("exact", width=min(width, world.grid.block), **options)


def extend(session, latents, decoding):
    """The new codes int64 [B, latents, h, w]."""
    for _ in session.extend(latents, decoding):
        pass
    return session.codes[:, -latents:]


def still(frames, h=4, w=5, conditioning=0, **ends):
    """A world of a model that has no opinion, and makes 0 everywhere."""
    grid = Grid(h, w, conditioning, **ends)
    world = World(grid, context=1, frames=frames, decoding=NTP)
    model = build_model(WIDE, world.grid, 1 + frames, seed=0)
    model.head.weight.zero_()
    return world, model


@given(worlds(), configs(), SEEDS, TEMPERATURES, WIDTHS, st.booleans())
def test_p1_exact_is_a_plain_decoder(world, config, seed, temperature, width, captured):
    model = build_model(config, world.grid, world.context + world.frames, seed)
    total = world.context + world.frames
    session = open_session(world, model, total, seed, temperature=temperature, capture=captured)
    plain = {p: int(x) for p, x in enumerate(session.prefix)}
    for t, frame in enumerate(session.codes[0]):
        plain |= {world.layout.position(t, i, j): int(x) for (i, j), x in np.ndenumerate(frame)}
    for t, actions in enumerate(session.conditioning[0]):
        plain |= dict(zip(world.layout.steering(t), actions.tolist(), strict=True))
    plain |= known_ends(world, total)

    noisy = sampler(model, [seed], temperature, world.padding)

    def pick(logits, position):
        return int(noisy(logits.float()[None, None], torch.tensor([position])))

    chosen = careful() if temperature == 0 else pick
    args = reference(model, world), plain, world.context, world.frames, chosen
    oracle.next_token_decode(*args)
    made = extend(session, world.frames, exact(world, width))
    assert made[0].ravel().tolist() == [plain[p] for p in world.new.tolist()]


@given(
    worlds(frames=6), configs(("rope-1d", "rope-3d")), SEEDS, TEMPERATURES, WIDTHS,
    st.integers(2, 4), st.integers(0, 1), st.booleans(), st.booleans(),
)  # fmt: skip
def test_whatever_becomes_of_the_window_and_whoever_else_is_in_the_batch(
    world, config, seed, temperature, width, window, sinks, slides, captured
):
    """Each clip goes on at its own pace, and gets what it gets alone by next-token prediction."""
    model = build_model(config, world.grid, window, seed)
    how = {"window": "slide", "sinks": sinks} if slides else {}
    size = {"window": window, "overlap": 1, "temperature": temperature}
    total = world.context + world.frames
    batch = open_session(world, model, total, seed, batch=3, capture=captured, **size)
    alone = [
        replace(batch, codes=batch.codes[n : n + 1], seeds=[batch.seeds[n]],
                conditioning=batch.conditioning[n : n + 1])
        for n in range(3)
    ]  # fmt: skip
    made = extend(batch, world.frames, exact(world, width, **how))
    for own, session in zip(made, alone, strict=True):
        plain = extend(session, world.frames, Decoding("ntp", **how))
        assert own.tolist() == plain[0].tolist()


@given(
    worlds(frames=5), configs(("rope-1d", "rope-3d")), SEEDS, WIDTHS, st.booleans(),
    st.integers(1, 12), st.sampled_from(["ntp", "exact"]),
)  # fmt: skip
def test_what_is_complete_stays_when_it_is_abandoned(
    world, config, seed, width, slides, passes, second
):
    """And what goes on from there is next-token prediction that was never interrupted."""
    first = exact(world, width, window="slide" if slides else "roll")
    total, size = world.context + world.frames + 1, {"window": 3, "overlap": 1}
    model = build_model(config, world.grid, 3, seed)
    session = open_session(world, model, total, seed, batch=2, **size)
    plain = replace(session)
    running = session.extend(world.frames, first)
    for _ in range(passes):
        next(running, None)
    running.close()
    if not session._fed:
        return  # frames that were begun have taken the place of others: a new sequence begins
    extend(session, total - session.latents, replace(first, method=second))
    extend(plain, total - world.context, replace(first, method="ntp"))
    assert session.codes.tolist() == plain.codes.tolist()


@given(grids(), st.integers(1, 3), st.integers(1, 40))
def test_guesses_that_are_right_are_kept(grid, frames, width):
    """Of a video that stands still every guess is right: no place is fed twice."""
    sizes = grid.h, grid.w, grid.conditioning
    world, model = still(frames, *sizes, row_end=grid.row_end, frame_end=grid.frame_end)
    session = open_session(world, model, 1 + frames, temperature=0.0)
    session.codes[:] = 0
    decoding = exact(world, width)
    extend(session, frames, decoding)
    fed = grid.block * frames - 1 + (grid.tail == 0)
    assert session.times.fed >= fed
    assert session.times.steps <= -(-fed // max(1, round(decoding.width * 3 / 8)))


def test_clips_do_not_wait_for_one_another():
    """One stands still and is done soon; the other one is guessed wrong all the time."""
    world, model = still(frames=3)
    session = open_session(world, model, 4, batch=2)
    session.codes[0] = 0
    decoding = exact(world, 8)
    for _ in session.extend(3, decoding):
        front = session._state.exact[decoding].front.flatten().tolist()
        assert front[0] >= front[1]
    assert session.times.steps < 3 * world.grid.area


def test_actions_are_asked_for_when_guesses_get_there():
    world, model = still(frames=5, conditioning=1)
    session = open_session(world, model, 6, live=True)
    asked = []

    def steer(latent):
        asked.append((latent, session.latents))
        return session.conditioning[:, 0]

    session.conditioning = session.conditioning[:, :1]
    for _ in session.extend(5, exact(world, 8), steer):
        pass
    assert [latent for latent, _ in asked] == [0, 1, 2, 3, 4]
    assert all(known in (latent, latent + 1) for latent, known in asked)


@given(worlds(frames=2), configs(), SEEDS, st.integers(1, 12), st.integers(1, 12))
def test_whatever_is_guessed_and_wherever_the_tokens_are_the_same(world, config, seed, width, row):
    model = build_model(config, world.grid, world.context + world.frames, seed)
    total = world.context + world.frames
    session = open_session(world, model, total, seed, temperature=1.0)
    decoding = exact(world, width)
    decoding = replace(decoding, row=min(row, decoding.width), guess="random")
    made = extend(replace(session), world.frames, decoding)
    assert made.tolist() == extend(session, world.frames, NTP).tolist()
