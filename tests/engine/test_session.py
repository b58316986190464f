"""Sessions: continued, rolled, abandoned, released."""

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
    decodings,
    known_ends,
    open_session,
    reference,
    run,
    sampler,
    worlds,
)

from diagd_cli.engine import steps
from diagd_cli.model.transformer import Transformer
from diagd_cli.schedule.decoding import Decoding

MORE = st.integers(1, 2)


def extend(session, latents, decoding):
    """The new codes; the steps reported on the way are 1, 2, ..., and as many as announced; a pass
    that keeps several guesses is several steps further.
    """
    before, announced = session.latents, session.steps(latents, decoding)
    told = list(session.extend(latents, decoding))
    every = list(range(1, announced + 1))
    if decoding.method == "exact":
        assert told == sorted(told) and set(told) <= {0, *every} and told[-1] == announced
    else:
        assert told == every
    assert session.latents == before + latents
    return session.codes[:, before:]


def known(session, world):
    """Everything known to a session, for the oracle."""
    tokens = {p: int(x) for p, x in enumerate(session.prefix)}
    for t, frame in enumerate(session.codes[0]):
        tokens |= {world.layout.position(t, i, j): int(x) for (i, j), x in np.ndenumerate(frame)}
    for t, actions in enumerate(session.conditioning[0]):
        tokens |= dict(zip(world.layout.steering(t), actions.tolist(), strict=True))
    return tokens | known_ends(world, len(session.conditioning[0]))


def codes_of(tokens, world, frames):
    g = world.grid
    return [
        [[tokens[world.layout.position(t, i, j)] for j in range(g.w)] for i in range(g.h)]
        for t in frames
    ]


@FEWER
@given(worlds(frames=2), configs(), SEEDS)
def test_ntp_frame_by_frame_is_a_plain_decoder_over_all_frames(world, config, seed):
    world, total = world.ntp, world.context + world.frames
    session = open_session(world, build_model(config, world.grid, total, seed), total, seed)
    tokens = known(session, world)
    made = [extend(session, 1, world.decoding) for _ in range(world.frames)]

    oracle.next_token_decode(
        reference(session.model, world), tokens, world.context, world.frames, careful()
    )
    assert np.concatenate(made, axis=1)[0].tolist() == codes_of(
        tokens, world, range(world.context, total)
    )


@FEWER
@given(worlds(frames=2), configs(), SEEDS, MORE, st.data())
def test_two_decodings_in_turn_are_the_oracles_walk_continued(world, config, seed, more, data):
    second, total = data.draw(decodings(world.grid)), world.context + world.frames + more
    session = open_session(
        world, build_model(config, world.grid, total, seed), total, seed, window=total
    )
    tokens = known(session, world)
    made = [extend(session, world.frames, world.decoding), extend(session, more, second)]

    choose, rules = (
        oracle.free_running(reference(session.model, world), careful()),
        second.resolve(world.grid, 1),
    )
    entries = oracle.walk(world.layout, world.context, world.frames, world.rules, tokens, choose)
    oracle.walk(world.layout, world.context + world.frames, more, rules, tokens, choose, entries)
    assert np.concatenate(made, axis=1)[0].tolist() == codes_of(
        tokens, world, range(world.context, total)
    )


@FEWER
@given(worlds(frames=2), configs(), SEEDS, TEMPERATURES)
def test_one_extension_is_the_plan_itself(world, config, seed, temperature):
    total = world.context + world.frames
    model = build_model(config, world.grid, total, seed)
    session = open_session(world, model, total, seed, temperature=temperature)
    prompt = torch.tensor([[known(session, world).get(p, 0) for p in range(world.length)]])
    choose = sampler(model, [seed], temperature, world.padding)
    tokens = run(model, world.plan(), prompt, choose, padding=world.padding)
    made = extend(session, world.frames, world.decoding)
    assert made.ravel().tolist() == tokens[0, torch.as_tensor(world.new)].tolist()


@FEWER
@given(worlds(frames=2), configs(), SEEDS, TEMPERATURES, MORE)
def test_clips_in_lock_step_are_the_clips_alone_also_over_a_rolling_window(
    world, config, seed, temperature, more
):
    frames = world.frames + more
    model = build_model(config, world.grid, world.context + world.frames, seed)
    together = open_session(
        world, model, world.context + frames, seed, batch=2, temperature=temperature
    )
    alone = [
        replace(
            together,
            codes=together.codes[[n]],
            conditioning=together.conditioning[[n]],
            seeds=[together.seeds[n]],
        )
        for n in (1, 0)
    ]
    made = extend(together, frames, world.decoding)
    assert [extend(s, frames, world.decoding)[0].tolist() for s in alone] == made[::-1].tolist()


