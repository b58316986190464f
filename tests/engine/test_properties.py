"""P1: NTP is a plan. P2: cache = mask. P3: independence. And sessions: continued, rolled, abandoned."""

from dataclasses import replace
from functools import partial
from unittest import mock

import numpy as np
import oracle
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    SEEDS,
    World,
    build_model,
    careful,
    configs,
    decodings,
    open_session,
    random_sequences,
    reference,
    run,
    sampler,
    worlds,
)

from diagd_cli.engine.decode import decode, prefill
from diagd_cli.model.cache import KVCache
from diagd_cli.model.config import Positions, TransformerConfig
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.tokens.grid import Grid

CHUNKS = st.sampled_from([1, 2, 3, 7, 512])
TEMPERATURES = st.sampled_from([0.0, 0.7, 1.3])
MORE = st.integers(1, 2)


def as_list(known, length):
    return [known[p] for p in range(length)]


# ---- P1 --------------------------------------------------------------------------------------------------------------


@given(worlds(), configs(), SEEDS)
def test_p1_the_ntp_plan_is_a_plain_decoder(world, config, seed):
    world = world.ntp
    model = build_model(config, world.grid, world.context + world.frames, seed)
    sequences = random_sequences(world, config, seed)
    tokens = run(model, world.plan(), world.prompt(sequences), sampler(model, world.length))

    plain = world.known(sequences[0])
    oracle.next_token_decode(reference(model, world), plain, world.context, world.frames, careful())
    assert tokens[0].tolist() == as_list(plain, world.length)


@given(worlds(), configs(), SEEDS)
def test_p1_holds_for_sampling_with_the_noise_of_seed_and_place(world, config, seed):
    world = world.ntp
    model = build_model(config, world.grid, world.context + world.frames, seed)
    sequences = random_sequences(world, config, seed)
    noisy = sampler(model, world.length, [seed], temperature=1.0)
    tokens = run(model, world.plan(), world.prompt(sequences), noisy)

    plain, pick = world.known(sequences[0]), lambda x, p: int(noisy(x[None, None], torch.tensor([p])))
    oracle.next_token_decode(reference(model, world), plain, world.context, world.frames, pick)
    assert tokens[0].tolist() == as_list(plain, world.length)


# ---- P2 --------------------------------------------------------------------------------------------------------------


@given(worlds(), configs(), SEEDS, CHUNKS, st.booleans())
def test_p2_logits_of_cached_steps_are_those_of_one_masked_pass(world, config, seed, chunk, padded):
    model = build_model(config, world.grid, world.context + world.frames, seed)
    truth = random_sequences(world, config, seed)
    seen = {}

    def choose(logits, targets):
        seen.update(zip(targets.tolist(), logits[0], strict=True))
        return torch.nn.functional.pad(truth, (0, 1))[:, targets]

    plan = world.plan().padded() if padded else world.plan()
    tokens = run(model, plan, world.prompt(truth), choose, chunk)
    assert tokens.tolist() == truth.tolist()

    known = world.known(truth[0])
    entries = oracle.walk(world.layout, world.context, world.frames, world.rules, known, oracle.forced(truth[0]))
    logits = oracle.entry_logits(reference(model, world), entries)
    asked = [n for n, e in enumerate(entries) if e.target is not None]
    assert sorted(entries[n].target for n in asked) == world.new.tolist()
    stepped = torch.stack([seen[entries[n].target] for n in asked]).double()
    torch.testing.assert_close(stepped, logits[asked], atol=1e-4, rtol=1e-4)


@given(worlds(), configs(), SEEDS)
def test_zero_slots_are_seen_as_keys_and_values_of_zero(world, config, seed):
    """What P2 forbids, as an ablation: empty slots take their share of the attention and give nothing."""
    world = replace(world, decoding=replace(world.decoding, zero_slots=True))
    model = build_model(config, world.grid, world.context + world.frames, seed)
    truth, seen = random_sequences(world, config, seed), {}

    def choose(logits, targets):
        seen.update(zip(targets.tolist(), logits[0], strict=True))
        return truth[:, targets]

    run(model, world.plan(), world.prompt(truth), choose)
    known = world.known(truth[0])
    entries = oracle.walk(world.layout, world.context, world.frames, world.rules, known, oracle.forced(truth[0]))
    logits = oracle.entry_logits(reference(model, world), entries, zero_slots=True)
    asked = [n for n, e in enumerate(entries) if e.target is not None]
    stepped = torch.stack([seen[entries[n].target] for n in asked]).double()
    torch.testing.assert_close(stepped, logits[asked], atol=1e-4, rtol=1e-4)


