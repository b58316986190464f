"""What a step must read and compute: by hand on a tiny plan, and as counted while the real model
runs.
"""

import numpy as np
import pytest
import torch
from tiny import TINY
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from yaml import safe_load

from diagd_cli.engine import steps
from diagd_cli.engine.decode import decode, prefill
from diagd_cli.jobs.benchmark.limit import Work, product_parameters, read_parameters, work_of
from diagd_cli.model import attention
from diagd_cli.model.cache import KVCache
from diagd_cli.model.config import TransformerConfig
from diagd_cli.model.transformer import Transformer, initialise
from diagd_cli.preset_files import load_preset
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.schedule.plan import build_plan
from diagd_cli.tokens.grid import Grid

GRID = Grid(2, 3, conditioning=1)
CONFIG = TransformerConfig(**safe_load(TINY)["transformer"])
FAMILIES = {
    "tiny": {},
    "tied, with biases, learned positions": {
        "tied": True, "outputs": 0, "bias": True, "norm": "layer", "activation": "gelu-tanh", "positions": {"kind": "learned"},
    },
    "text": {"cross_dim": 12, "qk_norm": True, "bias": True},
    "two layers": {"layers": 2, "block_norm_affine": False},
}  # fmt: skip


def family(changes: dict) -> TransformerConfig:
    return TransformerConfig(**CONFIG.model_dump() | changes)


def model_of(config: TransformerConfig) -> Transformer:
    model = Transformer(config, torch.from_numpy(GRID.coords(GRID.length(5) + 1)))
    initialise(model, seed=0)
    return model.eval().requires_grad_(False)


def test_ntp_by_hand():
    """dim 16, 2 heads of 8 on 1 of keys, MLP 16, 25 codes; one token a step, of which the first
    sees 14 positions.
    """
    plan = build_plan(GRID, 2, 1, Decoding("ntp"))
    blocks = 16 * (16 + 8 + 8) + 16 * 16 + 16 * 32 + 16 * 16
    assert product_parameters(CONFIG) == (blocks, 16 * 25) == (1536, 400)
    assert read_parameters(CONFIG) == 1536 + 400 + 3 * 16
    extents = np.arange(14, 20)
    work = work_of(CONFIG, plan, batch=1, item=4)
    assert work.bytes.tolist() == (4 * (1984 + 16 + 2 * 8 * extents)).tolist()
    assert work.flops.tolist() == (2 * (1536 + 400) + 4 * 2 * 8 * extents).tolist()
    assert (work_of(CONFIG, plan, batch=1, item=2).bytes * 2 == work.bytes).all()
    small = work_of(CONFIG, plan, batch=1, item=4, weights="int8")
    # a byte for each number of the blocks' matrices, and four for each of their rows
    rows = 16 + 8 + 8 + 16 + 32 + 16
    assert (work.bytes - small.bytes == 3 * blocks - 4 * rows).all()
    assert (work.flops == small.flops).all()


def test_batch_shares_the_weights_but_neither_cache_nor_products():
    plan = build_plan(GRID, 2, 2, Decoding("diagd", 1, 2))
    one, three = (work_of(CONFIG, plan, batch, item=4) for batch in (1, 3))
    assert (three.flops == 3 * one.flops).all()
    weights = 4 * read_parameters(CONFIG)
    assert (three.bytes - weights == 3 * (one.bytes - weights)).all()


def test_floor_is_whichever_takes_longer():
    work = Work(np.array([100.0, 100.0]), np.array([10.0, 1000.0]))
    assert work.floors(bandwidth=50, flops=100).tolist() == [2, 10]


@pytest.mark.parametrize("changes", FAMILIES.values(), ids=FAMILIES)
def test_weights_read_are_those_of_the_model(changes):
    """All but the tables, and what makes keys and values of the text."""
    config = family(changes)
    tables = {"learned.weight"} | (set() if config.tied else {"embed.weight"})
    sizes = {name: p.numel() for name, p in model_of(config).named_parameters()}
    assert read_parameters(config) == sum(
        n for name, n in sizes.items() if name not in tables and ".cross.kv." not in name
    )


@pytest.mark.parametrize("changes", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize(
    "walk", [Decoding("ntp"), Decoding("diagd", 2, 3), Decoding("spatial", 1)], ids=str
)
def test_flops_are_those_that_the_engine_runs(changes, walk, monkeypatch):
    """But for what it adds on a CPU so that a token has the same bits in any company: rows beside
    a few, and slots up to the end of a block.
    """
    monkeypatch.setattr(attention, "LEAST", 0)
    monkeypatch.setattr(steps, "BLOCK", 1)
    config, batch, text = family(changes), 2, 5 if "cross_dim" in changes else 0
    model, plan = model_of(config), build_plan(GRID, 2, 2, walk)
    cross = model.cross_context(torch.randn(batch, text, config.cross_dim)) if text else None
    tokens, cache = (
        torch.zeros(batch, plan.length, dtype=torch.long),
        KVCache(config, batch, plan.length),
    )
    prefill(model, cache, tokens, np.arange(plan.prefill), cross)
    seen, before = [], 0
    # whose products are counted
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        for _ in decode(
            model, plan, cache, tokens, lambda logits, _: logits[..., :25].argmax(-1), cross
        ):
            seen.append(counter.get_total_flops() - before)
            before += seen[-1]
    assert seen == work_of(config, plan, batch, item=4, text=text).flops.tolist()


def test_cosmos_reads_what_its_weights_take():
    """7.5 GB of bfloat16 weights a step, all but the embedding of 64,000 tokens."""
    config = load_preset("cosmos-4b").transformer
    assert read_parameters(config) == 4_014_088_192 - 64_000 * 4096
    assert 2 * read_parameters(config) == pytest.approx(7.5e9, rel=0.01)
