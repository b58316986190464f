"""The three properties with weights of 8 bits, held within them: the same rounding on both sides.

A number that lies on the edge may be rounded to either side by what attention's order of adding up
leaves in it, so logits are compared as closely as one such step allows, and tokens where the noise
decides.
"""

import torch
from hypothesis import given
from strategies import (
    FEWER,
    SEEDS,
    build_model,
    configs,
    random_sequences,
    run,
    sampler,
    stepped_logits,
    worlds,
)

from diagd_cli.engine.forced import forced_logits
from diagd_cli.model.linear import Linear, pack


def in_8_bits(config, world, seed):
    """A random model whose blocks hold int8."""
    model = build_model(config, world.grid, world.context + world.frames, seed)
    for layer in model.blocks.modules():
        if isinstance(layer, Linear):
            layer.hold("int8", layer.weight)
    return pack(model)


def near(seen, wanted):
    assert (seen - wanted).abs().max() <= 0.1 * wanted.std()


@FEWER
@given(worlds(), configs(), SEEDS)
def test_p1_the_ntp_plan_is_one_causal_pass(world, config, seed):
    world = world.ntp
    model, truth = in_8_bits(config, world, seed), random_sequences(world, config, seed)
    with torch.inference_mode():
        whole = model(truth, torch.arange(world.length))
    near(stepped_logits(model, world, truth), whole[:, world.new - 1])


@FEWER
@given(worlds(), configs(), SEEDS)
def test_p2_one_masked_pass_gives_the_logits_of_the_cached_steps(world, config, seed):
    model = in_8_bits(config, world, seed)
    truth = random_sequences(world, config, seed, batch=2)
    near(stepped_logits(model, world, truth), forced_logits(model, truth, world.plan()))


@FEWER
@given(worlds(), configs(), SEEDS)
def test_p3_clips_of_a_batch_are_the_clips_alone_captured_or_not(world, config, seed):
    model, plan = in_8_bits(config, world, seed), world.plan()
    prompts, seeds = world.prompt(random_sequences(world, config, seed, batch=3)), [seed, 1, seed]
    hot = {"temperature": 3.0}
    together = run(model, plan, prompts, sampler(model, seeds, **hot)).tolist()
    for n in range(3):
        choose = sampler(model, [seeds[n]], **hot)
        for capture in (False, True):
            alone = run(model, plan, prompts[n : n + 1], choose, capture=capture)
            assert alone[0].tolist() == together[n]
