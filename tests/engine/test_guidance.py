"""Classifier-free guidance is no loop of its own: P1, P2 and P3 hold with it, for every decoding."""

from dataclasses import dataclass, replace

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    FEWER,
    SEEDS,
    TEMPERATURES,
    WIDE,
    World,
    build_model,
    careful,
    configs,
    decided,
    decodings,
    ends,
    random_sequences,
    reference,
    run,
    sampler,
)

from diagd_cli.engine.guided import Guided
from diagd_cli.engine.sample import Sampling
from diagd_cli.engine.session import Session
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.tokens.grid import Grid
from diagd_cli.tokens.sampling import Guidance

SCALES = st.sampled_from([0.0, 1.5, 4.0])


@st.composite
def worlds(draw, contexts=(0, 1, 2)) -> World:
    """Worlds with a prefix, and an image without context among them."""
    h, w = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    steering, prefix = draw(st.integers(0, 1)), draw(st.integers(1, 3))
    grid = Grid(h, w, steering, prefix, draw(ends()), draw(ends()))
    context, decoding = draw(st.sampled_from(contexts)), draw(decodings(grid))
    if not context:  # nothing can stand in that is of an earlier frame
        decoding = replace(decoding, stand_in=draw(st.sampled_from(["above", "newest"])))
    padding = draw(st.integers(0, grid.prefix - 1))
    return World(grid, context, draw(st.integers(1, 2)) if context else 1, decoding, padding)


@st.composite
def guidances(draw, world: World) -> Guidance:
    prefix = tuple(draw(st.integers(0, 5)) for _ in range(world.grid.prefix))
    return Guidance(draw(SCALES), prefix, draw(st.integers(0, world.grid.area)))


@dataclass
class Mixed:
    """The oracle's Transformer, asked twice for every question: as it is, and after the prefix that
    asks for nothing.
    """

    plain: oracle.Reference
    guidance: Guidance

    @property
    def layout(self):
        return self.plain.layout

    def __call__(self, tokens, positions, mask, zeros=None):
        layout, ids = self.layout, self.guidance.prefix
        own = self.plain(tokens, positions, mask, zeros)
        bare = [ids[p] if p < layout.prefix else x for p, x in zip(positions, tokens, strict=True)]
        nothing, mixed = self.plain(bare, positions, mask, zeros), []
        for n, position in enumerate(positions):
            # codes of its frame before the token that follows
            first = layout.position(layout.coordinates(position + 1)[0], 0, 0)
            place = sum(map(layout.is_code, range(first, position + 1)))
            guided = not self.guidance.tokens or place < self.guidance.tokens
            scale = self.guidance.scale if guided else 1.0
            mixed.append(scale * own[n] + (1 - scale) * nothing[n])
        return torch.stack(mixed)


def twice(world, guidance, sequences):
    """Sequences [B, L] and, below them, the same after the prefix that asks for nothing."""
    bare = sequences.clone()
    bare[:, : world.grid.prefix] = torch.tensor(guidance.prefix)
    return torch.cat([sequences, bare])


def guided_world(world, config, guidance, seed):
    model = build_model(config, world.grid, world.context + world.frames, seed)
    sequences = random_sequences(world, config, seed)
    return model, sequences, Mixed(reference(model, world), guidance)


def as_list(known, length):
    return [known[p] for p in range(length)]


# ---- P1, P2 --------------------------------------------------------------------------------------


@FEWER
@given(st.data(), configs(), SEEDS)
def test_p1_guided_ntp_is_a_plain_decoder_that_asks_twice(data, config, seed):
    world = data.draw(worlds()).ntp
    guidance = data.draw(guidances(world))
    model, sequences, mixed = guided_world(world, config, guidance, seed)
    prompt = world.prompt(twice(world, guidance, sequences))
    choose = Guided(guidance, sampler(model), world.grid)
    tokens = run(model, world.plan(), prompt, choose, padding=world.padding)

    plain = world.known(sequences[0])
    oracle.next_token_decode(mixed, plain, world.context, world.frames, careful())
    assert tokens[0].tolist() == as_list(plain, world.length)
    assert torch.equal(tokens[0, world.grid.prefix :], tokens[1, world.grid.prefix :])