@FEWER
@given(worlds(frames=2), configs(), SEEDS, st.integers(1, 4), st.booleans())
def test_a_rolled_window_is_a_fresh_session_on_the_kept_frames(
    world, config, seed, more, zero_slots
):
    """Slots that are still empty are zero again, where they are seen."""
    world = replace(world, decoding=replace(world.decoding, zero_slots=zero_slots))
    model = build_model(config, world.grid, world.context + world.frames, seed)
    session = open_session(world, model, world.context + world.frames + more, seed)
    extend(session, world.frames, world.decoding)
    fresh = replace(
        session,
        codes=session.codes[:, -session.overlap :],
        conditioning=session.conditioning[:, world.frames :],
    )
    assert (
        extend(session, more, world.decoding).tolist()
        == extend(fresh, more, world.decoding).tolist()
    )


@FEWER
@given(worlds(frames=2), configs(), SEEDS, MORE)
def test_a_window_rolls_frame_by_frame_like_a_session_opened_on_the_whole_clip(
    world, config, seed, more
):
    """Places count from the clip's first frame, so the fresh session draws the same noise."""
    window = world.context + world.frames
    model = build_model(config, world.grid, window, seed)
    session = open_session(world, model, window + more, seed, temperature=1.0, overlap=window - 1)
    extend(session, world.frames, world.decoding)
    for _ in range(more):
        fresh = replace(session)
        assert (
            extend(session, 1, world.decoding).tolist() == extend(fresh, 1, world.decoding).tolist()
        )


@FEWER
@given(worlds(frames=2), configs(), SEEDS, MORE)
def test_noise_goes_on_when_the_window_rolls(world, config, seed, more):
    """With a model that has no opinion, the clip is the noise: the same through a small and a large
    window.
    """
    frames = world.frames + more
    model = build_model(config, world.grid, world.context + frames, seed)
    model.head.weight.zero_()
    small = open_session(world, model, world.context + frames, seed, temperature=1.0)
    large = replace(small, window=world.context + frames)
    assert (
        extend(small, frames, world.decoding).tolist()
        == extend(large, frames, world.decoding).tolist()
    )


@FEWER
@given(worlds(frames=2), configs(), SEEDS, TEMPERATURES, st.data())
def test_an_extension_abandoned_before_a_frame_is_complete_leaves_no_trace(
    world, config, seed, temperature, data
):
    total = world.context + world.frames
    model = build_model(config, world.grid, total, seed)
    session = open_session(world, model, total, seed, temperature=temperature)
    other, decoding = replace(session), data.draw(decodings(world.grid))
    assume(decoding.method != "exact")  # whose passes may complete a frame at any time
    running = session.extend(world.frames, decoding)
    for _ in range(data.draw(st.integers(0, session.steps(1, decoding) - 1))):
        next(running)
    running.close()
    assert session.latents == world.context
    remade, expected = (extend(s, world.frames, world.decoding).tolist() for s in (session, other))
    assert remade == expected


def test_actions_may_arrive_frame_by_frame():
    """Only the conditioning up to the newest known frame is needed to make the next."""
    world = replace(WIDE_WORLD, frames=3)
    model = build_model(WIDE, world.grid, 5, seed=3)
    whole = open_session(world, model, frames=5)
    live = replace(whole, conditioning=whole.conditioning[:, :2])
    expected = np.concatenate([extend(whole, 1, world.decoding) for _ in range(3)], axis=1)
    for n in range(3):
        live.conditioning = whole.conditioning[:, : 2 + n]
        assert (extend(live, 1, world.decoding) == expected[:, n : n + 1]).all()


def test_actions_that_are_missing_are_told():
    """Not read as code 0 of the tokenizer."""
    session = open_session(
        replace(WIDE_WORLD, frames=3), build_model(WIDE, WIDE_WORLD.grid, 5, seed=3), frames=5
    )
    session.conditioning = session.conditioning[:, : session.latents]
    with pytest.raises(ValueError, match=r"actions after 2 latent frames are known, 4 are needed"):
        extend(session, 3, WIDE_WORLD.decoding)


@pytest.mark.parametrize("overlap", [-1, 3, 4])
def test_a_full_window_must_lose_frames(overlap):
    model = build_model(WIDE, WIDE_WORLD.grid, 5, seed=3)
    with pytest.raises(ValueError, match=f"overlap is {overlap}, window 3"):
        open_session(WIDE_WORLD, model, frames=5, window=3, overlap=overlap)


