import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geneval_reward.errors import SearchError
from geneval_reward.search import (
    METHODS,
    Cluster,
    Plan,
    Resample,
    Top,
    best_of_n,
    feynman_kac,
    importance_sampling,
    named_plan,
    search,
)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_an_image_and_counts_what_it_did(method, toy, make_reward) -> None:
    reward = make_reward()
    plan = named_plan(method, 3, 5)
    found = search(toy, plan, reward, prompt="a dog", seed=4)
    assert len(found.images) == len(found.rewards) == 3
    assert found.cost.passes == pytest.approx(sum(toy.sizes) / 5) == plan.passes(toy)
    assert found.cost.rewards == sum(reward.calls)
    assert found.cost.decodes == found.cost.rewards  # features are the model's own, so only rewards need pictures
    assert toy.sizes == plan.sizes(5)
    again = search(toy, plan, reward, prompt="a dog", seed=4)
    assert again.to_record() == found.to_record()
    assert search(toy, plan, reward, prompt="a dog", seed=5).rewards != found.rewards


def test_the_result_is_first_and_has_the_reward_that_is_said(toy, make_reward, read_number) -> None:
    found = search(toy, best_of_n(6), make_reward(), prompt="a dog")
    assert found.rewards == sorted(found.rewards, reverse=True)
    assert [read_number(image) for image in found.images] == pytest.approx(found.rewards)


def test_a_plan_for_fewer_candidates_begins_with_the_first_of_a_plan_for_more(toy, make_reward) -> None:
    plain = search(toy, best_of_n(1), None, prompt="a dog", seed=9)
    many = search(toy, best_of_n(8), make_reward(), prompt="a dog", seed=9)
    few = search(toy, best_of_n(3), make_reward(), prompt="a dog", seed=9)
    assert plain.rewards == [None]
    assert plain.cost.rewards == 0
    first = many.images[many.ancestors().index(0)]
    assert np.array_equal(np.asarray(plain.image), np.asarray(first))
    assert set(few.rewards) == {many.rewards[many.ancestors().index(i)] for i in range(3)}


def test_copies_get_new_noise_and_without_it_they_are_identical(toy, make_reward) -> None:
    plan = Plan(4, {1: (4, Resample(50.0))})
    found = search(toy, plan, make_reward(), prompt="a dog")
    assert len(set(found.ancestors())) < 4
    assert len(set(found.rewards)) == 4

    state = toy.advance(toy.start("a dog", [5, 6]), 0)
    same = toy.advance(toy.take(state, [1, 1], [6, 6]), 1)
    other = toy.advance(toy.take(state, [1, 1], [6, 7]), 1)
    plain = toy.advance(state, 1)
    assert same.values[0] == same.values[1] == plain.values[1] == other.values[0]
    assert other.values[1] != other.values[0]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**40), st.integers(1, 3), st.sampled_from(METHODS))
def test_lineage_leads_from_the_finalists_to_the_start(seed, n, method) -> None:
    from tests.search.conftest import ToyReward, ToySteps

    toy = ToySteps()
    found = search(toy, named_plan(method, n, 5), ToyReward(), prompt="a dog", seed=seed)
    ancestors = found.ancestors()
    assert len(ancestors) == n
    assert all(0 <= place < toy.sizes[0] for place in ancestors)
    sizes = [len(check.rows) for check in found.lineage]
    assert sizes == sorted(sizes, reverse=True)


def test_better_rewards_are_found_than_by_chance(make_toy, make_reward) -> None:
    def mean(method: str, n: int = 2) -> float:
        plan = named_plan(method, n, 5)
        found = [search(make_toy(), plan, make_reward(), prompt="a dog", seed=seed) for seed in range(60)]
        return float(np.mean([one.rewards[0] for one in found]))

    random = mean("random")
    assert mean("tts-var") > mean("resample") - 0.5 > random + 0.5
    assert mean("fk", 4) > random
    assert mean("best-of-n", 8) > random


def test_importance_sampling_draws_by_the_reward(make_toy, make_reward) -> None:
    rewards = []
    for seed in range(300):
        found = search(make_toy(1), importance_sampling(2, lam=1.0), make_reward(), prompt="a dog", seed=seed)
        rewards.append(found.rewards)
    gap = np.array([first - second for first, second in rewards])
    expected = (1 / (1 + np.exp(-np.abs(gap)))).mean()
    assert abs((gap > 0).mean() - expected) < 0.08
    assert (gap < 0).any()


def test_feynman_kac_one_drawn_is_not_always_the_best(make_toy, make_reward) -> None:
    best = [search(make_toy(), feynman_kac(4, 5, lam=0.5), make_reward(), prompt="a dog", seed=s) for s in range(20)]
    drawn = [
        search(make_toy(), feynman_kac(4, 5, lam=0.5, draw=True), make_reward(), prompt="a dog", seed=s)
        for s in range(20)
    ]
    assert all(one.rewards[0] == max(one.rewards) for one in best)
    assert any(one.rewards[0] < max(one.rewards) for one in drawn)


def test_a_function_of_features_is_used_and_counted(toy, make_reward) -> None:
    seen = []

    def features(images):
        seen.append(len(images))
        return np.random.default_rng(0).normal(size=(len(images), 7, 3))

    found = search(toy, Plan(6, {1: (2, Cluster())}), make_reward(), features, prompt="a dog")
    assert seen == [6]
    assert (found.cost.features, found.cost.decodes, found.cost.rewards) == (6, 8, 2)


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_rewards_that_are_none_or_not_finite_are_no_rewards(value, toy, make_reward) -> None:
    found = search(toy, named_plan("tts-var", 2, 5), make_reward(lambda _: value), prompt="a dog")
    assert found.rewards == [None, None]
    assert len(found.images) == 2

    some = make_reward(lambda number: value if number > 0 else number)
    found = search(toy, best_of_n(8), some, prompt="a dog")
    known = [reward for reward in found.rewards if reward is not None]
    assert 0 < len(known) < 8
    assert found.rewards[0] == max(known)


def test_a_reward_that_raises_for_one_candidate_costs_only_that_one(toy, make_reward) -> None:
    def change(value):
        if value == pytest.approx(worst):
            raise RuntimeError("no face found")
        return value

    worst = min(search(toy, best_of_n(4), make_reward(), prompt="a dog").rewards)
    found = search(toy, best_of_n(4), make_reward(change), prompt="a dog")
    assert found.rewards[-1] is None
    assert None not in found.rewards[:3]
    assert len(found.errors) == 1
    assert "RuntimeError: no face found" in found.errors[0]
    assert found.to_record()["errors"] == list(found.errors)


def test_a_reward_that_raises_for_all_is_an_error_that_carries_the_images(toy, make_reward) -> None:
    def change(value):
        raise TypeError("takes no images")

    with pytest.raises(
        SearchError, match="at least one of 3 candidates of 'a dog', got TypeError: takes no images"
    ) as error:
        search(toy, best_of_n(3), make_reward(change), prompt="a dog")
    assert len(error.value.found.images) == 3
    assert error.value.found.rewards == [None] * 3


def test_a_selection_at_the_last_step_sees_the_images(toy, make_reward) -> None:
    found = search(toy, Plan(6, {4: (2, Top())}), make_reward(), prompt="a dog")
    best = search(toy, best_of_n(6), make_reward(), prompt="a dog")
    assert found.rewards == best.rewards[:2]
    assert found.ancestors() == best.ancestors()[:2]
