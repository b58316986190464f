"""Every plan makes every token once, at its step, from inputs that exist, and feeds back the
truth.
"""

from dataclasses import fields, replace

import numpy as np
import oracle
import pytest
from hypothesis import given
from strategies import World, worlds

from diagd_cli.errors import UsageError
from diagd_cli.schedule.decoding import STAND_INS, Decoding
from diagd_cli.schedule.plan import build_plan
from diagd_cli.tokens.grid import Grid

COSMOS = Grid(40, 64)
FREEDOOM = Grid(15, 20, conditioning=1)


def made_steps(world, plan):
    """Step at which each position's token is made: -1 for known ones."""
    steps = np.full(world.length, -1)
    made = plan.target >= 0
    steps[plan.target[made]] = plan.step_of_feed[made]
    return steps


@given(worlds(padded=False))
def test_every_new_token_is_made_once_at_the_step_of_equation_5(world):
    grid, plan, (k, d, *_) = world.grid, world.plan(), world.rules
    assert sorted(plan.target[plan.target >= 0]) == world.new.tolist()
    t, i, j = np.indices((world.frames, grid.h, grid.w))
    assert made_steps(world, plan)[world.new].tolist() == (t * d + i * k + j).ravel().tolist()
    assert plan.steps == (world.frames - 1) * d + (grid.h - 1) * k + grid.w
    assert plan.new_tokens == len(world.new) and plan.length == world.length


@given(worlds(padded=False))
def test_targets_come_first_in_a_step_and_follow_the_fed_position(world):
    plan = world.plan()
    for step, outputs in enumerate(plan.outputs):
        targets = plan.target[plan.starts[step] : plan.starts[step + 1]]
        assert outputs > 0 and (targets[:outputs] >= 0).all() and (targets[outputs:] == -1).all()
    assert (plan.position[plan.target >= 0] + 1 == plan.target[plan.target >= 0]).all()


@given(worlds(padded=False))
def test_an_input_exists_when_it_is_fed(world):
    plan = world.plan()
    assert (plan.source >= 0).all() and (plan.position >= 0).all()
    assert (made_steps(world, plan)[plan.source] < plan.step_of_feed).all()


@given(worlds(padded=False))
def test_a_stand_in_is_fed_only_while_the_true_token_is_missing(world):
    plan = world.plan()
    exists = made_steps(world, plan)[plan.position] < plan.step_of_feed
    assert ((plan.source == plan.position) == exists).all()


@given(worlds(padded=False))
def test_every_token_is_fed_back_once_except_behind_an_unrepaired_stand_in_and_in_the_last_step(
    world,
):
    plan = world.plan()
    true = plan.source == plan.position
    fed = np.bincount(plan.position[true], minlength=world.length)
    covered = np.zeros(world.length, bool)
    covered[plan.position[~true]] = True
    expected = made_steps(world, plan) < plan.steps - 1
    if not world.decoding.repair:
        expected &= ~covered
    assert (fed[world.new] == expected[world.new]).all()
    assert (fed[: plan.prefill] == 0).all() and (fed[plan.prefill : world.new[0]] == 1).all()


@given(worlds(padded=False))
def test_no_two_feeds_of_a_step_share_a_position(world):
    plan = world.plan()
    pairs = set(zip(plan.step_of_feed.tolist(), plan.position.tolist(), strict=True))
    assert len(pairs) == len(plan.position)


@given(worlds(padded=False))
def test_slots_are_first_written_when_first_fed_and_the_prompt_before(world):
    plan = world.plan()
    first = np.full(plan.length, plan.steps)
    np.minimum.at(first, plan.position, plan.step_of_feed)
    first[: plan.prefill] = -1
    assert plan.position.min() == plan.prefill
    assert plan.first_write.tolist() == first.tolist()
    needed = [plan.position[plan.step_of_feed <= s].max() + 1 for s in range(plan.steps)]
    assert plan.extents.tolist() == needed


