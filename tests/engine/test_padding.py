"""Prefixes of a batch differ in length: the shorter ones are padded at the left, and P3 holds."""

from dataclasses import replace

import numpy as np
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
    configs,
    decided,
    open_session,
    random_sequences,
    run,
    sampler,
    worlds,
)

from diagd_cli.engine.ring import Ring
from diagd_cli.engine.session import Session
from diagd_cli.model.transformer import Transformer
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.tokens.grid import Grid
from diagd_cli.tokens.sampling import Guidance

PADDED = worlds(frames=4).filter(lambda world: world.grid.prefix > 1)
TEXT = World(Grid(3, 4, prefix=5), 0, 1, Decoding("spatial", k=2, stand_in="above"))


def without_padding(session: Session, n: int, model, most: int) -> Session:
    """Clip n of a session alone, after a prefix of its own length; with guidance one of the two is
    padded where they differ.

    most: latent frames that the model's tables reach.
    """
    grid, starts, guidance = session.grid, session.starts.reshape(-1, len(session.codes)), None
    less = int(starts[:, n].min())
    shorter = replace(grid, prefix=grid.prefix - less)
    if session.guidance:
        own = session.guidance
        padding = int(starts[1, n]) - less
        guidance = replace(own, prefix=own.prefix[less:], padding=padding)
    coords = torch.from_numpy(shorter.coords(shorter.length(most) + 1))
    state = model.state_dict()
    if model.learned is not None:
        state["learned.weight"] = state["learned.weight"][: len(coords)]
    alone = Transformer(model.config, coords, shorter.prefix)
    alone.load_state_dict(state)
    prefix = np.broadcast_to(session.prefix, (len(session.codes), grid.prefix))
    return replace(
        session,
        model=alone.eval().requires_grad_(False),
        grid=shorter,
        codes=session.codes[n : n + 1],
        conditioning=session.conditioning[n : n + 1],
        seeds=session.seeds[n : n + 1],
        prefix=prefix[n, less:],
        padding=int(starts[0, n]) - less,
        guidance=guidance,
        capture=False,
    )


def extended(session, world, decoding):
    for _ in session.extend(world.frames, decoding):
        pass
    return session.codes


@FEWER
@given(PADDED, configs(), SEEDS, TEMPERATURES, st.booleans(), st.booleans(), st.data())
@decided
def test_p3_a_clip_does_not_depend_on_how_much_it_was_padded(
    world, config, seed, temperature, slides, capture, data
):
    """Whatever the decoding, the window, and the others of the batch; and with guidance, whose two
    prefixes differ in length, too.
    """
    prefix, relative = world.grid.prefix, config.positions.kind != "learned"
    window = data.draw(st.integers(2, 3)) if relative else world.context + world.frames
    lengths = st.integers(0, prefix - 1)
    nothing = data.draw(st.none() | lengths)
    guidance = Guidance(2.0, tuple(range(prefix)), padding=nothing)
    model = build_model(config, world.grid, window, seed)
    session = open_session(
        world, model, world.context + world.frames, seed, batch=3, temperature=temperature,
        prefix=np.random.default_rng(seed).integers(0, 6, (3, prefix)),
        padding=np.array([data.draw(lengths) for _ in range(3)]),
        guidance=guidance if data.draw(st.booleans()) else None,
        window=window, overlap=1, capture=capture,
    )  # fmt: skip
    alone = [without_padding(session, n, model, window) for n in range(3)]
    decoding = replace(world.decoding, window="slide" if slides and relative else "roll")
    together = extended(session, world, decoding)
    for n, own in enumerate(alone):
        assert together[n].tolist() == extended(own, world, decoding)[0].tolist()


@FEWER
@given(PADDED, configs(), SEEDS, TEMPERATURES, st.sampled_from([1, 2, 3, 512]), st.data())
@decided
def test_p3_what_padding_holds_changes_nothing(world, config, seed, temperature, chunk, data):
    """Nor in what parts it is fed, and it spreads nothing that is no number."""
    paddings = [data.draw(st.integers(0, world.grid.prefix - 1)) for _ in range(2)]
    model = build_model(config, world.grid, world.context + world.frames, seed)
    prompt = world.prompt(random_sequences(world, config, seed, batch=2))
    made = []
    for filled in (0, 5):
        ids = prompt.clone()
        for row, padding in zip(ids, paddings, strict=True):
            row[:padding] = filled
        choose = sampler(model, [seed, 1], temperature)
        tokens = run(model, world.plan(), ids, choose, chunk if filled else 512, padding=paddings)
        made.append(tokens[:, world.grid.prefix :].tolist())
    assert made[0] == made[1]


def test_padding_hides_what_it_covers():
    """The mask does something: a prefix that counts as padding steers no more."""
    clips = {}
    for padding in (0, 3):
        for first in (1, 2):
            model = build_model(WIDE, TEXT.grid, 1, seed=0)
            prefix = np.array([first, first, first, 7, 8])
            session = open_session(
                TEXT, model, 1, prefix=prefix, padding=padding, window=1, overlap=0
            )
            clips[padding, first] = extended(session, TEXT, TEXT.decoding).tolist()
    assert clips[3, 1] == clips[3, 2]
    assert clips[0, 1] != clips[0, 2]


def test_nobody_sees_padding_but_itself_and_nobody_sees_nothing():
    """Attention over nothing may be no number, which a weight of zero would spread."""
    places = torch.arange(7)
    seen = Ring(TEXT.grid, 7).visible(places, places, torch.tensor([[0], [3]]))
    assert seen[0].tolist() == torch.ones(7, 7).tril().bool().tolist()
    assert seen[1].int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0, 0],
        [0, 0, 0, 1, 0, 0, 0],
        [0, 0, 0, 1, 1, 0, 0],
        [0, 0, 0, 1, 1, 1, 0],
        [0, 0, 0, 1, 1, 1, 1],
    ]


@pytest.mark.parametrize("padding", [-1, 5, [0, 7]])
def test_something_of_a_prefix_is_no_padding(padding):
    model = build_model(WIDE, TEXT.grid, 1, seed=0)
    with pytest.raises(ValueError, match=r"padding is .*: the grid's prefix is 5"):
        open_session(TEXT, model, 1, batch=2, padding=np.array(padding), window=1, overlap=0)
