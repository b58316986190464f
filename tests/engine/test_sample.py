"""Which tokens may be chosen, how often each is, and what the noise depends on."""

from math import inf

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diagd_cli.engine.filters import keep_top
from diagd_cli.engine.sample import Sampler, Sampling
from diagd_cli.tokens.grid import Grid

LOGITS = torch.tensor([0.0, 3.0, 1.0, 2.0, 1.0])


def kept(logits, **rule):
    """Indices that keep_top keeps; the kept logits are untouched."""
    logits = torch.as_tensor(logits)
    result = keep_top(logits, **rule)
    index = (result > -inf).nonzero().ravel()
    assert torch.equal(result[index], logits[index])
    return index.tolist()


def draws(count, logits, seed=0, **options):
    """`count` tokens of one clip with the same logits everywhere."""
    sampler = Sampler(Sampling(len(logits), **options), [seed])
    return sampler(logits.expand(1, count, -1), torch.arange(count))[0]


# ---- keep_top ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "k, expected", [(1, [1]), (2, [1, 3]), (3, [1, 2, 3, 4]), (4, [1, 2, 3, 4])]
)
def test_top_k_keeps_the_k_largest_and_what_ties_with_the_last(k, expected):
    assert kept(LOGITS, top_k=k) == expected


@pytest.mark.parametrize("k", [0, 5, 6, 1000])
def test_top_k_of_nothing_or_of_the_vocabulary_and_more_keeps_everything(k):
    assert kept(LOGITS, top_k=k) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "p, expected",
    [
        (0.0, [2]),
        (0.4, [2]),
        (0.49, [2]),
        (0.5, [0, 2]),
        (0.74, [0, 2]),
        (0.75, [0, 1, 2, 3]),
        (1.0, [0, 1, 2, 3]),
    ],
)
def test_a_token_is_in_the_nucleus_if_those_above_it_weigh_no_more_than_top_p(p, expected):
    """Exact in binary: probabilities 1/4, 1/8, 1/2, 1/8; a nucleus that just reaches top_p takes
    one more.
    """
    probabilities = torch.tensor([0.25, 0.125, 0.5, 0.125])
    result = kept(probabilities.log2() * np.log(2), top_p=p)
    assert result == expected or (p == 0.75 and set(result) in ({0, 1, 2}, {0, 2, 3}))


def test_top_p_weighs_what_top_k_has_left():
    probabilities = torch.tensor([0.4, 0.3, 0.2, 0.1])
    assert kept(probabilities.log(), top_p=0.65) == [0, 1]
    assert kept(probabilities.log(), top_k=2, top_p=0.55) == [0]


@given(st.lists(st.integers(-8, 8), min_size=1, max_size=12), st.integers(0, 14), st.floats(0, 1))
def test_the_best_token_always_stays_and_every_row_is_cut_by_itself(row, k, p):
    logits = torch.tensor([row, row[::-1]], dtype=torch.float32) / 2
    result = keep_top(logits, k, p)
    best = logits.max(-1, keepdim=True).values
    assert ((result == best) & (logits == best)).any(-1).all()
    assert torch.equal(result[1], keep_top(logits[1:], k, p)[0])


# ---- frequencies ---------------------------------------------------------------------------------


@given(
    st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=12, unique=True),
    st.integers(0, 12),
    st.floats(0, 1),
)
def test_temperature_zero_is_greedy_whatever_else_is_set(row, k, p):
    tokens = draws(3, torch.tensor(row), temperature=0, top_k=k, top_p=p)
    assert tokens.tolist() == [int(np.argmax(row))] * 3


@pytest.mark.parametrize("temperature", [1e-5, 1e-7, 1e-39, 5e-324])
def test_a_temperature_near_zero_is_greedy(temperature):
    assert (
        draws(20, torch.tensor([1.0, 2.0, 5.0, 3.0]), temperature=temperature).tolist() == [2] * 20
    )


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("rule", [{}, {"top_k": 3}, {"top_p": 0.8}])
def test_tokens_come_as_often_as_the_softmax_says(temperature, rule):
    """Chi-square over 20,000 draws: below the 99.9 % point of 5 degrees of freedom."""
    logits, count = torch.tensor([1.5, 0.0, -1.0, 0.5, -0.3, 1.0]), 20000
    expected = count * keep_top(logits / temperature, **rule).softmax(-1)
    seen = torch.bincount(draws(count, logits, temperature=temperature, **rule), minlength=6)
    possible = expected > 0
    assert seen[~possible].sum() == 0
    assert ((seen - expected)[possible] ** 2 / expected[possible]).sum() < 20.5


def test_seeds_give_independent_draws():
    """Two clips with neighbouring seeds agree as often as chance says, and so do neighbouring
    places.
    """
    logits, count = torch.zeros(4), 20000
    first, second = draws(count, logits, seed=0), draws(count, logits, seed=1)
    for a, b in [(first, second), (first[1:], first[:-1]), (first[1:], second[:-1])]:
        assert abs((a == b).float().mean() - 0.25) < 0.012


