import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geneval_reward.errors import UsageError
from geneval_reward.search import Cluster, FeynmanKac, First, Group, Random, Resample, Top
from geneval_reward.search.select import POTENTIALS, chances, first_component, potential_of

NUMBERS = st.floats(-5, 5, allow_nan=False)
REWARDS = st.lists(NUMBERS | st.just(float("nan")), min_size=2, max_size=9)


def group(rewards, history=(), features=None, last=False, log_weights=None):
    rewards = None if rewards is None else np.array(rewards, float)
    n = len(rewards) if rewards is not None else len(features)
    history = np.array(history, float).reshape(-1, n)
    return Group(rewards, history, np.zeros(n) if log_weights is None else np.array(log_weights), features, last)


@settings(max_examples=60, deadline=None)
@given(REWARDS, st.integers(0, 2**32), st.data())
def test_every_selection_keeps_as_many_rows_as_asked_and_repeats_only_if_it_says_so(rewards, seed, data) -> None:
    keep = data.draw(st.integers(1, len(rewards)))
    features = np.random.default_rng(seed).normal(size=(len(rewards), 3))
    for select in (First(), Random(), Top(), Resample(), Cluster(), FeynmanKac(), FeynmanKac(adaptive=True)):
        rows, weights = select(group(rewards, features=features), keep, np.random.default_rng(seed))
        assert rows.shape == weights.shape == (keep,)
        assert 0 <= rows.min() <= rows.max() < len(rewards)
        assert select.copies or len(set(rows.tolist())) == keep
        again, _ = select(group(rewards, features=features), keep, np.random.default_rng(seed))
        assert rows.tolist() == again.tolist()


@settings(max_examples=60, deadline=None)
@given(REWARDS)
def test_a_candidate_without_a_reward_is_never_preferred(rewards) -> None:
    known = ~np.isnan(rewards)
    best = Top()(group(rewards), int(max(known.sum(), 1)), np.random.default_rng(0))[0]
    for select in (Resample(0.1), Resample(relative=False), FeynmanKac(0.1)):
        rows, _ = select(group(rewards), len(rewards) - 1, np.random.default_rng(0))
        if known.any():
            assert known[rows].all()
            assert known[best].all()


def test_top_is_stable_and_puts_the_best_first() -> None:
    assert Top()(group([1, 3, np.nan, 3, 2]), 4, np.random.default_rng(0))[0].tolist() == [1, 3, 4, 0]


@settings(max_examples=60, deadline=None)
@given(st.lists(NUMBERS, min_size=3, max_size=6), st.floats(0.1, 100), st.floats(-50, 50))
def test_a_relative_draw_knows_no_scale_and_no_shift_of_the_reward(rewards, scale, shift) -> None:
    rewards = np.round(rewards, 2)
    draw = [Resample(2.0)(group(r), 40, np.random.default_rng(1))[0] for r in (rewards, scale * rewards + shift)]
    assert draw[0].tolist() == draw[1].tolist()


@pytest.mark.parametrize("rewards", [[0, 0, 0, 0], [1, 1, 1, 1], [0.1 + 0.2, 0.3, 0.3, 0.3], [np.nan] * 4])
def test_equal_or_missing_rewards_give_equal_chances(rewards) -> None:
    rows, _ = Resample()(group(rewards), 4000, np.random.default_rng(0))
    assert np.abs(np.bincount(rows, minlength=4) / 4000 - 0.25).max() < 0.04


def test_a_zero_or_one_reward_is_a_filter() -> None:
    rows, _ = Resample()(group([0, 1, 0, 1]), 1000, np.random.default_rng(0))
    assert set(rows.tolist()) == {1, 3}


def test_chances_of_a_resampling() -> None:
    rows, _ = Resample(1.0, relative=False)(group([0.0, np.log(3)]), 20_000, np.random.default_rng(0))
    assert abs((rows == 1).mean() - 0.75) < 0.01
    assert chances(np.array([1e4, 1e4, -np.inf])).tolist() == [0.5, 0.5, 0]