@given(worlds(), configs(), SEEDS)
def test_p2_free_running_the_engine_makes_the_tokens_of_the_oracle(world, config, seed):
    model = build_model(config, world.grid, world.context + world.frames, seed)
    sequences = random_sequences(world, config, seed)
    tokens = run(model, world.plan(), world.prompt(sequences), sampler(model, world.length))

    known, choose = world.known(sequences[0]), oracle.free_running(reference(model, world), careful())
    oracle.walk(world.layout, world.context, world.frames, world.rules, known, choose)
    assert tokens[0].tolist() == as_list(known, world.length)


# ---- P3 --------------------------------------------------------------------------------------------------------------


@given(worlds(), configs(), SEEDS, TEMPERATURES)
def test_p3_clips_of_a_batch_are_the_clips_alone(world, config, seed, temperature):
    model = build_model(config, world.grid, world.context + world.frames, seed)
    prompts, seeds = world.prompt(random_sequences(world, config, seed, batch=3)), [seed, 1, seed]
    together = run(model, world.plan(), prompts, sampler(model, world.length, seeds, temperature))
    for n in range(3):
        alone = run(model, world.plan(), prompts[n : n + 1], sampler(model, world.length, [seeds[n]], temperature))
        assert together[n].tolist() == alone[0].tolist()


@given(worlds(), configs(), SEEDS, TEMPERATURES, st.integers(0, 3))
def test_p3_padding_changes_nothing(world, config, seed, temperature, extra):
    model, plan = build_model(config, world.grid, world.context + world.frames, seed), world.plan()
    prompt = world.prompt(random_sequences(world, config, seed))
    choose = sampler(model, world.length + 1, [seed], temperature)
    padded = plan.padded(int(plan.widths.max()) + extra)
    assert run(model, padded, prompt, choose).tolist() == run(model, plan, prompt, choose).tolist()


@given(worlds(), configs(), SEEDS, TEMPERATURES)
def test_p3_steps_that_can_be_captured_change_nothing(world, config, seed, temperature):
    """One width for all, a counter on the device, a longer cache than needed: what CUDA graphs replay, run as it is."""
    model, plan = build_model(config, world.grid, world.context + world.frames, seed), world.plan()
    prompt = world.prompt(random_sequences(world, config, seed))
    choose = sampler(model, plan.length + 1, [seed], temperature)
    tokens = torch.nn.functional.pad(prompt, (0, plan.length + 1 - prompt.shape[1]))
    cache = KVCache(config, 1, plan.length + 1)
    prefill(model, cache, tokens, np.arange(plan.prefill))
    assert len(list(decode(model, plan, cache, tokens, choose, capture=True))) == plan.steps
    assert tokens[:, : prompt.shape[1]].tolist() == run(model, plan, prompt, choose).tolist()


@given(worlds(), configs(), SEEDS, TEMPERATURES, CHUNKS)
def test_p3_what_a_cache_held_before_changes_nothing(world, config, seed, temperature, chunk):
    model, plan = build_model(config, world.grid, world.context + world.frames, seed), world.plan()
    prompt = world.prompt(random_sequences(world, config, seed))
    choose = sampler(model, world.length, [seed], temperature)
    used = KVCache(config, 1, plan.length + 2)
    used.keys.normal_(0, 10)
    used.values.normal_(0, 100)
    assert run(model, plan, prompt, choose, chunk, used).tolist() == run(model, plan, prompt, choose).tolist()


