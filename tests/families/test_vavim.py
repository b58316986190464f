"""VaViM's Transformer against its official code: logits, frames made greedily and by its own draws,
until the window has rolled. And DiagD's three properties, on it.
"""

import numpy as np
import oracle
import pytest
import torch
from families.agreement import assert_close
from families.vavim_golden import LIMIT, Golden, each_model, golden
from strategies import World, random_sequences, reference, run, sampler, stepped_logits

from diagd_cli.engine.decode import prefill
from diagd_cli.engine.sample import Sampling
from diagd_cli.engine.session import Session
from diagd_cli.model.cache import KVCache
from diagd_cli.model.mask import EVERYTHING
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.schedule.plan import build_plan

# ---- the Transformer -----------------------------------------------------------------------------


@each_model
def test_logits_and_what_leads_to_them(name):
    g, seen = golden(name), {}
    hooks = [
        block.register_forward_hook(lambda module, args, output, n=n: seen.update({n: output}))
        for n, block in enumerate(g.model.blocks)
    ]
    positions = torch.arange(g.grid.length(g.window))
    logits = g.model(g.tensors["ids"], positions)
    for hook in hooks:
        hook.remove()
    embedded = g.model.embed(g.tensors["ids"]) + g.model.learned(positions)
    assert_close(embedded, g.tensors["embeddings"], 1e-6)
    for n, state in seen.items():
        if f"hidden.layer{n}" in g.tensors:
            assert_close(state, g.tensors[f"hidden.layer{n}"], LIMIT)
    assert_close(logits, g.tensors["logits"], LIMIT)


@each_model
def test_cached_logits_are_those_of_the_official_cache(name):
    g = golden(name)
    tokens, known = g.tensors["ids"], g.grid.area - 1
    length = tokens.shape[1]
    kv = KVCache(g.model.config, len(tokens), length)
    prefill(g.model, kv, tokens, np.arange(known), chunk=7)
    rest = [
        g.model(tokens[:, p : p + 1], torch.tensor([p]), EVERYTHING, kv, p + 1)
        for p in range(known, length)
    ]
    assert_close(torch.cat(rest, dim=1), g.tensors["incremental.logits"], LIMIT)
    assert_close(kv.keys[0], g.tensors["attention.layer0.k"], LIMIT)


# ---- generation ----------------------------------------------------------------------------------


def made(g: Golden, codes: torch.Tensor, frames: int) -> np.ndarray:
    """New frames [B, frames, h, w] after codes [B, t, h, w], by the official defaults."""
    nothing, seeds = np.zeros((*codes.shape[:2], 0), np.int64), [0] * len(codes)
    how = Sampling(g.codes, temperature=1.0, top_k=1)
    prompt, sizes = codes.numpy(), (g.window, g.window - 1)
    session = Session(g.model, g.grid, prompt, nothing, seeds, how, *sizes)
    list(session.extend(frames, Decoding("ntp")))
    return session.codes[:, codes.shape[1] :]


@each_model
def test_greedy_frames_until_the_window_has_rolled(name):
    """Ours keeps the newest frames. The official code keeps the oldest, so that its later frames are
    copies of the last one inside the window, which is the last that both have in common.
    """
    g = golden(name)
    prompt, theirs = g.tensors["greedy.burnin"], g.tensors["newest_window.frames"].numpy()
    ours = made(g, prompt, theirs.shape[1])
    assert np.array_equal(ours, theirs)
    inside = g.window - prompt.shape[1]
    assert np.array_equal(ours[:, :inside], g.tensors["greedy.frames"])
    official = g.tensors["past_window.frames"].numpy()
    assert np.array_equal(official[:, :inside], ours[:, :inside])
    assert (official[:, inside:] == official[:, inside - 1 : inside]).all()
    assert not np.array_equal(ours[:, inside:], official[:, inside:])


@each_model
def test_what_the_official_code_makes_of_a_long_prompt(name):
    """Given T + 2 frames it goes on from the frames 2 .. T, without the newest one; so does ours
    where it is given these.
    """
    g = golden(name)
    burnin = g.tensors["long_burnin.burnin"]
    first = made(g, burnin[:, 2 : g.window + 1], 1)
    assert np.array_equal(first[:, 0], g.tensors["long_burnin.frames"][:, 0])


