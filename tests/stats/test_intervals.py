"""Wilson's interval and pass@k against known values and laws."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from geneval_reward.stats import pass_at_k, wilson


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (1, 7), (8, 10), (50, 99), (320, 320)])
@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_wilson_agrees_with_scipy(successes, n, level):
    expected = binomtest(successes, n).proportion_ci(level, method="wilson")
    found = wilson(successes, n, level)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((-1, 5), "successes"), ((6, 5), "successes"), ((0, 0), "n: expected"), ((1, 2, 95), "did you mean 0.95")],
)
def test_wilson_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        wilson(*arguments)


@given(n=st.integers(1, 9), data=st.data())
def test_pass_at_k_is_the_mean_over_all_choices(n, data):
    correct = data.draw(st.integers(0, n))
    k = data.draw(st.integers(1, n))
    verdicts = [True] * correct + [False] * (n - correct)
    choices = [any(choice) for choice in itertools.combinations(verdicts, k)]
    assert pass_at_k([correct], [n], k)[0] == pytest.approx(sum(choices) / len(choices))


def test_pass_at_k_of_many_images_does_not_overflow():
    assert pass_at_k([1], [100_000], 100)[0] == pytest.approx(0.001)


@pytest.mark.parametrize("k", [0, 5])
def test_pass_at_k_refuses_a_k_outside(k):
    with pytest.raises(ValueError, match=r"k: expected 1\.\.4"):
        pass_at_k([1, 2], [4, 6], k)