# ---- what the noise depends on -------------------------------------------------------------------


@given(st.permutations(range(4)), st.permutations(range(6)), st.integers(0, 2**31))
def test_a_token_depends_on_its_seed_and_place_not_on_its_neighbours(clips, order, seed):
    logits = torch.randn(4, 6, 9, generator=torch.Generator().manual_seed(seed))
    seeds, places = [seed + n for n in range(4)], torch.tensor([5, 6, 7, 100, 101, 10**9])
    together = Sampler(Sampling(9), seeds)(logits, places)
    shuffled = Sampler(Sampling(9), [seeds[n] for n in clips])(
        logits[clips][:, order], places[order]
    )
    assert torch.equal(shuffled, together[clips][:, order])
    for b in range(4):
        one = Sampler(Sampling(9), [seeds[b]])
        one.origin.fill_(100)  # the place of position 0: that of a window that has rolled
        assert one(logits[b : b + 1, 4:5], torch.tensor([1])) == together[b, 4]


@pytest.mark.parametrize("seed", [0, -1, -(2**63), 2**63 - 1, 2**63, 2**64 - 1, 2**200])
def test_any_whole_number_is_a_seed(seed):
    tokens = draws(100, torch.zeros(10), seed=seed)
    assert tokens.min() >= 0 and tokens.max() < 10 and len(tokens.unique()) > 5


def test_seeds_count_modulo_two_to_the_64():
    assert (
        draws(50, torch.zeros(10), seed=-1).tolist()
        == draws(50, torch.zeros(10), seed=2**64 - 1).tolist()
    )
    assert (
        draws(50, torch.zeros(10), seed=2**63).tolist()
        != draws(50, torch.zeros(10), seed=2**63 - 1).tolist()
    )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_ids_from_the_number_of_codes_on_are_never_chosen(temperature):
    """Logits may have more columns than there are codes: actions, padding of the vocabulary."""
    logits = torch.cat([torch.zeros(1, 200, 5), torch.full((1, 200, 3), 100.0)], dim=-1)
    tokens = Sampler(Sampling(5, temperature), [0])(logits, torch.arange(200))
    assert tokens.max() < 5


def test_half_precision_logits_are_sampled_in_float32():
    logits = torch.randn(1, 50, 300, generator=torch.Generator().manual_seed(0)).bfloat16()
    sampler = Sampler(Sampling(300), [0])
    assert torch.equal(sampler(logits, torch.arange(50)), sampler(logits.float(), torch.arange(50)))


HIGHEST = {"seed": 15, "place": 1992, "id": 925}  # where the low 24 bits of the hash are all ones


@pytest.mark.parametrize("rule", [{}, {"top_k": 1}])
def test_noise_is_finite_and_a_hopeless_or_excluded_token_is_never_chosen(rule):
    logits = torch.zeros(1, 1, 1000)
    logits[..., HIGHEST["id"]] = -50
    sampler = Sampler(Sampling(1000, **rule), [HIGHEST["seed"]])
    assert sampler(logits, torch.tensor([HIGHEST["place"]])) != HIGHEST["id"]


# ---- what some models ask for --------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_ids_below_first_never_open_a_frame(temperature):
    """WHAM bars id 0 for the first token of a frame, and only there. Here frames have 4 tokens
    after a prefix of 2.
    """
    opening = np.isin(np.arange(42), range(2, 42, 4))
    logits = torch.tensor([5.0, 0.0, 1.0]).expand(1, 42, 3)
    sampler = Sampler(Sampling(3, temperature, first=1), [0], Grid(2, 2, prefix=2))
    tokens = sampler(logits, torch.arange(42))[0]
    assert (tokens[opening] > 0).all()
    assert (tokens[~opening] == 0).float().mean() > 0.9


def test_first_is_not_forgotten():
    """Without being told where frames begin, a sampler cannot keep ids from there: it is not
    made.
    """
    with pytest.raises(ValueError, match=r"first is 1: give the grid"):
        Sampler(Sampling(3, first=1), [0])


def test_strict_top_p_drops_the_token_that_crosses():
    """Of 0.5, 0.3, 0.15, 0.05 with top_p 0.6 the usual nucleus keeps two, WHAM's rule one."""
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    assert set(draws(500, logits, top_p=0.6).tolist()) == {0, 1}
    assert set(draws(500, logits, top_p=0.6, top_p_rule="strict").tolist()) == {0}
    # the best always stays
    assert set(draws(500, logits, top_p=0.2, top_p_rule="strict").tolist()) == {0}
    assert len(set(draws(500, logits, top_p=1.0, top_p_rule="strict").tolist())) == 4