@each_model
def test_official_draws(name):
    """With the official noise: the likeliest k of a temperature's distribution, and the one whose
    probability over noise is largest.
    """
    g = golden(name)
    prompt, theirs = g.tensors["greedy.burnin"], g.tensors["sampled.frames"]
    context, frames = prompt.shape[1], theirs.shape[1]
    start = g.grid.length(context)
    tokens = torch.zeros(2, g.grid.length(context + frames), dtype=torch.long)
    tokens[:, :start] = prompt.flatten(1)
    errors = []

    def choose(logits, targets):
        step = targets - start
        ids = g.tensors["sampled.candidates"][:, step]
        scaled = logits / g.sampled["temperature"]
        best = scaled.topk(g.sampled["topk"]).indices.sort().values
        assert torch.equal(best, ids.sort().values)
        probabilities = scaled.gather(-1, ids).softmax(-1)
        errors.append((probabilities - g.tensors["sampled.probabilities"][:, step]).abs().max())
        drawn = (probabilities / g.tensors["sampled.noise"][:, step]).argmax(-1, keepdim=True)
        return ids.gather(-1, drawn).squeeze(-1)

    plan = build_plan(g.grid, context, frames, Decoding("ntp"))
    ours = run(g.model, plan, tokens, choose)[:, start:]
    assert torch.equal(ours, theirs.flatten(1)) and max(errors) < LIMIT


def test_the_id_that_is_no_code_is_never_made():
    """The vocabulary has one id more than the tokenizer has codes."""
    g = golden("tiny")
    head = g.model.embed.weight[g.codes].clone()
    g.model.embed.weight[g.codes] = 100 * g.model.embed.weight[:3].sum(0)
    try:
        logits = g.model(g.tensors["ids"], torch.arange(g.grid.length(g.window)))
        assert (logits.argmax(-1) == g.codes).any()
        assert made(g, g.tensors["greedy.burnin"], 2).max() < g.codes
    finally:
        g.model.embed.weight[g.codes] = head


# ---- Diagonal Decoding ---------------------------------------------------------------------------

DECODINGS = [Decoding("spatial", 1), Decoding("spatial", 2), Decoding("diagd", 2, 3)]
each_decoding = pytest.mark.parametrize(
    "decoding", DECODINGS, ids=lambda d: f"{d.method}-{d.k}-{d.d}"
)


def world(g: Golden, decoding: Decoding) -> World:
    context = g.tensors["greedy.burnin"].shape[1]
    return World(g.grid, context, g.window - context, decoding)


@each_model
def test_p1_a_raster_plan_is_next_token_prediction(name):
    g = golden(name)
    own = world(g, Decoding("diagd", g.grid.w, g.grid.area))
    prompt = g.tensors["greedy.burnin"].flatten(1)
    tokens = torch.nn.functional.pad(prompt, (0, own.length - prompt.shape[1]))
    made = run(g.model, own.plan(), tokens, sampler(g.model, (0, 1)))[:, prompt.shape[1] :]
    assert torch.equal(made, g.tensors["greedy.frames"].flatten(1))


@each_model
@each_decoding
def test_p2_cached_steps_are_one_masked_pass(name, decoding):
    g = golden(name)
    own = world(g, decoding)
    truth = g.tensors["ids"][:1, : own.length]
    entries = oracle.walk(
        own.layout, own.context, own.frames, own.rules, own.known(truth[0]), oracle.forced(truth[0])
    )
    logits = oracle.entry_logits(reference(g.model, own), entries)
    wanted = {e.target: logits[n] for n, e in enumerate(entries) if e.target is not None}
    stepped = stepped_logits(g.model, own, truth)[0].double()
    assert_close(stepped, torch.stack([wanted[p] for p in own.new.tolist()]), LIMIT)


@each_decoding
def test_p3_a_clip_is_the_same_alone_and_in_a_batch(decoding):
    g = golden("tiny")
    own = world(g, decoding)
    prompts = own.prompt(random_sequences(own, g.model.config, 3, batch=3))
    choose = sampler(g.model, [5, 6, 5], 1.0)
    together = run(g.model, own.plan(), prompts, choose)
    alone = run(g.model, own.plan(), prompts[1:2], sampler(g.model, [6], 1.0))
    assert torch.equal(together[1:2], alone)
