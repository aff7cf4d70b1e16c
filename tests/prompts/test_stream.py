import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geneval_reward.prompts.stream import Stream

# Small, 32-bit, 64-bit, 128-bit and longer seeds take different ways through the seed hash.
seeds = st.one_of(st.integers(0, 1000), *(st.integers(0, 2**bits - 1) for bits in (32, 64, 128, 300)))


@given(seeds, st.lists(st.integers(1, 2**32 - 1), min_size=1, max_size=20))
def test_integers_are_numpys(seed: int, bounds: list[int]) -> None:
    ours, numpys = Stream(seed), np.random.default_rng(seed)
    assert [ours.below(bound) for bound in bounds] == [int(numpys.integers(bound)) for bound in bounds]


@given(seeds, st.lists(st.integers(2**31, 2**32 - 1), min_size=30, max_size=30))
def test_rejections_are_numpys(seed: int, bounds: list[int]) -> None:
    # Just above 2**31 almost half of the draws are rejected, so 30 of them meet several.
    bounds = [2**31 + 1 + bound % 3 for bound in bounds]
    ours, numpys = Stream(seed), np.random.default_rng(seed)
    assert [ours.below(bound) for bound in bounds] == [int(numpys.integers(bound)) for bound in bounds]


@given(seeds, st.lists(st.tuples(st.integers(1, 200), st.floats(0, 1)), min_size=1, max_size=8))
def test_choice_without_replacement_is_numpys(seed: int, draws: list[tuple[int, float]]) -> None:
    ours, numpys = Stream(seed), np.random.default_rng(seed)
    for population, share in draws:
        size = max(1, round(population * share))
        expected = numpys.choice(population, size=size, replace=False).tolist()
        assert ours.sample(population, size) == expected


def test_mixed_draws_share_one_buffer() -> None:
    # An odd number of 32-bit draws leaves half an output behind, which the next call must use.
    for seed in range(50):
        ours, numpys = Stream(seed), np.random.default_rng(seed)
        for _ in range(5):
            assert ours.below(80) == int(numpys.choice(80))
            assert ours.below(3) + 2 == int(numpys.integers(2, 4, endpoint=True))
            assert ours.sample(79, 2) == numpys.choice(79, size=2, replace=False).tolist()


def test_bound_one_draws_nothing() -> None:
    first, second = Stream(7), Stream(7)
    assert first.below(1) == 0
    assert first.below(1000) == second.below(1000)


@given(st.integers(0, 2**64), st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any))
def test_weighted_never_gives_weight_zero(seed: int, weights: list[int]) -> None:
    stream = Stream(seed)
    assert all(weights[stream.weighted(weights)] > 0 for _ in range(20))


def test_weighted_keeps_proportions() -> None:
    stream = Stream(0)
    counts = np.bincount([stream.weighted([7, 0, 3]) for _ in range(10_000)], minlength=3)
    # Five standard deviations of a binomial with p = 0.7.
    assert abs(counts[0] - 7000) < 5 * (10_000 * 0.7 * 0.3) ** 0.5
    assert counts[1] == 0


def test_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"seed: expected an integer >= 0, got -1"):
        Stream(-1)
