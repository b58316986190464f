"""Diagonal Decoding against MineWorld's own: its greedy traces token for token and feed for feed,
with its defects, by diagd's one loop; then without them, against a slow reference.
`families/authors_plan.py` names the defects.
"""

import numpy as np
import oracle
import pytest
import torch
from families.agreement import TOLERANCE, assert_close
from families.authors_plan import authors_plan, cache_map, steps_between, unwritten
from families.mineworld_golden import (
    CODES,
    CONFIG,
    GRID,
    empty_cache,
    facts,
    grid_of,
    known,
    new_codes,
    run_greedy,
    tensors,
    transformer,
)

from diagd_cli.engine.sample import Sampling
from diagd_cli.engine.session import Session
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.schedule.plan import Plan, build_plan

TRACES, WEB, STALE = facts("decode_traces"), facts("web_traces"), facts("stale_cache")
SCHEDULES = facts("schedules_14x24")
PROMPT, ACTIONS, FRAMES = [TRACES["prompt_frame"]], TRACES["actions"], TRACES["frames"]
PROXY = {"last_token_of_row_above": "newest"}

diagonal = pytest.mark.parametrize("name", [name for name in TRACES["traces"] if name != "naive"])


def plan_of(
    trace: dict, context: int = 1, frames: int = FRAMES, grid=GRID, demo: bool = False
) -> Plan:
    proxy = PROXY.get(trace.get("proxy"), "prompt-frame")
    return authors_plan(grid, context, frames, trace["mode"], trace["window_size"], proxy, demo)


def ours(
    trace: dict, grid=GRID, context: int = 1, frames: int = FRAMES, repair: bool = True
) -> Plan:
    """diagd's own plan of the same k, d and stand-in."""
    k, d = steps_between(grid, trace["mode"], trace["window_size"])
    stand_in = PROXY.get(trace.get("proxy"), "prompt-frame")
    return build_plan(grid, context, frames, Decoding("diagd", k, d, stand_in, repair))


def feeds(plan: Plan, after: int = 0) -> set[tuple[int, int, int, int]]:
    """(step, source, position, target) of all feeds from a position on; target -1 for none."""
    target = np.where(plan.target < plan.length, plan.target, -1)
    columns = zip(
        plan.step_of_feed.tolist(),
        plan.source.tolist(),
        plan.position.tolist(),
        target.tolist(),
        strict=True,
    )
    return {feed for feed in columns if feed[2] >= after}


def made_at(plan: Plan) -> dict[int, int]:
    """The step of each new token, by its position."""
    pairs = zip(plan.target.tolist(), plan.step_of_feed.tolist(), strict=True)
    return {target: step for target, step in pairs if 0 <= target < plan.length}


def fed_late(plan: Plan, places: list[int]) -> set[tuple[int, int, int, int]]:
    """Feeds without a target of the tokens at `places`, each in the step after it was made."""
    return {(made_at(plan)[p] + 1, p, p, -1) for p in places}


def difference(a: list[int], b: list[int]) -> int:
    return sum(x != y for x, y in zip(a, b, strict=True))


# ---- the authors' decoding, defects and all ------------------------------------------------------


def assert_follows(plan: Plan, tokens: torch.Tensor, trace: dict) -> None:
    """The plan, run to the end, did what the trace tells, step by step and in the order of the
    feeds.
    """
    place = {
        int(p): (t, i, j)
        for p, (t, i, j) in enumerate(plan.grid.coords(plan.length))
        if i < plan.grid.h
    }
    assert plan.steps == trace["num_forwards"]
    for n, (step, blind) in enumerate(zip(trace["steps"], unwritten(plan), strict=True)):
        lane = slice(plan.starts[n], plan.starts[n + 1])
        source, position, target = plan.source[lane], plan.position[lane], plan.target[lane]
        rows = np.flatnonzero(target < plan.length)
        kinds = ["action" if p not in place else "token" for p in position]
        kinds = np.where(source == position, kinds, "proxy").tolist()
        assert position.tolist() == step["position_ids"]
        assert tokens[0, source].tolist() == step["input_ids"]
        assert [kind.replace("prompt", "token") for kind in step["fed_kind"]] == kinds
        assert rows.tolist() == step["output_rows"]
        assert [list(place[p]) for p in target[rows]] == step["targets"]
        assert tokens[0, target[rows]].tolist() == step["tokens"]
        assert blind == step["attended_unwritten_positions"]
    assert cache_map(plan) == trace["final_cache_per_frame"]
    assert new_codes(tokens, plan) == trace["generated_tokens"]


