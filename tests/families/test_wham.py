"""WHAM's Transformer against its official code: logits, and frames made greedily, until the window
has slid.
"""

import numpy as np
import pytest
import torch
from families.agreement import assert_close
from families.wham_golden import Golden, assert_same_frames, each_model, golden

from diagd_cli.engine.decode import decode, prefill
from diagd_cli.engine.sample import Sampling
from diagd_cli.engine.session import Session
from diagd_cli.families.wham.actions import encode_actions
from diagd_cli.model.cache import KVCache
from diagd_cli.model.mask import EVERYTHING
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.schedule.plan import build_plan

# ---- the Transformer -----------------------------------------------------------------------------


@each_model
@pytest.mark.parametrize("sequence", ["sequence", "fullblock"])
def test_logits(name, sequence):
    g = golden(name)
    tokens = g.tensors[f"{sequence}_tokens"]
    assert_close(g.model(tokens, torch.arange(tokens.shape[1])), g.tensors[f"{sequence}_logits"])


@each_model
def test_state_after_the_final_norm(name):
    g, seen = golden(name), []
    hook = g.model.norm.register_forward_hook(lambda module, args, output: seen.append(output))
    tokens = g.tensors["sequence_tokens"]
    g.model(tokens, torch.arange(tokens.shape[1]))
    hook.remove()
    assert_close(seen[0], g.tensors["sequence_hidden_final"])


@each_model
def test_cached_logits_are_those_of_the_full_pass(name):
    g = golden(name)
    tokens, theirs = g.tensors["fullblock_tokens"], g.tensors["fullblock_logits"]
    length, known = tokens.shape[1], g.grid.block
    kv = KVCache(g.model.config, 1, length)
    prefill(g.model, kv, tokens, np.arange(known), chunk=7)
    rest = [
        g.model(tokens[:, p : p + 1], torch.tensor([p]), EVERYTHING, kv, p + 1)
        for p in range(known, length)
    ]
    assert_close(torch.cat(rest, dim=1), theirs[:, known:])


# ---- generation ----------------------------------------------------------------------------------


@each_model
def test_logits_of_a_frame_made_by_the_engine_and_of_its_actions(name):
    """The first generated step: image tokens by the engine, next-token; then the actions that the
    model would take.
    """
    g = golden(name)
    context = g.tensors["image_tokens"].shape[1]
    plan = build_plan(g.grid, context, 1, Decoding("ntp"))
    tokens = torch.zeros(2, g.grid.length(context + 1), dtype=torch.long)
    tokens[:, : g.grid.length(context)] = g.tensors["sequence_tokens"]
    kv, seen = KVCache(g.model.config, 2, tokens.shape[1]), []

    def choose(logits, targets):
        seen.append(logits)
        low, high = g.ranges[targets % g.grid.block].unsqueeze(-1).unbind(-2)
        ids = torch.arange(logits.shape[-1])
        return logits.masked_fill((ids < low) | (ids > high), -torch.inf).argmax(-1)

    prefill(g.model, kv, tokens, np.arange(plan.prefill))
    list(decode(g.model, plan, kv, tokens, choose))
    for target in range(plan.length, tokens.shape[1]):
        place = torch.tensor([target])
        logits = g.model(tokens[:, place - 1], place - 1, EVERYTHING, kv, target)
        tokens[:, place] = choose(logits, place)
    assert_close(torch.cat(seen, dim=1), g.tensors["greedy_step0_masked_logit_source"])
    made = tokens[:, g.grid.length(context) :]
    assert torch.equal(made[:, : g.grid.area], g.tensors["dream_image_tokens"][:, 0])
    assert torch.equal(
        made[:, g.grid.area :] - g.codes, g.tensors["dream_predicted_action_tokens"][:, 0]
    )


def greedy_session(g: Golden) -> Session:
    """A session after the context, greedy within the allowed ids, steered by the given actions."""
    codes = g.tensors["image_tokens"].numpy()
    conditioning = encode_actions(g.tensors["actions_bins"].numpy(), g.codes)
    seeds, sampling = [0] * len(codes), Sampling(g.codes, temperature=0, first=1)
    shape = (*codes.shape[:2], g.grid.h, g.grid.w)
    return Session(
        g.model, g.grid, codes.reshape(shape), conditioning, seeds, sampling, g.window, g.window - 1
    )


@each_model
@pytest.mark.parametrize("at_once", [True, False], ids=["in one go", "frame by frame"])
def test_greedy_frames_until_the_window_has_slid(name, at_once):
    """The official code drops the oldest step once the window is full; actions are those given, not
    the model's own.
    """
    g = golden(name)
    theirs = g.tensors["dream_image_tokens"].numpy()
    session, context, frames = (
        greedy_session(g),
        g.tensors["image_tokens"].shape[1],
        theirs.shape[1],
    )
    assert context + frames > g.window
    for part in [frames] if at_once else [1] * frames:
        list(session.extend(part, Decoding("ntp")))
    assert np.array_equal(session.codes[:, context:].reshape(theirs.shape), theirs)


@each_model
def test_generated_pixels(name):
    g = golden(name)
    session, context = greedy_session(g), g.tensors["image_tokens"].shape[1]
    list(session.extend(g.tensors["dream_image_tokens"].shape[1], Decoding("ntp")))
    assert_same_frames(
        g,
        torch.from_numpy(session.codes[:, context:]).contiguous(),
        g.frames("dream_decoded_uint8"),
    )


@each_model
def test_diagonal_decoding_feeds_every_action_and_makes_codes_only(name):
    g = golden(name)
    session, context = greedy_session(g), g.tensors["image_tokens"].shape[1]
    list(session.extend(3, Decoding("spatial", k=1)))
    made = session.codes[:, context:]
    assert made.min() >= 0 and made.max() < g.codes and (made[:, :, 0, 0] > 0).all()