def test_potentials_by_hand() -> None:
    rewards = np.array([[1.0, 4.0], [3.0, 2.0]])
    found = {name: potential_of(name, rewards).tolist() for name in POTENTIALS}
    assert found == {"value": [3, 2], "difference": [2, -2], "max": [3, 4], "sum": [4, 6]}
    assert potential_of("difference", rewards[:1]).tolist() == [1, 4]


@settings(max_examples=100, deadline=None)
@given(st.data(), st.sampled_from(POTENTIALS), st.floats(0, 10))
def test_the_product_of_feynman_kac_weights_is_the_tilt_by_the_final_reward(data, potential, lam) -> None:
    k, n = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    rewards = np.array(data.draw(st.lists(st.lists(NUMBERS, min_size=n, max_size=n), min_size=k, max_size=k)))
    logs = FeynmanKac(lam, potential).log_potentials(rewards, last=True)
    assert logs.shape == (k, n)
    np.testing.assert_allclose(logs.sum(0), lam * rewards[-1], atol=1e-9)


def test_feynman_kac_draws_the_tilted_law() -> None:
    """Particles of a law on two points, tilted at the end, after a misleading first check."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 20_000).astype(float)
    select = FeynmanKac(1.0, "max")
    first = rng.normal(size=len(truth)).round(1)
    rows, weights = select(group(first), len(truth), rng)
    last = Group(truth[rows], first[rows][None], weights, last=True)
    again, weights = select(last, len(truth), rng)
    share = np.average(truth[rows][again], weights=np.exp(weights))
    assert abs(share - np.e / (1 + np.e)) < 0.03


def test_adaptive_particles_keep_their_weights_until_the_sample_size_falls() -> None:
    select = FeynmanKac(1.0, "value", adaptive=True)
    rows, weights = select(group([0.0, 0.1, 0.0, 0.1]), 4, np.random.default_rng(0))
    assert rows.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(weights, [-0.1, 0, -0.1, 0])
    rows, weights = select(group([0, 9, 0, 0], [[0, 0.1, 0, 0.1]], log_weights=weights), 4, np.random.default_rng(0))
    assert rows.tolist() == [1, 1, 1, 1]
    assert not weights.any()


def test_clusters_are_found_and_the_nearest_to_each_centre_is_kept() -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0], [50, 0], [0, 50]])
    points = np.repeat(centres, 4, 0) + rng.normal(size=(12, 2))
    rows, _ = Cluster()(group(None, features=points), 3, rng)
    assert sorted(row // 4 for row in rows.tolist()) == [0, 1, 2]
    for row in rows:
        own = points[row // 4 * 4 : row // 4 * 4 + 4]
        assert np.linalg.norm(points[row] - own.mean(0)) == np.linalg.norm(own - own.mean(0), axis=1).min()


def test_clusters_of_equal_candidates_keep_different_rows() -> None:
    rows, _ = Cluster()(group(None, features=np.ones((5, 2))), 4, np.random.default_rng(0))
    assert len(set(rows.tolist())) == 4


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_the_first_component_of_alike_images_is_not_flipped(seed) -> None:
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(16, 6)) @ np.diag([6, 2, 1, 1, 1, 1])
    alike = np.stack([image, image + 1e-6 * rng.normal(size=image.shape), image[:, :] + 3.0])
    projected = first_component(alike)
    assert projected.shape == (3, 16)
    np.testing.assert_allclose(projected, np.broadcast_to(projected[0], (3, 16)), atol=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Resample(-1), "lam: expected a number >= 0, got -1"),
        (lambda: Resample(float("nan")), "lam: expected a number >= 0"),
        (lambda: FeynmanKac(1, "add"), "potential: expected one of value, difference, max, sum, got 'add'"),
        (
            lambda: Top()(group(None, features=np.ones((2, 1))), 1, np.random.default_rng(0)),
            "rewards: expected one per",
        ),
        (lambda: Cluster()(group([1, 2]), 1, np.random.default_rng(0)), "features: expected one row for each of 2"),
        (
            lambda: Cluster()(group(None, features=np.full((2, 1), np.nan)), 1, np.random.default_rng(0)),
            "features: expected finite numbers",
        ),
    ],
)
def test_bad_arguments(make, message) -> None:
    with pytest.raises(UsageError, match=message):
        make()