@pytest.mark.parametrize("name", TRACES["traces"])
def test_the_authors_decoding_token_for_token_and_feed_for_feed(name):
    plan, tokens = plan_of(TRACES["traces"][name]), known(PROMPT, ACTIONS, FRAMES)
    logits = run_greedy(plan, tokens)
    assert_follows(plan, tokens, TRACES["traces"][name])
    if f"{name}.logits" in tensors("decode_traces"):
        coords = tensors("decode_traces")[f"{name}.coords"].tolist()
        made = torch.stack([logits[GRID.position(*place)] for *place, _ in coords])
        assert_close(made, tensors("decode_traces")[f"{name}.logits"])


@pytest.mark.parametrize("name", WEB["runs"])
def test_the_decoding_of_the_authors_web_page(name):
    context, frames = len(WEB["prompt_frames"]), len(WEB["new_actions"])
    plan = plan_of(WEB["runs"][name], context, frames, demo=True)
    tokens = known(WEB["prompt_frames"], WEB["prompt_actions"] + WEB["new_actions"], frames)
    run_greedy(plan, tokens)
    assert_follows(plan, tokens, WEB["runs"][name])


@pytest.mark.parametrize("name", SCHEDULES["schedules"])
def test_the_authors_order_of_work_at_full_size(name):
    schedule = SCHEDULES["schedules"][name]
    plan = plan_of(schedule, frames=schedule["frames"], grid=grid_of(SCHEDULES["geometry"]))
    fed = np.split(plan.position, plan.starts[1:-1])
    assert [len(positions) for positions in fed] == schedule["query_counts"]
    assert [positions.tolist() for positions in fed[1:]] == schedule["positions"]
    assert cache_map(plan)[1] == schedule["final_cache_frame1"]
    blind = [len(slots) for step in unwritten(plan) for slots in step]
    assert max(blind) == schedule["max_unwritten_slots_attended"]
    assert round(float(np.mean(blind)), 3) == schedule["mean_unwritten_slots_attended_per_token"]


@pytest.mark.parametrize("name", STALE["runs"])
def test_the_authors_cache_keeps_the_last_clip_and_ours_does_not(name):
    run = STALE["runs"][name]
    clips = [
        known([STALE[clip]["prompt"]], STALE[clip]["actions"], STALE["frames"])
        for clip in ("clip_a", "clip_b")
    ]
    plan, cache = plan_of(run, frames=STALE["frames"]), empty_cache()

    a, b, clean = clips[0].clone(), clips[1].clone(), clips[1].clone()
    for tokens, held in ((a, cache), (b, cache), (clean, None)):
        run_greedy(plan, tokens, held)
    assert new_codes(a, plan) == run["clip_a_tokens"]
    assert new_codes(b, plan) == run["clip_b_tokens_after_clip_a_same_cache"]
    assert new_codes(clean, plan) == run["clip_b_tokens_clean_cache"]
    assert difference(new_codes(b, plan), new_codes(clean, plan)) == run["num_different"]

    own, after, alone = ours(run, frames=STALE["frames"]), clips[1].clone(), clips[1].clone()
    run_greedy(own, after, cache)  # full of clip B and A
    run_greedy(own, alone)
    assert after.equal(alone)
    sessions = [session_codes(clip, run) for clip in clips]
    assert sessions[1] == new_codes(alone, own)


def session_codes(tokens: torch.Tensor, trace: dict) -> list[int]:
    """What a session makes of the prompt in a store."""
    frames, sequence = STALE["frames"], tokens.numpy()
    codes = GRID.codes(sequence, 1 + frames)[:, :1]
    steering = np.stack(
        [sequence[:, GRID.conditioning_positions(t)] for t in range(1 + frames)], axis=1
    )
    session = Session(
        transformer(),
        GRID,
        codes,
        steering,
        [0],
        Sampling(CODES, 0.0),
        window=1 + frames,
        overlap=1,
    )
    list(session.extend(frames, ours(trace).decoding))
    return session.codes[0, 1:].ravel().tolist()


