"""McNemar, Holm and random signs against known values and laws."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from geneval_reward.stats import holm, mcnemar
from geneval_reward.stats.significance import sign_flip


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_exact_is_the_binomial_test(only_a, only_b):
    if only_a + only_b:
        expected = binomtest(only_a, only_a + only_b).pvalue
        assert mcnemar(only_a, only_b, mid_p=False) == pytest.approx(expected, abs=1e-9)
    assert 0 < mcnemar(only_a, only_b) <= mcnemar(only_a, only_b, mid_p=False) <= 1
    assert mcnemar(only_a, only_b) == mcnemar(only_b, only_a)


def test_mcnemar_refuses_negative_counts():
    with pytest.raises(ValueError, match="counts >= 0"):
        mcnemar(-1, 3)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_laws(p_values):
    corrected = holm(p_values)
    smallest = min(range(len(p_values)), key=p_values.__getitem__)
    assert corrected[smallest] == min(1.0, len(p_values) * p_values[smallest])
    assert all(raw <= new <= 1 for raw, new in zip(p_values, corrected, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(corrected)[order]) >= 0).all()


@pytest.mark.parametrize("parts", [[1.0, 1, 1, -1, 2, 3], [0.25, 0.5, 0.75, 1.5, 0, 0], [1.0] * 7])
def test_random_signs_approach_the_exact_distribution(parts):
    sums = [abs(np.dot(signs, parts)) for signs in itertools.product([-1, 1], repeat=len(parts))]
    exact = np.mean(np.array(sums) >= abs(sum(parts)) - 1e-12)
    found = sign_flip(np.array(parts, float), np.random.default_rng(0), 40_000)
    assert found == pytest.approx(exact, abs=0.01)


def test_no_difference_is_no_evidence():
    assert sign_flip(np.zeros(5), np.random.default_rng(0), 100) == 1.0