@given(worlds(), configs(), SEEDS)
def test_p3_decodings_share_the_noise(world, config, seed):
    """With a model that has no opinion, the clip is the noise: the same for every decoding."""
    model = build_model(config, world.grid, world.context + world.frames, seed)
    model.head.weight.zero_()
    prompt = world.prompt(random_sequences(world, config, seed))
    choose = sampler(model, world.length, [seed], temperature=1.0)
    assert run(model, world.plan(), prompt, choose).tolist() == run(model, world.ntp.plan(), prompt, choose).tolist()


WIDE = TransformerConfig(
    vocab=500, dim=128, layers=2, heads=4, kv_heads=2, head_dim=32, mlp_dim=256, qk_norm=True,
    positions=Positions(kind="rope-3d"),
)  # fmt: skip
WIDE_WORLD = World(Grid(6, 8, conditioning=1), context=2, frames=2, decoding=Decoding("diagd", k=2, d=5))


def wide_clip(seed):
    model = build_model(WIDE, WIDE_WORLD.grid, 4, seed=0)
    prompt = WIDE_WORLD.prompt(random_sequences(WIDE_WORLD, WIDE, seed=0))
    return run(model, WIDE_WORLD.plan(), prompt, sampler(model, WIDE_WORLD.length, [seed], temperature=1.0)).tolist()


def test_p3_the_number_of_threads_changes_nothing():
    threads, clips = torch.get_num_threads(), []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            clips.append(wide_clip(7))
    finally:
        torch.set_num_threads(threads)
    assert clips[0] == clips[1]


def test_p3_a_seed_names_a_clip_whatever_torchs_own_stream_did():
    torch.manual_seed(1)
    first = wide_clip(7)
    torch.manual_seed(2)
    torch.rand(3)
    assert wide_clip(7) == first != wide_clip(8)


def test_no_repair_leaves_other_keys_behind_and_so_other_logits():
    """The option does something: with stand-ins left in the cache later tokens see another past."""
    truth = random_sequences(WIDE_WORLD, WIDE, seed=0)
    model = build_model(WIDE, WIDE_WORLD.grid, 4, seed=0)
    logits = []
    for repair in (True, False):
        world, seen = replace(WIDE_WORLD, decoding=replace(WIDE_WORLD.decoding, repair=repair)), {}

        def choose(logits, targets, seen=seen):
            seen.update(zip(targets.tolist(), logits[0], strict=True))
            return truth[:, targets]

        run(model, world.plan(), world.prompt(truth), choose)
        logits.append(seen)
    first, last = int(WIDE_WORLD.new[0]), int(WIDE_WORLD.new[-1])
    assert torch.equal(logits[0][first], logits[1][first])
    assert not torch.allclose(logits[0][last], logits[1][last], atol=1e-3)


# ---- sessions --------------------------------------------------------------------------------------------------------


def extend(session, frames, decoding):
    """The new codes; the steps reported on the way are 1, 2, ..., and as many as announced."""
    before, announced = session.frames, session.steps(frames, decoding)
    assert list(session.extend(frames, decoding)) == list(range(1, announced + 1))
    assert session.frames == before + frames
    return session.codes[:, before:]


def known(session, world):
    """Everything known to a session, for the oracle."""
    tokens = {p: int(x) for p, x in enumerate(session.prefix)}
    for t, frame in enumerate(session.codes[0]):
        tokens |= {world.layout.position(t, i, j): int(x) for (i, j), x in np.ndenumerate(frame)}
    for t, actions in enumerate(session.conditioning[0]):
        tokens |= dict(zip(world.layout.steering(t), actions.tolist(), strict=True))
    return tokens


def codes_of(tokens, world, frames):
    g = world.grid
    return [[[tokens[world.layout.position(t, i, j)] for j in range(g.w)] for i in range(g.h)] for t in frames]


@given(worlds(frames=2), configs(), SEEDS)
def test_ntp_frame_by_frame_is_a_plain_decoder_over_all_frames(world, config, seed):
    world, total = world.ntp, world.context + world.frames
    session = open_session(world, build_model(config, world.grid, total, seed), total, seed)
    tokens = known(session, world)
    made = [extend(session, 1, world.decoding) for _ in range(world.frames)]

    oracle.next_token_decode(reference(session.model, world), tokens, world.context, world.frames, careful())
    assert np.concatenate(made, axis=1)[0].tolist() == codes_of(tokens, world, range(world.context, total))


