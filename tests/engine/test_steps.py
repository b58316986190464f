"""What a step of a plan asks of the device: only what a CUDA graph may hold, and no more queued
than a few.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from families.small import write_small
from strategies import WIDE, WIDE_WORLD, build_model, open_session
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from diagd_cli.engine import steps
from diagd_cli.engine.decode import decode, prefill, runner
from diagd_cli.engine.ring import ring_for
from diagd_cli.engine.sample import Sampler, Sampling
from diagd_cli.engine.state import Times
from diagd_cli.engine.steps import Steps
from diagd_cli.model.cache import KVCache
from diagd_cli.preset_files import load_preset
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.schedule.plan import build_plan
from diagd_cli.schedule.wavefront import wavefront
from diagd_cli.weights.load import random_transformer

HOST = (
    "lift_fresh",
    "_local_scalar_dense",
    "nonzero",
    "_to_copy.device",
    "rand",
    "normal_",
    "uniform_",
)
RULES = [{"temperature": 0.0}, {"top_k": 5}, {"temperature": 0.7, "first": 1}]


class Asked(TorchDispatchMode):
    """The names of operations that read a value on the host, bring one from it, or draw a number
    there.
    """

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        moved = ".device" if kwargs.get("device") is not None else ""
        name = f"{operation.overloadpacket.__name__}{moved}"
        self.names += [name] if any(name.startswith(host) for host in HOST) else []
        return operation(*args, **kwargs)


def test_what_is_looked_for_is_found():
    """The constant that a kernel would wait for, and the value that the host would."""
    with Asked() as asked:
        torch.where(torch.ones(2) > 0, torch.tensor(1.0), torch.tensor([1.0, 2.0])).max().item()
    assert asked.names == ["lift_fresh", "lift_fresh", "_local_scalar_dense"]


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize(
    "name", ["freedoom", "mineworld-300m", "wham-200m", "cosmos-4b", "cosmos-5b-video2world"]
)
def test_a_step_asks_nothing_of_the_host(name, rule, tmp_path):
    """Else its capture as a CUDA graph would fail, or every replay would repeat what was true at
    the first.
    """
    preset = load_preset(write_small(name, tmp_path))
    model, grid = random_transformer(preset, 0), preset.grid
    plan = build_plan(grid, 1, 1, Decoding("spatial", k=2))
    text = torch.randn(1, preset.text.length, preset.transformer.cross_dim) if preset.text else None
    cross = model.cross_context(text) if preset.text else None
    tokens = torch.zeros(1, plan.length + 1, dtype=torch.int64)
    sampling = Sampling(preset.tokenizer.codebook, **rule)
    sampler = Sampler(sampling, [0], grid)
    cache = KVCache(model.config, 1, plan.length + 1)
    prefill(model, cache, tokens, np.arange(plan.prefill), cross)
    walk = decode(model, plan, cache, tokens, sampler, cross, capture=True)
    next(walk)  # brings the plan's arrays to the device
    with Asked() as asked:
        for _ in walk:
            pass
    assert plan.steps > 4 and not asked.names


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("name", ["freedoom", "mineworld-300m"])
def test_a_step_of_a_window_that_slides_asks_nothing_of_the_host(name, rule, tmp_path):
    """Far from the first frame, where one graph is replayed for ever."""
    preset = load_preset(write_small(name, tmp_path))
    model, grid, window = random_transformer(preset, 0), preset.grid, 3
    decoding = Decoding("diagd", k=1, d=2, window="slide", sinks=1)
    ring, wave = ring_for(grid, decoding, window), wavefront(grid, 1000, None, decoding)
    tokens = torch.zeros(1, ring.places + 1, dtype=torch.int64)
    sampler = Sampler(Sampling(preset.tokenizer.codebook, **rule), [0], grid)
    walk = Steps(model, model.new_cache(1, ring.places + 1), tokens, sampler, ring=ring)
    steps_of = runner(walk, capture=True)
    with torch.inference_mode():
        walk.prefill(np.arange(grid.length(998), wave.prefill))
        steps_of.load(wave)
        ramp = wave.first + 1
        for step in range(ramp):
            steps_of(step)
        with Asked() as asked:
            for step in range(ramp, ramp + 3 * ring.frames * decoding.d):  # around the ring, thrice
                steps_of(step)
    assert not asked.names and len(steps_of.graphs) == 1


class Recording(TorchDispatchMode):
    """What a CUDA graph keeps of a step: operations on tensors where they were, and every number as
    it was.
    """

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        self.operations.append((operation, args, kwargs or {}, result))
        return result

    def replay(self):
        """Do the operations again; what one of them gave is given anew to those after it."""
        fresh = {}
        for operation, *given, before in self.operations:
            args, kwargs = tree_map_only(torch.Tensor, lambda x: fresh.get(id(x), x), given)
            after = operation(*args, **kwargs)
            fresh.update(
                (id(old), new)
                for old, new in zip(tree_leaves(before), tree_leaves(after), strict=True)
            )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_is_captured_once_serves_every_plan(temperature, monkeypatch):
    """Other decodings, other places of the video and of the window: a graph reads them where they
    have been put.
    """
    found = []

    def record(body, pool):
        with Recording() as recording:
            body()
        found.append(recording)
        return recording.replay

    monkeypatch.setattr(steps, "capture", record)
    model = build_model(WIDE, WIDE_WORLD.grid, 4, seed=1)
    plain = open_session(WIDE_WORLD, model, frames=12, batch=2, temperature=temperature)
    replayed = replace(plain, times=Times(), capture=True)
    walks = (
        WIDE_WORLD.decoding,
        Decoding("spatial", k=1),
        replace(WIDE_WORLD.decoding, zero_slots=True),
    )
    for n, latents in enumerate([1, 1, 1, 2, 1, 1, 1, 2]):
        for session in (plain, replayed):
            list(session.extend(latents, walks[n % 3]))
        assert plain.codes.tolist() == replayed.codes.tolist()
    assert 4 < len(found) < replayed.times.steps / 10


def test_the_host_runs_a_few_steps_ahead(monkeypatch):
    """On CUDA, where a step is only queued: the device is simulated by a list of what it was asked
    to do.
    """
    seen = []

    class Event:
        def record(self):
            self.number = sum(kind == "step" for kind, _ in seen)
            seen.append(("step", self.number))

        def synchronize(self):
            seen.append(("wait for", self.number))

    monkeypatch.setattr(torch.cuda, "Event", Event)
    pace = steps.Pace(torch.device("cuda"))
    for _ in range(12):
        pace()
    waits = [number for kind, number in seen if kind == "wait for"]
    assert waits == [0, 1, 2, 3] and seen.index(("wait for", 0)) == seen.index(("step", 8)) + 1
