"""P1: NTP is a plan. P2: cache = mask. P3: independence."""

from dataclasses import replace

import numpy as np
import oracle
import torch
from hypothesis import given
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
    random_sequences,
    reference,
    run,
    sampler,
    starts,
    worlds,
)

from diagd_cli.engine.decode import decode, prefill
from diagd_cli.model.cache import KVCache

CHUNKS = st.sampled_from([1, 2, 3, 7, 512])


def as_list(known, length):
    return [known[p] for p in range(length)]


# ---- P1 ------------------------------------------------------------------------------------------


@FEWER
@given(worlds(), configs(), SEEDS)
def test_p1_the_ntp_plan_is_a_plain_decoder(world, config, seed):
    world = world.ntp
    model = build_model(config, world.grid, world.context + world.frames, seed)
    sequences = random_sequences(world, config, seed)
    tokens = run(
        model, world.plan(), world.prompt(sequences), sampler(model), padding=world.padding
    )

    plain = world.known(sequences[0])
    oracle.next_token_decode(reference(model, world), plain, world.context, world.frames, careful())
    assert tokens[0].tolist() == as_list(plain, world.length)


@FEWER
@given(worlds(), configs(), SEEDS)
def test_p1_holds_for_sampling_with_the_noise_of_seed_and_place(world, config, seed):
    world = world.ntp
    model = build_model(config, world.grid, world.context + world.frames, seed)
    sequences = random_sequences(world, config, seed)
    noisy = sampler(model, [seed], temperature=1.0)
    tokens = run(model, world.plan(), world.prompt(sequences), noisy, padding=world.padding)

    plain, pick = (
        world.known(sequences[0]),
        lambda x, p: int(noisy(x[None, None], torch.tensor([p]))),
    )
    oracle.next_token_decode(reference(model, world), plain, world.context, world.frames, pick)
    assert tokens[0].tolist() == as_list(plain, world.length)


# ---- P2 ------------------------------------------------------------------------------------------


@FEWER
@given(worlds(), configs(), SEEDS, CHUNKS, st.booleans())
def test_p2_logits_of_cached_steps_are_those_of_one_masked_pass(world, config, seed, chunk, padded):
    model = build_model(config, world.grid, world.context + world.frames, seed)
    truth = random_sequences(world, config, seed)
    seen = {}

    def choose(logits, targets):
        seen.update(zip(targets.tolist(), logits[0], strict=True))
        return torch.nn.functional.pad(truth, (0, 1))[:, targets]

    tokens = run(
        model,
        world.plan(),
        world.prompt(truth),
        choose,
        chunk,
        capture=padded,
        padding=world.padding,
    )
    assert tokens.tolist() == truth.tolist()

    known = world.known(truth[0])
    entries = oracle.walk(
        world.layout, world.context, world.frames, world.rules, known, oracle.forced(truth[0])
    )
    logits = oracle.entry_logits(reference(model, world), entries)
    asked = [n for n, e in enumerate(entries) if e.target is not None]
    assert sorted(entries[n].target for n in asked) == world.new.tolist()
    stepped = torch.stack([seen[entries[n].target] for n in asked]).double()
    torch.testing.assert_close(stepped, logits[asked], atol=1e-4, rtol=1e-4)


@FEWER
@given(worlds(), configs(), SEEDS)
def test_zero_slots_are_seen_as_keys_and_values_of_zero(world, config, seed):
    """What P2 forbids, as an ablation: empty slots take their share of the attention and give
    nothing.
    """
    world = replace(world, decoding=replace(world.decoding, zero_slots=True))
    model = build_model(config, world.grid, world.context + world.frames, seed)
    truth, seen = random_sequences(world, config, seed), {}

    def choose(logits, targets):
        seen.update(zip(targets.tolist(), logits[0], strict=True))
        return truth[:, targets]

    run(model, world.plan(), world.prompt(truth), choose, padding=world.padding)
    known = world.known(truth[0])
    entries = oracle.walk(
        world.layout, world.context, world.frames, world.rules, known, oracle.forced(truth[0])
    )
    logits = oracle.entry_logits(reference(model, world), entries, zero_slots=True)
    asked = [n for n, e in enumerate(entries) if e.target is not None]
    stepped = torch.stack([seen[entries[n].target] for n in asked]).double()
    torch.testing.assert_close(stepped, logits[asked], atol=1e-4, rtol=1e-4)


