"""A window that slides: P1, P2 and P3 for clips of many windows, on a cache that is a ring."""

from dataclasses import replace

import numpy as np
import oracle
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import (
    FEWER,
    SEEDS,
    TEMPERATURES,
    WIDE,
    WIDE_WORLD,
    build_model,
    careful,
    configs,
    decided,
    decodings,
    known_ends,
    open_session,
    random_sequences,
    reference,
    slide,
    worlds,
)
from test_session import codes_of, extend, known

from diagd_cli.schedule.decoding import Decoding

WINDOWS, SINKS = st.integers(2, 4), st.integers(0, 2)
LONG = worlds(frames=6)  # two windows and more
RELATIVE = configs(kinds=("rope-1d", "rope-3d"))


def sliding(decoding: Decoding, sinks: int = 0) -> Decoding:
    return replace(decoding, window="slide", sinks=sinks)


def open_sliding(world, config, seed, window, **options):
    """A session whose model has position tables for one frame alone."""
    model, total = build_model(config, world.grid, 1, seed), world.context + world.frames
    return open_session(world, model, total, seed, window=window, overlap=1, **options)


@FEWER
@given(LONG, RELATIVE, SEEDS, WINDOWS, SINKS)
def test_p1_ntp_is_a_plain_decoder_that_sees_the_window(world, config, seed, window, sinks):
    world = world.ntp
    session = open_sliding(world, config, seed, window)
    tokens, within = known(session, world), world.layout.within(window, sinks)
    made = extend(session, world.frames, sliding(world.decoding, sinks))
    plain = reference(session.model, world)
    oracle.next_token_decode(plain, tokens, world.context, world.frames, careful(), within)
    frames = range(world.context, world.context + world.frames)
    assert made[0].tolist() == codes_of(tokens, world, frames)


@FEWER
@given(LONG, RELATIVE, SEEDS, WINDOWS, SINKS, st.booleans(), st.booleans())
def test_p2_logits_of_the_ring_are_those_of_one_masked_pass(
    world, config, seed, window, sinks, capture, zero_slots
):
    world = replace(world, decoding=replace(world.decoding, zero_slots=zero_slots))
    model, seen = build_model(config, world.grid, 1, seed), {}
    truth = random_sequences(world, config, seed)

    def choose(logits, targets):
        seen.update(zip(targets.tolist(), logits[0], strict=True))
        return torch.nn.functional.pad(truth, (0, 1))[:, targets]

    slide(model, world, world.prompt(truth), choose, window, sinks, capture)
    frames = world.context, world.frames
    given_tokens, forced = world.known(truth[0]), oracle.forced(truth[0])
    entries = oracle.walk(world.layout, *frames, world.rules, given_tokens, forced)
    within = world.layout.within(window, sinks)
    logits = oracle.entry_logits(reference(model, world), entries, zero_slots, within)
    asked = [n for n, e in enumerate(entries) if e.target is not None]
    stepped = torch.stack([seen[entries[n].target] for n in asked]).double()
    torch.testing.assert_close(stepped, logits[asked], atol=1e-4, rtol=1e-4)


@FEWER
@given(LONG, RELATIVE, SEEDS, WINDOWS, SINKS, st.integers(1, 6), st.data())
def test_p2_two_decodings_in_turn_are_the_oracles_walk_continued(
    world, config, seed, window, sinks, more, data
):
    """The second goes on with the cache of the first, where that is large enough for it."""
    second, total = data.draw(decodings(world.grid)), world.context + world.frames + more
    session = open_sliding(replace(world, frames=world.frames + more), config, seed, window)
    tokens, within = known(session, world), world.layout.within(window, sinks)
    made = [extend(session, world.frames, sliding(world.decoding, sinks))]
    state = session._state
    made.append(extend(session, more, sliding(second, sinks)))
    if session._state is not state:
        return  # made anew, from the newest frames alone: not a walk continued

    choose = oracle.free_running(reference(session.model, world), careful(), within)
    rules = second.resolve(world.grid, 1)
    entries = oracle.walk(world.layout, world.context, world.frames, world.rules, tokens, choose)
    before = world.context + world.frames
    oracle.walk(world.layout, before, more, rules, tokens, choose, entries)
    frames = range(world.context, total)
    assert np.concatenate(made, axis=1)[0].tolist() == codes_of(tokens, world, frames)