@given(worlds(frames=2), configs(), SEEDS, MORE, st.data())
def test_two_decodings_in_turn_are_the_oracles_walk_continued(world, config, seed, more, data):
    second, total = data.draw(decodings(world.grid)), world.context + world.frames + more
    session = open_session(world, build_model(config, world.grid, total, seed), total, seed, window=total)
    tokens = known(session, world)
    made = [extend(session, world.frames, world.decoding), extend(session, more, second)]

    choose, rules = oracle.free_running(reference(session.model, world), careful()), second.resolve(world.grid, 1)
    entries = oracle.walk(world.layout, world.context, world.frames, world.rules, tokens, choose)
    oracle.walk(world.layout, world.context + world.frames, more, rules, tokens, choose, entries)
    assert np.concatenate(made, axis=1)[0].tolist() == codes_of(tokens, world, range(world.context, total))


@given(worlds(frames=2), configs(), SEEDS, TEMPERATURES)
def test_one_extension_is_the_plan_itself(world, config, seed, temperature):
    total = world.context + world.frames
    model = build_model(config, world.grid, total, seed)
    session = open_session(world, model, total, seed, temperature=temperature)
    prompt = torch.tensor([[known(session, world).get(p, 0) for p in range(world.length)]])
    tokens = run(model, world.plan(), prompt, sampler(model, world.length, [seed], temperature))
    made = extend(session, world.frames, world.decoding)
    assert made.ravel().tolist() == tokens[0, torch.as_tensor(world.new)].tolist()


@given(worlds(frames=2), configs(), SEEDS, TEMPERATURES, MORE)
def test_clips_in_lock_step_are_the_clips_alone_also_over_a_rolling_window(world, config, seed, temperature, more):
    frames = world.frames + more
    model = build_model(config, world.grid, world.context + world.frames, seed)
    together = open_session(world, model, world.context + frames, seed, batch=2, temperature=temperature)
    alone = [
        replace(together, codes=together.codes[[n]], conditioning=together.conditioning[[n]], seeds=[together.seeds[n]])
        for n in (1, 0)
    ]
    made = extend(together, frames, world.decoding)
    assert [extend(s, frames, world.decoding)[0].tolist() for s in alone] == made[::-1].tolist()


@given(worlds(frames=2), configs(), SEEDS, st.integers(1, 4))
def test_a_rolled_window_is_a_fresh_session_on_the_kept_frames(world, config, seed, more):
    model = build_model(config, world.grid, world.context + world.frames, seed)
    session = open_session(world, model, world.context + world.frames + more, seed)
    extend(session, world.frames, world.decoding)
    fresh = replace(
        session, codes=session.codes[:, -session.overlap :], conditioning=session.conditioning[:, world.frames :]
    )
    assert extend(session, more, world.decoding).tolist() == extend(fresh, more, world.decoding).tolist()


@given(worlds(frames=2), configs(), SEEDS, MORE)
def test_a_window_rolls_frame_by_frame_like_a_session_opened_on_the_whole_clip(world, config, seed, more):
    """Places count from the clip's first frame, so the fresh session draws the same noise."""
    window = world.context + world.frames
    model = build_model(config, world.grid, window, seed)
    session = open_session(world, model, window + more, seed, temperature=1.0, overlap=window - 1)
    extend(session, world.frames, world.decoding)
    for _ in range(more):
        fresh = replace(session)
        assert extend(session, 1, world.decoding).tolist() == extend(fresh, 1, world.decoding).tolist()


@given(worlds(frames=2), configs(), SEEDS, st.integers(1, 4))
def test_zero_slots_are_zero_again_after_the_window_rolled(world, config, seed, more):
    world = replace(world, decoding=replace(world.decoding, zero_slots=True))
    model = build_model(config, world.grid, world.context + world.frames, seed)
    session = open_session(world, model, world.context + world.frames + more, seed)
    extend(session, world.frames, world.decoding)
    fresh = replace(
        session, codes=session.codes[:, -session.overlap :], conditioning=session.conditioning[:, world.frames :]
    )
    assert extend(session, more, world.decoding).tolist() == extend(fresh, more, world.decoding).tolist()