@FEWER
@given(worlds(frames=2), configs(), SEEDS, TEMPERATURES, MORE)
def test_a_session_has_room_for_steps_that_can_be_captured(world, config, seed, temperature, more):
    """Padded lanes have a place to write to; also where the window rolls and the plan fills it."""
    model = build_model(config, world.grid, world.context + world.frames, seed)
    frames = world.frames + more
    session = open_session(
        world, model, world.context + frames, seed, batch=2, temperature=temperature
    )
    padded = replace(session, capture=True)
    made = extend(session, frames, world.decoding)
    assert made.tolist() == extend(padded, frames, world.decoding).tolist()


@FEWER
@given(
    worlds(frames=2),
    configs(),
    SEEDS,
    TEMPERATURES,
    st.lists(st.integers(1, 3), min_size=2, max_size=4),
    st.data(),
)
def test_steps_that_were_captured_serve_every_extension(
    world, config, seed, temperature, parts, data
):
    """By other decodings, at other places of the video and of the window: what they read is where
    it was.
    """
    model = build_model(config, world.grid, world.context + world.frames, seed)
    session = open_session(
        world, model, world.context + sum(parts), seed, batch=2, temperature=temperature
    )
    padded, walks = (
        replace(session, capture=True),
        [world.decoding, data.draw(decodings(world.grid))],
    )
    for n, latents in enumerate(parts):
        made = extend(session, latents, walks[n % 2])
        assert made.tolist() == extend(padded, latents, walks[n % 2]).tolist()


@pytest.fixture
def captured(monkeypatch) -> list:
    """What has been captured; without CUDA it is the step itself that is kept, and run again."""
    found, capture = [], steps.capture
    monkeypatch.setattr(steps, "capture", lambda *a: found.append(a) or capture(*a))
    return found


@pytest.mark.parametrize("capture", [False, True])
def test_extending_again_makes_and_captures_nothing_new(capture, captured, monkeypatch):
    """The third and fourth extension roll the window; all are alike but for their place."""
    made, new_cache = [], Transformer.new_cache
    monkeypatch.setattr(Transformer, "new_cache", lambda *a: made.append(new_cache(*a)) or made[-1])
    world = replace(WIDE_WORLD, frames=1)
    session = open_session(
        world, build_model(WIDE, world.grid, 3, seed=3), frames=6, temperature=1.0, capture=capture
    )
    counts, held = [], []
    for _ in range(4):
        extend(session, 1, world.decoding)
        state = session._state
        counts.append((len(made), len(captured)))
        tensors = [state.tokens, state.cache.keys, state.cache.values, state.sampler.origin]
        if capture:
            tensors += [state.run.steps.held, *state.run.rows.values()]
        held.append([tensor.data_ptr() for tensor in tensors])
    assert counts == [counts[0]] * 4 and counts[0][0] == 1 and (counts[0][1] > 0) == capture
    assert held == [held[0]] * 4


def test_another_width_is_captured_once_and_the_first_is_kept(captured):
    world = replace(WIDE_WORLD, frames=1)
    session = open_session(world, build_model(WIDE, world.grid, 3, seed=3), frames=6, capture=True)
    counts = []
    for decoding in (world.decoding, Decoding("ntp"), world.decoding, Decoding("ntp")):
        extend(session, 1, decoding)
        counts.append(len(captured))
    assert 0 < counts[0] < counts[1] == counts[3]
    assert {width for width, _ in session._state.run.graphs} == {1, int(world.plan().widths.max())}


def test_after_a_release_everything_is_made_anew():
    """With the sampling that the session has by then."""
    world = replace(WIDE_WORLD, frames=1)
    session = open_session(
        world, build_model(WIDE, world.grid, 3, seed=3), frames=6, temperature=1.0
    )
    extend(session, 1, world.decoding)
    session.release()
    assert session._state is None
    session.sampling = replace(session.sampling, temperature=0.0)
    fresh = replace(session)
    assert extend(session, 1, world.decoding).tolist() == extend(fresh, 1, world.decoding).tolist()


@FEWER
@given(worlds(frames=3), configs(("rope-1d", "rope-3d")), SEEDS, TEMPERATURES, MORE, st.booleans())
def test_a_session_that_goes_back_makes_the_same_again(
    world, config, seed, temperature, more, slides
):
    """With what it has on the device, and whatever lies there by then."""
    decoding = replace(world.decoding, window="slide" if slides else "roll")
    frames = world.frames + more
    model = build_model(config, world.grid, 1, seed)
    session = open_session(
        world, model, world.context + frames, seed, temperature=temperature, window=3, overlap=1
    )
    made = extend(session, frames, decoding)
    state = session._state
    session.rewind(world.context)
    assert session.latents == world.context and session._state is state
    assert extend(session, frames, decoding).tolist() == made.tolist()


