"""Fine-tuning for Diagonal Decoding: the loss is what the decoding meets, and training on it does
what it is for.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from strategies import World, build_model, random_sequences
from torch.nn.functional import cross_entropy
from train.near import assert_same_training

from diagd_cli.engine.decode import decode_plan
from diagd_cli.engine.forced import forced_logits
from diagd_cli.model.transformer import initialise
from diagd_cli.preset import Preset
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.schedule.plan import build_plan
from diagd_cli.tokens.sampling import Sampling
from diagd_cli.train.data import Tokens
from diagd_cli.train.diagonal import (
    Mixture,
    diagonal_loss,
    fit_diagonal,
    new_codes,
    partly_own,
    validate_decodings,
)
from diagd_cli.train.optimiser import Optimiser
from diagd_cli.train.transformer import Windows, WindowSampler, token_nll
from diagd_cli.weights.load import build_transformer

WORLD = """
name: counting
about: Frames of 3x4 tokens, steered.
licence: Apache-2.0
clip: {height: 24, width: 32, fps: 10, context: 2, frames: 2, window: 4}
tokenizer: {kind: fsq-image, levels: [2, 2, 2], channels: [4, 8], encoder: [0, 1], decoder: [1, 1], kernel: 3}
transformer:
  {vocab: 12, outputs: 8, dim: 32, layers: 2, heads: 2, kv_heads: 1, head_dim: 16, mlp_dim: 64,
   positions: {kind: rope-3d}}
actions: {kind: names, offset: 8, names: [one, two, three, none]}
decoding: {k: 1, d: 2}
"""
PRESET = Preset.model_validate(yaml.safe_load(WORLD))
GRID, CONFIG, FRAMES = PRESET.grid, PRESET.transformer, PRESET.window
NTP, DIAGONAL = Decoding("ntp"), Decoding("diagd", k=1, d=2)
BOTH = Mixture((NTP, DIAGONAL), range(1, 3))
WINDOWS = Windows(phases=[{"start": 0, "frames": FRAMES, "batch": 8}], dropout=0)


def new_model():
    model = build_transformer(PRESET)
    initialise(model, seed=0, std=0.1)
    return model


@pytest.fixture(scope="module")
def clips():
    """Clips in which every frame is of one code: that of the frame before, plus 1 to 3 as the
    action between them says.

    What a raster decoder copies from the left neighbour, a diagonal one must take from the row
    above, as the stand-in in front of it shows an earlier frame.
    """
    rng, count = np.random.default_rng(0), 400
    actions = rng.integers(3, size=count)
    numbers = np.cumsum(np.append(0, 1 + actions[:-1])) % 8
    codes = np.broadcast_to(numbers[:, None, None], (count, GRID.h, GRID.w))
    return WindowSampler(
        Tokens(codes, np.array([0, count]), 8 + actions[:, None], (Path("numbers.mp4"),)), PRESET
    )


def tuned(model, clips, folder, decodings, steps, precision="auto", **options):
    """Fine-tune and return the run with the lines of its log."""
    optimiser = Optimiser(steps=steps, lr=1e-2, warmup=5, **options)
    mixture = Mixture(decodings, range(1, 3))
    run = fit_diagonal(
        model, clips, clips, optimiser, WINDOWS, mixture, folder, every=1000, precision=precision
    )
    return run, [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_the_loss_is_the_cross_entropy_of_the_engines_logits():
    world = World(GRID, context=1, frames=3, decoding=DIAGONAL)
    model, plan = build_model(CONFIG, GRID, FRAMES, seed=0), world.plan()
    truth, losses = random_sequences(world, CONFIG, seed=0), []

    def choose(logits, targets):
        losses.append(cross_entropy(logits[0], truth[0, targets], reduction="none"))
        return truth[:, targets]

    decode_plan(model, plan, truth, choose)
    assert diagonal_loss(model, truth, plan).item() == pytest.approx(
        torch.cat(losses).mean().item(), rel=1e-5
    )


def test_under_next_token_prediction_it_is_the_loss_of_training(clips):
    model, sequences = (
        build_model(CONFIG, GRID, FRAMES, seed=0),
        clips.sequences(np.array([1, 2]), FRAMES),
    )
    after_the_first_frame = token_nll(model, None, sequences, GRID)[:, GRID.area - 1 :]
    loss = diagonal_loss(model, sequences, build_plan(GRID, 1, FRAMES - 1, NTP))
    torch.testing.assert_close(loss, after_the_first_frame.mean())


def test_a_step_draws_its_decoding_and_its_prompt():
    def drawn(seed):
        plans = [BOTH.draw(GRID, FRAMES, seed, step) for step in range(40)]
        assert all(plan.context + plan.latents == FRAMES for plan in plans)
        return [(plan.decoding.method, plan.context) for plan in plans]

    assert set(drawn(5)) == {("ntp", 1), ("ntp", 2), ("diagd", 1), ("diagd", 2)}
    assert drawn(5) == drawn(5) != drawn(6)


@pytest.fixture(scope="module")
def pretrained(clips, tmp_path_factory):
    """Weights of a model that has learnt the clips by next-token prediction."""
    model = new_model()
    tuned(model, clips, tmp_path_factory.mktemp("pretrained"), (NTP,), steps=60)
    return model.state_dict()


@pytest.fixture
def model(pretrained):
    model = new_model()
    model.load_state_dict(pretrained)
    return model


def test_fine_tuning_closes_the_gap_between_training_and_decoding(model, clips, tmp_path):
    """The diagonal NLL falls to near NTP's, which is not forgotten."""
    before = validate_decodings(model, clips, BOTH, FRAMES)
    run, log = tuned(model, clips, tmp_path, (NTP, DIAGONAL), steps=40)
    after = log[-1]
    assert run.step == 40 and log[0].items() >= before.items() and log[0]["step"] == 0
    assert before["nll/DiagD k=1 d=2"] > before["nll/NTP"] + 1
    assert after["nll/DiagD k=1 d=2"] < before["nll/DiagD k=1 d=2"] / 2
    assert after["nll/NTP"] < before["nll/NTP"] + 0.2