@given(worlds(frames=2), configs(), SEEDS, MORE)
def test_noise_goes_on_when_the_window_rolls(world, config, seed, more):
    """With a model that has no opinion, the clip is the noise: the same through a small and a large window."""
    frames = world.frames + more
    model = build_model(config, world.grid, world.context + frames, seed)
    model.head.weight.zero_()
    small = open_session(world, model, world.context + frames, seed, temperature=1.0)
    large = replace(small, window=world.context + frames)
    assert extend(small, frames, world.decoding).tolist() == extend(large, frames, world.decoding).tolist()


@given(worlds(frames=2), configs(), SEEDS, TEMPERATURES, st.data())
def test_an_abandoned_extension_leaves_no_trace(world, config, seed, temperature, data):
    total = world.context + world.frames
    model = build_model(config, world.grid, total, seed)
    session = open_session(world, model, total, seed, temperature=temperature)
    other, decoding = replace(session), data.draw(decodings(world.grid))
    running = session.extend(world.frames, decoding)
    for _ in range(data.draw(st.integers(0, session.steps(world.frames, decoding)))):
        next(running)
    running.close()
    assert session.frames == world.context
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


@given(worlds(frames=2), configs(), SEEDS, TEMPERATURES, MORE)
def test_a_session_has_room_for_steps_that_can_be_captured(world, config, seed, temperature, more):
    """Padded lanes have a place to write to; also where the window rolls and the plan fills it."""
    model = build_model(config, world.grid, world.context + world.frames, seed)
    frames = world.frames + more
    session = open_session(world, model, world.context + frames, seed, batch=2, temperature=temperature)
    fresh = replace(session)
    with mock.patch("diagd_cli.engine.session.decode", partial(decode, capture=True)):
        made = extend(session, frames, world.decoding)
    assert made.tolist() == extend(fresh, frames, world.decoding).tolist()


@given(worlds(frames=2), configs(), SEEDS, TEMPERATURES, MORE)
def test_a_window_larger_than_needed_changes_nothing(world, config, seed, temperature, more):
    total = world.context + world.frames
    model = build_model(config, world.grid, total + more, seed)
    tight = open_session(world, model, total, seed, temperature=temperature)
    roomy = replace(tight, window=total + more)
    made = extend(tight, world.frames, world.decoding)
    assert made.tolist() == extend(roomy, world.frames, world.decoding).tolist()


@given(worlds(frames=2), configs(), SEEDS, TEMPERATURES)
def test_a_released_session_starts_again_from_its_tokens(world, config, seed, temperature):
    """Repaired or not, a prefill feeds the truth: as in a session that is opened on the codes made so far."""
    total = world.context + world.frames + 1
    model = build_model(config, world.grid, total, seed)
    session = open_session(world, model, total, seed, temperature=temperature, window=total)
    extend(session, world.frames, world.decoding)
    session.release()
    fresh = replace(session)
    assert extend(session, 1, world.decoding).tolist() == extend(fresh, 1, world.decoding).tolist()


@given(worlds(), configs(), SEEDS, MORE)
def test_complete_frames_are_told_with_the_codes_that_they_keep(world, config, seed, more):
    """Frame t is complete when step t*d + (h-1)*k + w is done (equation 5), also after the window has rolled."""
    model = build_model(config, world.grid, world.context + world.frames, seed)
    frames, context = world.frames + more, world.context
    session = open_session(world, model, context + frames, seed, batch=2)
    k, d, *_ = world.rules
    last = (world.grid.h - 1) * k + world.grid.w
    seen, first = [], (world.frames - 1) * d + last
    for done in session.extend(frames, world.decoding):
        seen.append((session.complete, session.complete_codes(1)))
        if done <= first:
            assert session.complete - context == sum(t * d + last <= done for t in range(world.frames))
    assert seen[-1][0] == session.complete == context + frames
    for complete, codes in seen:
        assert codes.tolist() == session.codes[:, 1:complete].tolist()