def assert_as_the_oracle_feeds(world):
    plan, truth = world.plan(), np.zeros(world.length)
    entries = oracle.walk(
        world.layout,
        world.context,
        world.frames,
        world.rules,
        world.known(truth),
        oracle.forced(truth),
    )
    feeds = {
        (e.step, e.source, e.position, -1 if e.target is None else e.target)
        for e in entries
        if e.step >= 0
    }
    columns = (plan.step_of_feed, plan.source, plan.position, plan.target)
    assert set(zip(*(c.tolist() for c in columns), strict=True)) == feeds
    assert len(plan.source) == len(feeds)
    assert [e.position for e in entries if e.step < 0] == list(range(plan.prefill))


@given(worlds(padded=False))
def test_the_plan_feeds_what_the_oracle_feeds(world):
    assert_as_the_oracle_feeds(world)


@pytest.mark.parametrize("repair", [True, False])
@pytest.mark.parametrize("stand_in", STAND_INS)
def test_every_k_and_d_of_a_small_grid_feeds_what_the_oracle_feeds(stand_in, repair):
    """Three frames after two: where d is small, what a stand-in points at may be missing in one or
    two frames.
    """
    for ends in ((), (1,), (0, 1, (7, 8), (9,)), (0, 0, (), (9,))):
        grid = Grid(3, 4, *ends)
        for k in range(1, grid.w + 1):
            for d in range(1, 2 * k + grid.w + 1):
                assert_as_the_oracle_feeds(
                    World(grid, 2, 3, Decoding("diagd", k, d, stand_in, repair))
                )


@given(worlds(padded=False))
def test_ntp_feeds_one_new_token_a_step_in_raster_order(world):
    plan = world.ntp.plan()
    assert plan.target[plan.target >= 0].tolist() == world.new.tolist()
    assert sorted(plan.position) == list(range(plan.prefill, world.length - 1))
    assert plan.source.tolist() == plan.position.tolist() and (plan.outputs == 1).all()


@pytest.mark.parametrize(
    "decoding, steps",
    [
        (Decoding("diagd", k=2, d=10), 162),
        (Decoding("diagd", k=1, d=1), 105),
        (Decoding("diagd", k=4, d=20), 260),
        (Decoding("diagd", k=2, d=40), 222),
        (Decoding("spatial", k=2), 3 * 142),
        (Decoding("ntp"), 7680),
    ],
)
def test_steps_of_three_cosmos_frames(decoding, steps):
    assert build_plan(COSMOS, context=2, latents=3, decoding=decoding).steps == steps


@pytest.mark.parametrize("grid", [COSMOS, FREEDOOM])
@pytest.mark.parametrize("k", [1, 3])
def test_zipar_is_the_spatial_decoding_with_the_stand_in_above(grid, k):
    zipar = build_plan(grid, 2, 2, Decoding("zipar", k=k))
    spatial = build_plan(grid, 2, 2, Decoding("spatial", k=k, stand_in="above"))
    for field in fields(zipar):
        if field.name != "decoding":
            assert np.array_equal(getattr(zipar, field.name), getattr(spatial, field.name)), (
                field.name
            )


def test_diagd_with_the_largest_d_is_the_spatial_decoding_and_with_k_of_a_row_it_is_ntp():
    def arrays(decoding):
        plan = build_plan(FREEDOOM, 1, 2, decoding)
        return [
            plan.source.tolist(),
            plan.position.tolist(),
            plan.target.tolist(),
            plan.starts.tolist(),
        ]

    assert arrays(Decoding("diagd", k=2, d=14 * 2 + 20)) == arrays(Decoding("spatial", k=2))
    assert arrays(Decoding("diagd", k=20, d=300)) == arrays(Decoding("ntp"))


@pytest.mark.parametrize(
    "decoding, said",
    [
        (Decoding("diagd", k=0), ["k is 0", "15x20", "1..20"]),
        (Decoding("diagd", k=21), ["k is 21", "1..20"]),
        (Decoding("spatial", k=-1), ["k is -1", "1..20"]),
        (Decoding("zipar", k=99), ["k is 99", "1..20"]),
        (Decoding("diagd", k=2, d=0), ["d is 0", "k=2", "1..48"]),
        (Decoding("diagd", k=2, d=49), ["d is 49", "k=2", "1..48"]),
        (Decoding("diagd", k=20, d=301), ["d is 301", "1..300"]),
    ],
)
def test_k_and_d_out_of_range_are_refused_with_the_value_and_the_range(decoding, said):
    with pytest.raises(UsageError) as caught:
        build_plan(FREEDOOM, 1, 1, decoding)
    assert all(text in str(caught.value) for text in said)