def test_more_next_token_prediction_does_not_close_it(model, clips, tmp_path):
    tuned(model, clips, tmp_path, (NTP,), steps=40)
    nll = validate_decodings(model, clips, BOTH, FRAMES)
    assert nll["nll/DiagD k=1 d=2"] > nll["nll/NTP"] + 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_batch_in_parts_is_the_batch(clips, tmp_path, precision):
    """The same decoding for all parts, and their gradients add up."""
    runs = []
    for parts in (1, 3):
        model = new_model()
        tuned(
            model,
            clips,
            tmp_path / str(parts),
            (NTP, DIAGONAL),
            steps=3,
            precision=precision,
            accumulate=parts,
        )
        runs.append(model.state_dict())
    assert_same_training(new_model().state_dict(), *runs, precision)


def test_scheduled_sampling_shows_what_the_model_would_make(clips):
    """Up to the share of the new codes, each as a step of the decoding draws it after true tokens;
    the prompt stays.
    """
    model, plan = new_model().eval(), build_plan(GRID, 2, FRAMES - 2, DIAGONAL)
    greedy = Sampling(codes=CONFIG.outputs or CONFIG.vocab, temperature=0)
    mixture = Mixture((DIAGONAL,), range(2, 3), own=1.0, sampling=greedy)
    sequences = clips.draw(WINDOWS, seed=0, step=0)
    seen = partly_own(model, sequences, plan, mixture, [3], None)
    new = new_codes(plan, sequences.device)
    made = forced_logits(model, sequences, plan)[..., : greedy.codes].argmax(-1)
    changed = seen != sequences
    assert changed[:, new].any() and (seen[:, new] == made)[changed[:, new]].all()
    assert not changed[:, : plan.prefill].any()
    assert torch.equal(seen, partly_own(model, sequences, plan, mixture, [3], None))
    assert not torch.equal(seen, partly_own(model, sequences, plan, mixture, [4], None))
    few = partly_own(model, sequences, plan, replace(mixture, own=0.1), [3], None)
    assert 0 < (few != sequences).sum() < changed.sum() / 4


def test_targets_stay_true_where_own_codes_are_seen(clips):
    model, plan = new_model(), build_plan(GRID, 2, FRAMES - 2, DIAGONAL)
    sequences = clips.draw(WINDOWS, seed=0, step=0)
    seen = sequences.clone()
    seen[:, new_codes(plan, seen.device)] = 0
    logits = forced_logits(model, seen, plan)
    targets = sequences[:, new_codes(plan, seen.device)]
    expected = cross_entropy(logits.flatten(0, 1), targets.flatten())
    torch.testing.assert_close(diagonal_loss(model, sequences, plan, seen=seen), expected)