@FEWER
@given(worlds(frames=3), configs(("rope-1d", "rope-3d")), SEEDS, TEMPERATURES, MORE)
def test_a_token_may_attend_to_fewer_frames_than_the_window_holds(
    world, config, seed, temperature, more
):
    """As in a model whose window holds no more."""
    model, frames = build_model(config, world.grid, 1, seed), world.frames + more
    own = {"temperature": temperature, "overlap": 1}
    total = world.context + frames
    tight = open_session(world, model, total, seed, **own, window=2)
    roomy = open_session(world, model, total, seed, **own, window=4)
    slides = replace(world.decoding, window="slide")
    made = extend(tight, frames, slides)
    assert made.tolist() == extend(roomy, frames, replace(slides, attend=2)).tolist()


@pytest.mark.parametrize("latents", [0, 5])
def test_there_is_no_way_back_to_what_never_was(latents):
    session = open_session(WIDE_WORLD, build_model(WIDE, WIDE_WORLD.grid, 5, seed=3), frames=5)
    with pytest.raises(ValueError, match=f"no way back to {latents} latent frames: there are 1 to"):
        session.rewind(latents)


@FEWER
@given(worlds(frames=2), configs(), SEEDS, TEMPERATURES, MORE)
def test_a_window_larger_than_needed_changes_nothing(world, config, seed, temperature, more):
    total = world.context + world.frames
    model = build_model(config, world.grid, total + more, seed)
    tight = open_session(world, model, total, seed, temperature=temperature)
    roomy = replace(tight, window=total + more)
    made = extend(tight, world.frames, world.decoding)
    assert made.tolist() == extend(roomy, world.frames, world.decoding).tolist()


@FEWER
@given(worlds(frames=2), configs(), SEEDS, TEMPERATURES)
def test_a_released_session_starts_again_from_its_tokens(world, config, seed, temperature):
    """Repaired or not, a prefill feeds the truth: as in a session that is opened on the codes made
    so far.
    """
    total = world.context + world.frames + 1
    model = build_model(config, world.grid, total, seed)
    session = open_session(world, model, total, seed, temperature=temperature, window=total)
    extend(session, world.frames, world.decoding)
    session.release()
    fresh = replace(session)
    assert extend(session, 1, world.decoding).tolist() == extend(fresh, 1, world.decoding).tolist()


@FEWER
@given(worlds(frames=2), configs(), SEEDS, st.integers(1, 10**6))
def test_each_clip_of_a_batch_draws_by_its_own_place_in_its_video(world, config, seed, before):
    """P3 for clips that stand at different frames of their videos, also where the window rolls."""
    total, frames = world.context + world.frames, world.frames + 1
    model = build_model(config, world.grid, total, seed)
    session = open_session(world, model, total + 1, seed, batch=2, temperature=1.0)
    session.before = [0, before]
    alone = [
        replace(
            session,
            codes=session.codes[n : n + 1],
            conditioning=session.conditioning[n : n + 1],
            seeds=[session.seeds[n]],
            before=[session.before[n]],
        )
        for n in range(2)
    ]
    made = extend(session, frames, world.decoding)
    for n, one in enumerate(alone):
        assert extend(one, frames, world.decoding)[0].tolist() == made[n].tolist()


@FEWER
@given(worlds(), configs(), SEEDS, MORE)
def test_complete_frames_are_told_with_the_codes_that_they_keep(world, config, seed, more):
    """Frame t is complete when step t*d + (h-1)*k + w is done (equation 5), also after the window
    has rolled.
    """
    model = build_model(config, world.grid, world.context + world.frames, seed)
    frames, context = world.frames + more, world.context
    session = open_session(world, model, context + frames, seed, batch=2)
    k, d, *_ = world.rules
    last = (world.grid.h - 1) * k + world.grid.w
    seen, first = [], (world.frames - 1) * d + last
    for done in session.extend(frames, world.decoding):
        seen.append((session.latents, session.codes[:, 1:]))
        if done <= first:
            assert session.latents - context == sum(
                t * d + last <= done for t in range(world.frames)
            )
    assert seen[-1][0] == session.latents == context + frames
    for complete, codes in seen:
        assert codes.tolist() == session.codes[:, 1:complete].tolist()
