"""Whatever keeps to the contract of a model can be decoded: here one that is no Transformer
at all.
"""

import numpy as np
import oracle
import pytest
import torch
from strategies import WIDE, WIDE_WORLD, World, build_model, random_sequences

from diagd_cli.engine.decode import decode, decode_plan, logits, prefill
from diagd_cli.engine.forced import forced_logits
from diagd_cli.engine.sample import Sampling
from diagd_cli.engine.session import Session
from diagd_cli.model.cache import KVCache
from diagd_cli.model.mask import CAUSAL
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.tokens.grid import Grid

VOCAB, PRIME = 50, 1_000_003


class IdCache:
    """It remembers the tokens themselves, int64 [B, slots]."""

    def __init__(self, batch: int, slots: int):
        self.ids = torch.full((batch, slots), -1)
        self.positions = torch.arange(slots)

    def clear(self, slots):
        self.ids[:, slots] = -1


class HashModel:
    """Its logits are a hash of what is seen: of every visible (position, token), and of where the
    query stands.
    """

    device = torch.device("cpu")

    def new_cache(self, batch, slots, dtype=None):
        return IdCache(batch, slots)

    def __call__(
        self,
        ids,
        positions,
        mask=CAUSAL,
        cache=None,
        extent=None,
        outputs=None,
        cross=None,
        slots=None,
    ):
        seen, places = ids, positions
        if cache is not None:
            slots = positions if slots is None else slots
            cache.ids[:, slots], cache.positions[slots] = ids, positions
            seen, places = cache.ids[:, :extent], cache.positions[:extent]
        visible = (
            torch.ones(len(positions), len(places), dtype=torch.bool).tril()
            if mask.causal
            else None
        )
        visible = mask.visible if mask.visible is not None else visible
        marks = (seen + 1) * (7 * places + 3) % PRIME
        sums = (marks[:, None] * visible).sum(-1) + positions
        scores = sums[..., None] * (31 * torch.arange(VOCAB) + 17) % PRIME
        return scores[:, :outputs].float()


def likeliest(seen: dict[int, int], position: int) -> int:
    """What follows `position` where the tokens {position: token} are seen: the same in plain
    integers.
    """
    total = sum((token + 1) * (7 * place + 3) % PRIME for place, token in seen.items()) + position
    return max(range(VOCAB), key=lambda n: total * (31 * n + 17) % PRIME)


def directly(world: World, truth: list[int]) -> list[int]:
    """The sequence with new tokens as the algorithm makes them, from the oracle's walk over what is
    seen.
    """
    tokens = world.known(truth)

    def choose(entries, asked):
        visible, made = oracle.visible(entries), []
        for n in asked:
            seen = [e for e, there in zip(entries, visible[n], strict=True) if there]
            made.append(likeliest({e.position: e.token for e in seen}, entries[n].position))
        return made

    oracle.walk(world.layout, world.context, world.frames, world.rules, tokens, choose)
    return [tokens[p] for p in range(world.length)]


def greedy(rows, targets):
    return rows.argmax(-1)


DIAGONAL = World(
    Grid(3, 4, conditioning=1), context=2, frames=2, decoding=Decoding("diagd", k=2, d=3)
)
WORLDS = [
    DIAGONAL.ntp,
    DIAGONAL,
    World(DIAGONAL.grid, 2, 2, Decoding("diagd", 1, 1, "newest", repair=False)),
]


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.decoding.label(world.grid))
class TestAModelThatHashes:
    def sequence(self, world):
        return torch.randint(VOCAB, (1, world.length), generator=torch.Generator().manual_seed(5))

    def test_by_a_plan(self, world):
        truth, plan = self.sequence(world), world.plan()
        expected = directly(world, truth[0].tolist())
        made = decode_plan(HashModel(), plan, world.prompt(truth), greedy)
        assert made[0].tolist() == expected and len(set(expected)) > 10

    def test_by_steps_that_can_be_captured(self, world):
        truth, plan, model = self.sequence(world), world.plan(), HashModel()
        tokens = torch.nn.functional.pad(world.prompt(truth), (0, 1))
        cache = model.new_cache(1, world.length + 1)
        prefill(model, cache, tokens, np.arange(plan.prefill), chunk=5)
        assert len(list(decode(model, plan, cache, tokens, greedy, capture=True))) == plan.steps
        assert tokens[0, :-1].tolist() == directly(world, truth[0].tolist())

    @pytest.mark.parametrize("capture", [None, True])
    def test_by_a_session(self, world, capture):
        truth, grid, total = self.sequence(world), world.grid, world.context + world.frames
        padded = np.pad(truth.numpy(), ((0, 0), (0, grid.conditioning)))
        codes = grid.codes(padded, total)
        steering = np.stack(
            [padded[:, grid.conditioning_positions(t)] for t in range(total)], axis=1
        )
        session = Session(
            HashModel(),
            grid,
            codes[:, : world.context],
            steering,
            [0],
            Sampling(VOCAB, 0.0),
            total,
            1,
            capture=capture,
        )
        assert len(list(session.extend(world.frames, world.decoding))) == session.times.steps
        expected = np.pad([directly(world, truth[0].tolist())], ((0, 0), (0, grid.conditioning)))
        assert session.codes.tolist() == grid.codes(expected, total).tolist()

    def test_in_one_pass(self, world):
        """Its logits under the mask of a plan are those of the steps."""
        made = torch.tensor([directly(world, self.sequence(world)[0].tolist())])
        ids = forced_logits(HashModel(), made, world.plan()).argmax(-1)
        assert ids[0].tolist() == made[0, torch.as_tensor(world.new)].tolist()


def test_full_logits():
    ids = torch.tensor([[4, 8, 15, 16]])
    expected = [likeliest(dict(enumerate(ids[0, : n + 1].tolist())), n) for n in range(4)]
    assert logits(HashModel(), ids).argmax(-1)[0].tolist() == expected
    turned = torch.tensor([2, 0, 3, 1])
    assert logits(HashModel(), ids[:, turned], turned).argmax(-1)[0].tolist() == [
        expected[n] for n in turned
    ]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_the_transformer_makes_its_own_cache(dtype):
    model = build_model(WIDE, WIDE_WORLD.grid, 4, seed=0)
    cache = model.new_cache(3, 20, dtype)
    assert isinstance(cache, KVCache) and (cache.slots, cache.keys.shape[1]) == (20, 3)
    assert cache.keys.dtype == (dtype or model.dtype) and cache.keys.device == model.device
    ids = random_sequences(WIDE_WORLD, WIDE, seed=0, batch=3)[:, :20]
    seen = model(ids, torch.arange(20), CAUSAL, cache, 20)
    assert seen.dtype == model.dtype and cache.keys.abs().sum((1, 2, 3, 4)).all()