# ---- diagd's plans: the same algorithm, less the defects -----------------------------------------


def test_naive_is_next_token_prediction():
    trace, tokens = TRACES["traces"]["naive"], known(PROMPT, ACTIONS, FRAMES)
    plan = build_plan(GRID, 1, FRAMES, Decoding("ntp"))
    logits = run_greedy(plan, tokens)
    assert plan.steps == trace["num_forwards"]
    assert new_codes(tokens, plan) == trace["generated_tokens"]
    made = torch.stack([logits[p] for p in sorted(logits)])
    assert_close(made, tensors("decode_traces")["naive.logits"])


@diagonal
def test_our_plan_differs_by_the_named_defects_alone(name):
    trace = TRACES["traces"][name]
    theirs, own, repaired = plan_of(trace), ours(trace, repair=False), ours(trace)
    assert made_at(own) == made_at(repaired) == made_at(theirs)
    if trace["window_size"] == GRID.w:  # every row's predecessor exists
        assert feeds(own) == feeds(repaired)
        assert (own.source == own.position).all()
        return
    # where they differ before, it is that the authors prefill within the first step
    new = GRID.position(1, 0, 0)
    *rows, last = (
        [GRID.position(1 + t, i, GRID.w - 1) for t in range(FRAMES)] for i in range(GRID.h)
    )
    frame_ends = fed_late(own, last[:-1]) if trace["mode"] == "video_diagd" else set()
    assert feeds(own, new) == feeds(theirs, new) | frame_ends
    assert feeds(repaired, new) == feeds(own, new).union(*(fed_late(own, row) for row in rows))


@pytest.mark.parametrize("name", SCHEDULES["schedules"])
def test_our_plans_make_tokens_at_the_authors_steps_at_full_size(name):
    schedule, grid = SCHEDULES["schedules"][name], grid_of(SCHEDULES["geometry"])
    theirs = plan_of(schedule, frames=schedule["frames"], grid=grid)
    own = ours(schedule, grid, frames=schedule["frames"])
    assert made_at(own) == made_at(theirs)
    assert own.steps == schedule["num_forwards"]


@diagonal
def test_without_the_defects_tokens_are_those_of_a_slow_reference(name, record_property):
    trace, tokens, gaps = TRACES["traces"][name], known(PROMPT, ACTIONS, FRAMES), []
    plan = ours(trace)
    run_greedy(plan, tokens)

    def pick(logits, position):
        best = logits[:CODES].topk(2)
        gaps.append(float(best.values[0] - best.values[1]))
        return int(best.indices[0])

    layout = oracle.Layout(GRID.h, GRID.w, GRID.conditioning)
    reference = oracle.Reference(transformer().state_dict(), CONFIG.model_dump(), layout)
    slow = {p: int(t) for p, t in enumerate(known(PROMPT, ACTIONS, FRAMES)[0, : plan.length])}
    slow = {p: t for p, t in slow.items() if p not in made_at(plan)}
    oracle.walk(
        layout,
        1,
        FRAMES,
        plan.decoding.resolve(GRID, 1),
        slow,
        oracle.free_running(reference, pick),
    )
    assert min(gaps) > TOLERANCE  # or float32 might choose otherwise
    assert [slow[p] for p in range(plan.length)] == tokens[0, : plan.length].tolist()

    codes = new_codes(tokens, plan)
    changed = difference(codes, trace["generated_tokens"])
    record_property("tokens that the repairs change", f"{changed} of {len(codes)}")
    record_property("smallest gap of the two best logits", min(gaps))
    # the first row meets no defect yet
    assert codes[: GRID.w] == trace["generated_tokens"][: GRID.w]
    assert changed
    if trace["window_size"] == GRID.w:
        assert codes == TRACES["traces"]["naive"]["generated_tokens"]