@FEWER
@given(LONG, RELATIVE, SEEDS, TEMPERATURES, WINDOWS, SINKS, st.booleans())
@decided
def test_p3_clips_in_lock_step_are_the_clips_alone_captured_or_not(
    world, config, seed, temperature, window, sinks, capture
):
    options = {"batch": 2, "temperature": temperature}
    together = open_sliding(world, config, seed, window, **options)
    both = replace(together, capture=not capture)
    made = extend(both, world.frames, sliding(world.decoding, sinks))
    for n in (1, 0):
        alone = replace(
            together,
            codes=together.codes[[n]],
            conditioning=together.conditioning[[n]],
            seeds=[together.seeds[n]],
            capture=capture,
        )
        own = extend(alone, world.frames, sliding(world.decoding, sinks))
        assert own[0].tolist() == made[n].tolist()


@FEWER
@given(LONG, RELATIVE, SEEDS, TEMPERATURES)
def test_within_the_window_nothing_slides(world, config, seed, temperature):
    total = world.context + world.frames
    session = open_sliding(world, config, seed, max(2, total), temperature=temperature)
    rolled = replace(session)
    made = extend(session, world.frames, sliding(world.decoding))
    assert made.tolist() == extend(rolled, world.frames, world.decoding).tolist()


@FEWER
@given(LONG, RELATIVE, SEEDS, WINDOWS)
def test_noise_is_that_of_the_place_whatever_becomes_of_the_window(world, config, seed, window):
    session = open_sliding(world, config, seed, window, temperature=1.0)
    session.model.head.weight.zero_()  # a model that has no opinion
    rolled = replace(session)
    made = extend(session, world.frames, sliding(world.decoding))
    assert made.tolist() == extend(rolled, world.frames, world.decoding).tolist()


@FEWER
@given(LONG, RELATIVE, SEEDS, TEMPERATURES, WINDOWS, SINKS)
def test_a_stream_is_the_extension_remembered_or_not(
    world, config, seed, temperature, window, sinks
):
    """Actions come when they are due, and codes when they are made; old frames are forgotten."""
    decoding, d = sliding(world.decoding, sinks), world.rules[1]
    whole = open_sliding(world, config, seed, window, batch=2, temperature=temperature)
    asked, given_rows = [], whole.conditioning
    live = replace(
        whole, conditioning=given_rows[:, : world.context - 1], keep=window, capture=True
    )

    def steer(latent):
        asked.append((latent, live.latents))
        return given_rows[:, min(latent, given_rows.shape[1] - 1)]  # frames in flight ask, too

    frames = []
    for codes in live.stream(decoding, steer=steer):
        frames.append(codes)
        if len(frames) == world.frames:
            break
    made = extend(whole, world.frames, decoding)
    assert np.stack(frames, axis=1).tolist() == made.tolist()
    assert live.latents == whole.latents and live.codes.shape[1] <= max(window, world.context)
    assert live.codes[:, -1].tolist() == whole.codes[:, -1].tolist()
    if world.grid.conditioning:
        span = (world.grid.h - 1) * world.rules[0] + world.grid.w
        for latent, complete in asked:  # frame `latent` + 1 starts d steps after the one before
            new = latent + 1 - world.context
            before = sum(t * d + span <= new * d for t in range(new))
            guessed = world.decoding.method == "exact"  # its guesses are ahead of what is known
            assert complete - world.context in range(before - 2 * guessed, before + 1)