@FEWER
@given(worlds(), configs(), SEEDS)
def test_p2_free_running_the_engine_makes_the_tokens_of_the_oracle(world, config, seed):
    model = build_model(config, world.grid, world.context + world.frames, seed)
    sequences = random_sequences(world, config, seed)
    tokens = run(
        model, world.plan(), world.prompt(sequences), sampler(model), padding=world.padding
    )

    known, choose = (
        world.known(sequences[0]),
        oracle.free_running(reference(model, world), careful()),
    )
    oracle.walk(world.layout, world.context, world.frames, world.rules, known, choose)
    assert tokens[0].tolist() == as_list(known, world.length)


# ---- P3 ------------------------------------------------------------------------------------------


@FEWER
@given(worlds(), configs(), SEEDS, TEMPERATURES, st.data())
@decided
def test_p3_clips_of_a_batch_are_the_clips_alone(world, config, seed, temperature, data):
    model = build_model(config, world.grid, world.context + world.frames, seed)
    prompts, seeds = world.prompt(random_sequences(world, config, seed, batch=3)), [seed, 1, seed]
    paddings = [data.draw(st.integers(0, max(0, world.grid.prefix - 1))) for _ in range(3)]
    choose = sampler(model, seeds, temperature)
    together = run(model, world.plan(), prompts, choose, padding=paddings)
    for n in range(3):
        choose = sampler(model, [seeds[n]], temperature)
        alone = run(model, world.plan(), prompts[n : n + 1], choose, padding=paddings[n])
        assert together[n].tolist() == alone[0].tolist()


@FEWER
@given(worlds(), configs(), SEEDS, TEMPERATURES)
@decided
def test_p3_steps_that_can_be_captured_change_nothing(world, config, seed, temperature):
    """One width for all, a counter on the device, a longer cache than needed: what CUDA graphs
    replay, run as it is.
    """
    model, plan = build_model(config, world.grid, world.context + world.frames, seed), world.plan()
    prompt = world.prompt(random_sequences(world, config, seed))
    choose = sampler(model, [seed], temperature)
    tokens = torch.nn.functional.pad(prompt, (0, plan.length + 1 - prompt.shape[1]))
    cache = KVCache(config, 1, plan.length + 1)
    start = starts(world.padding, 1)
    prefill(model, cache, tokens, np.arange(plan.prefill), start=start)
    steps = decode(model, plan, cache, tokens, choose, capture=True, start=start)
    assert len(list(steps)) == plan.steps
    assert (
        tokens[:, : prompt.shape[1]].tolist()
        == run(model, plan, prompt, choose, padding=world.padding).tolist()
    )


@FEWER
@given(worlds(), configs(), SEEDS, TEMPERATURES, CHUNKS)
@decided
def test_p3_what_a_cache_held_before_changes_nothing(world, config, seed, temperature, chunk):
    model, plan = build_model(config, world.grid, world.context + world.frames, seed), world.plan()
    prompt = world.prompt(random_sequences(world, config, seed))
    choose = sampler(model, [seed], temperature)
    used = KVCache(config, 1, plan.length + 2)
    used.keys.normal_(0, 10)
    used.values.normal_(0, 100)
    assert (
        run(model, plan, prompt, choose, chunk, used, padding=world.padding).tolist()
        == run(model, plan, prompt, choose, padding=world.padding).tolist()
    )


@FEWER
@given(worlds(), configs(), SEEDS)
def test_p3_decodings_share_the_noise(world, config, seed):
    """With a model that has no opinion, the clip is the noise: the same for every decoding."""
    model = build_model(config, world.grid, world.context + world.frames, seed)
    model.head.weight.zero_()
    prompt = world.prompt(random_sequences(world, config, seed))
    choose = sampler(model, [seed], temperature=1.0)
    assert (
        run(model, world.plan(), prompt, choose).tolist()
        == run(model, world.ntp.plan(), prompt, choose).tolist()
    )


def wide_clip(seed):
    model = build_model(WIDE, WIDE_WORLD.grid, 4, seed=0)
    prompt = WIDE_WORLD.prompt(random_sequences(WIDE_WORLD, WIDE, seed=0))
    return run(model, WIDE_WORLD.plan(), prompt, sampler(model, [seed], temperature=1.0)).tolist()


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

        run(model, world.plan(), world.prompt(truth), choose, padding=world.padding)
        logits.append(seen)
    first, last = int(WIDE_WORLD.new[0]), int(WIDE_WORLD.new[-1])
    assert torch.equal(logits[0][first], logits[1][first])
    assert not torch.allclose(logits[0][last], logits[1][last], atol=1e-3)