# ---- tokens that are known beforehand: the ends of rows and of frames ----------------------------

EMU3 = Grid(90, 90, prefix=8, row_end=(7,))


@pytest.mark.parametrize(
    "decoding, steps",
    [(Decoding("ntp"), 8100), (Decoding("spatial", k=1), 179), (Decoding("spatial", k=2), 268)],
)
def test_ends_of_rows_cost_no_step(decoding, steps):
    assert build_plan(EMU3, 0, 1, decoding).steps == steps


def test_the_end_of_a_row_starts_the_next_one_and_is_fed_again_when_its_row_is_complete():
    """3 x 3 codes with one id after each row, after a prefix of one; positions of row i are 1 + 4i
    to 4 + 4i. (source = position, target) of each step by k=1.
    """
    grid = Grid(3, 3, prefix=1, row_end=(7,))
    plan = build_plan(grid, 0, 1, Decoding("spatial", k=1))
    assert (plan.source == plan.position).all()  # nothing stands in for anything
    parts = [slice(a, b) for a, b in zip(plan.starts, plan.starts[1:], strict=False)]
    steps = [
        list(zip(plan.position[p].tolist(), plan.target[p].tolist(), strict=True)) for p in parts
    ]
    assert steps == [
        [(0, 1)],
        [(1, 2), (4, 5)],
        [(2, 3), (5, 6), (8, 9)],
        [(6, 7), (9, 10), (3, -1), (4, -1)],
        [(10, 11), (7, -1), (8, -1)],
    ]
    left = build_plan(grid, 0, 1, Decoding("spatial", k=1, repair=False))
    assert len(plan.source) - len(left.source) == 2  # the two that were early


def test_where_rows_have_ends_no_stand_in_is_needed():
    """Nor a frame for it."""
    grid, decoding = Grid(3, 4, prefix=1, row_end=(7,)), Decoding("diagd", 1, 2)
    assert_as_the_oracle_feeds(World(grid, 0, 3, decoding))
    assert decoding.stand_in == "previous-frame"


def test_ntp_feeds_the_end_of_a_row_with_its_last_code():
    plan = build_plan(Grid(2, 3, 0, 1, row_end=(7, 8)), 0, 1, Decoding("ntp"))
    assert plan.widths.tolist() == [1, 1, 1, 3, 1, 1] and plan.steps == 6


# ---- without a context frame: a prefix alone, or nothing -----------------------------------------


@pytest.mark.parametrize("stand_in", ["previous-frame", "previous-frame-target", "prompt-frame"])
def test_a_stand_in_from_another_frame_needs_a_context_frame(stand_in):
    decoding = Decoding("diagd", k=1, d=1, stand_in=stand_in)
    with pytest.raises(UsageError, match=stand_in):
        build_plan(Grid(3, 4, prefix=1), 0, 1, decoding)


def test_the_first_token_needs_a_token_before_it():
    with pytest.raises(ValueError, match="a context frame or a prefix"):
        build_plan(Grid(3, 4), 0, 1, Decoding("ntp"))


@pytest.mark.parametrize(
    "decoding", [Decoding("ntp"), Decoding("zipar", k=2), Decoding("spatial", stand_in="newest")]
)
@pytest.mark.parametrize("ends", [(), ((7,),), ((7, 8), (9,)), ((), (9,))])
@pytest.mark.parametrize("conditioning", [0, 1, 2])
def test_a_prefix_is_context_enough(decoding, conditioning, ends):
    grid = Grid(3, 4, conditioning, 1, *ends)
    assert_as_the_oracle_feeds(World(grid, context=0, frames=2, decoding=decoding))


@pytest.mark.parametrize("stand_in", ["above", "newest"])
def test_a_second_frame_that_starts_before_its_stand_in_exists_is_refused(stand_in):
    world = World(Grid(3, 4, prefix=1), 0, 2, Decoding("diagd", k=2, d=4, stand_in=stand_in))
    assert replace(world, decoding=replace(world.decoding, d=5)).plan().steps == 5 + 2 * 2 + 4
    with pytest.raises(UsageError):
        world.plan()