@FEWER
@given(LONG, RELATIVE, SEEDS, WINDOWS, st.data())
def test_what_is_complete_stays_when_an_extension_is_abandoned(world, config, seed, window, data):
    """And it goes on from there as the oracle does, with another decoding, another action."""
    assume(world.decoding.method != "exact")  # which has no steps to stop at
    second, more = data.draw(decodings(world.grid)), data.draw(st.integers(1, 3))
    whole = world.context + world.frames + more
    session = open_sliding(replace(world, frames=world.frames + more), config, seed, window)
    tokens, within = known(session, world), world.layout.within(window)
    steps = session.steps(world.frames, sliding(world.decoding))
    stop = data.draw(st.integers(1, steps))
    running = session.extend(world.frames, sliding(world.decoding))
    for _ in range(stop):
        next(running)
    running.close()
    (k, d, _, repair), complete = world.rules, session.latents
    span = (world.grid.h - 1) * k + world.grid.w
    assert complete - world.context == sum(t * d + span <= stop for t in range(world.frames))
    state, begun_anew = session._state, session._fed == 0
    extend(session, more, sliding(second))
    if session._state is not state or begun_anew:
        return

    choose = oracle.free_running(reference(session.model, world), careful(), within)
    run = world.layout, world.context, world.frames, world.rules, dict(tokens), choose
    entries = oracle.walk(*run, stop=stop)
    end = world.layout.position(complete - 1, world.grid.h - 1, world.grid.w - 1) + 1
    made, left = run[4], oracle.drop(entries, end, repair)
    # what was made of frames in flight is gone
    free = {p for t in range(complete, whole) for p in range(*span_of(world, t))}
    made = {p: token for p, token in made.items() if p not in free} | known_ends(world, whole)
    rules = second.resolve(world.grid, 1)
    oracle.walk(world.layout, complete, more, rules, made, choose, left)
    frames = range(world.context, complete + more)
    assert session.codes[0, world.context :].tolist() == codes_of(made, world, frames)


@FEWER
@given(LONG, RELATIVE, SEEDS, TEMPERATURES, WINDOWS, st.integers(1, 5), st.booleans())
def test_a_window_may_slide_and_then_roll_and_the_other_way_round(
    world, config, seed, temperature, window, more, rolls_first
):
    """As a session that is opened on what there is goes on: its cache is another one."""
    session = open_sliding(
        replace(world, frames=world.frames + more), config, seed, window, temperature=temperature
    )
    first, second = world.decoding, sliding(world.decoding)
    first, second = (first, second) if rolls_first else (second, first)
    extend(session, world.frames, first)
    fresh = replace(session)
    assert extend(session, more, second).tolist() == extend(fresh, more, second).tolist()


def span_of(world, t):
    """Positions of a frame's codes."""
    first = world.layout.position(t, 0, 0)
    return first, first + world.grid.area


def test_the_steady_state_is_one_graph(monkeypatch):
    """Nothing is captured after the ramp-up, however long it goes on."""
    from diagd_cli.engine import steps

    found, capture = [], steps.capture
    monkeypatch.setattr(steps, "capture", lambda *a: found.append(a) or capture(*a))
    model = build_model(WIDE, WIDE_WORLD.grid, 1, seed=0)
    session = open_session(WIDE_WORLD, model, frames=80, window=3, overlap=1, capture=True, keep=3)
    counts = []
    for n, _ in enumerate(session.stream(sliding(WIDE_WORLD.decoding), 60)):
        counts.append(len(found))
        assert n < 10 or session._state.tokens.shape[1] < 12 * WIDE_WORLD.grid.block
    assert counts[10:] == [counts[10]] * 50 and 0 < counts[10] <= steps.EXTENT_CLASSES


def test_who_keeps_a_frame_keeps_no_more():
    model = build_model(WIDE, WIDE_WORLD.grid, 1, seed=0)
    session = open_session(WIDE_WORLD, model, frames=9, window=3, overlap=1, keep=3)
    frames = list(session.stream(sliding(WIDE_WORLD.decoding), 6))
    assert len(frames) == 6 and all(frame.base is None for frame in frames)


@pytest.mark.parametrize("keep", [1, 2])
def test_a_session_remembers_its_window_at_least(keep):
    model = build_model(WIDE, WIDE_WORLD.grid, 1, seed=0)
    with pytest.raises(ValueError, match=f"keep is {keep}: the window holds 3"):
        open_session(WIDE_WORLD, model, frames=4, window=3, overlap=1, keep=keep)


def test_without_an_end_somebody_must_steer():
    session = open_session(
        WIDE_WORLD, build_model(WIDE, WIDE_WORLD.grid, 1, seed=0), 4, window=3, overlap=1
    )
    with pytest.raises(ValueError, match="steer"):
        next(session.extend(None, sliding(WIDE_WORLD.decoding)))