@FEWER
@given(st.data(), configs(), SEEDS, st.booleans())
def test_p2_guided_logits_of_cached_steps_are_those_of_two_masked_passes(
    data, config, seed, padded
):
    world = data.draw(worlds())
    guidance, seen = data.draw(guidances(world)), {}
    model, truth, mixed = guided_world(world, config, guidance, seed)

    def choose(logits, targets):
        seen.update(zip(targets.tolist(), logits[0], strict=True))
        return torch.nn.functional.pad(truth, (0, 1))[:, targets]

    prompt = world.prompt(twice(world, guidance, truth))
    mixing = Guided(guidance, choose, world.grid)
    run(model, world.plan(), prompt, mixing, capture=padded, padding=world.padding)
    known = world.known(truth[0])
    entries = oracle.walk(
        world.layout, world.context, world.frames, world.rules, known, oracle.forced(truth[0])
    )
    logits = oracle.entry_logits(mixed, entries)
    asked = [n for n, e in enumerate(entries) if e.target is not None]
    assert sorted(entries[n].target for n in asked) == world.new.tolist()
    stepped = torch.stack([seen[entries[n].target] for n in asked]).double()
    torch.testing.assert_close(stepped, logits[asked], atol=5e-4, rtol=1e-4)


# ---- P3, in sessions -----------------------------------------------------------------------------


def session_of(world, model, prefixes, seeds, temperature, guidance, **options):
    """Clips whose prefixes differ, after the same context for the same seed."""
    grid, frames = world.grid, world.context + world.frames
    codes, steering = [], []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        codes.append(rng.integers(0, 6, (world.context, grid.h, grid.w)))
        steering.append(rng.integers(0, 6, (frames, grid.conditioning)))
    return Session(
        model,
        grid,
        np.stack(codes),
        np.stack(steering),
        list(seeds),
        Sampling(model.config.logits, temperature),
        window=frames,
        overlap=min(world.context, frames - 1),
        prefix=np.array(prefixes, dtype=np.int64),
        guidance=guidance,
        padding=world.padding,
        **options,
    )


def made(session, world):
    list(session.extend(world.frames, world.decoding))
    return session.codes[:, world.context :].tolist()


@FEWER
@given(
    st.data(), configs(kinds=("rope-1d", "rope-2d", "rope-3d")), SEEDS, TEMPERATURES, st.booleans()
)
@decided
def test_p3_guided_clips_of_a_batch_are_the_clips_alone(data, config, seed, temperature, capture):
    world = data.draw(worlds())
    guidance = data.draw(guidances(world))
    model = build_model(config, world.grid, world.context + world.frames, seed)
    prefixes = np.random.default_rng(seed).integers(0, 6, (3, world.grid.prefix)).tolist()
    seeds = [seed, seed + 1, seed]
    rules = temperature, guidance
    together = made(session_of(world, model, prefixes, seeds, *rules, capture=capture), world)
    for n in range(3):
        alone = session_of(world, model, prefixes[n : n + 1], seeds[n : n + 1], *rules)
        assert together[n] == made(alone, world)[0]


@FEWER
@given(st.data(), configs(kinds=("rope-1d", "rope-2d", "rope-3d")), SEEDS, TEMPERATURES)
def test_exact_makes_the_tokens_of_guided_ntp(data, config, seed, temperature):
    world = data.draw(worlds())
    guidance = data.draw(guidances(world))
    model = build_model(config, world.grid, world.context + world.frames, seed)
    prefixes = np.random.default_rng(seed).integers(0, 6, (2, world.grid.prefix)).tolist()
    both = [
        made(
            session_of(world, model, prefixes, [seed, 1], temperature, guidance),
            replace(world, decoding=Decoding(method)),
        )
        for method in ("ntp", "exact")
    ]
    assert both[0] == both[1]


def test_guidance_changes_what_is_made_and_only_where_it_is_asked_for():
    world = World(Grid(3, 4, prefix=1), 0, 1, Decoding("ntp"))
    model = build_model(WIDE, world.grid, 1, seed=0)
    clips = {}
    for tokens in (0, 5, 12):
        guidance = Guidance(3.0, (1,), tokens)
        clips[tokens] = np.ravel(made(session_of(world, model, [[2]], [0], 1.0, guidance), world))
    plain = np.ravel(made(session_of(world, model, [[2]], [0], 1.0, None), world))
    assert (clips[0] == clips[12]).all() and (clips[0] != plain).any()
    assert (clips[5][:5] == clips[0][:5]).all() and (clips[5] != clips[0]).any()


def test_a_prefix_of_another_length_is_a_mistake():
    world = World(Grid(2, 2, prefix=2), 1, 1, Decoding("ntp"))
    with pytest.raises(ValueError, match="1 ids that ask for nothing: the grid's prefix is 2"):
        session_of(
            world, build_model(WIDE, world.grid, 2, 0), [[1, 2]], [0], 0.0, Guidance(2.0, (1,))
        )
