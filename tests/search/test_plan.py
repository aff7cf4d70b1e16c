import pytest

from geneval_reward.errors import UsageError
from geneval_reward.search import METHODS, Cluster, Plan, Random, Top, best_of_n, feynman_kac, named_plan, tts_var

# Infinity's square sides for one megapixel: tokens per scale are their squares.
SIDES = (1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64)


class Infinity:
    n_steps = 13
    stochastic = True

    def cost(self, step, n):
        return n * SIDES[step] ** 2 / sum(side**2 for side in SIDES)


def test_the_published_plan_costs_what_is_executed_and_not_what_is_printed() -> None:
    plan = tts_var(2, 13)
    assert plan.sizes(13) == [2 * size for size in (8, 8, 8, 6, 6, 6, 4, 2, 2, 2, 1, 1, 1)]
    assert [select.name for _, select in plan.selections.values()] == ["cluster", "cluster", "resample", "resample"]
    assert list(plan.selections) == [2, 5, 6, 9]
    printed = sum(Infinity().cost(s, n) for s, n in enumerate((8, 8, 6, 6, 6, 4, 2, 2, 2, 1, 1, 1, 1)))
    assert printed == pytest.approx(1.22, abs=0.01)
    assert plan.passes(Infinity()) == pytest.approx(2 * 1.39, abs=0.01)


@pytest.mark.parametrize("n_steps", [5, 6, 8, 13, 28, 50])
def test_other_numbers_of_steps_keep_the_order_of_the_selections(n_steps) -> None:
    places = list(tts_var(1, n_steps).selections)
    assert places == sorted(set(places))
    assert len(places) == 4
    assert places[-1] < n_steps - 1


def test_controls_share_the_schedule() -> None:
    plans = {method: named_plan(method, 3, 8) for method in ("tts-var", "cluster", "resample", "random")}
    assert len({tuple(plan.sizes(8)) for plan in plans.values()}) == 1
    names = {method: [select.name for _, select in plan.selections.values()] for method, plan in plans.items()}
    assert names["cluster"] == ["cluster", "cluster", "random", "random"]
    assert names["resample"] == ["random", "random", "resample", "resample"]
    assert names["random"] == ["random"] * 4


def test_feynman_kac_checks_fifths_and_the_end() -> None:
    assert list(feynman_kac(4, 100).selections) == [19, 39, 59, 79, 99]
    assert feynman_kac(4, 8).sizes(8) == [4] * 8


def test_only_rewards_that_choose_count() -> None:
    assert [named_plan(method, 1, 8).uses_reward for method in METHODS] == [
        True,
        False,
        True,
        False,
        False,
        False,
        False,
    ]
    assert all(named_plan(method, 2, 8).uses_reward for method in METHODS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: best_of_n(0), "n: expected an integer >= 1, got 0"),
        (lambda: best_of_n(2.0), "n: expected an integer >= 1, got 2.0"),
        (
            lambda: Plan(2, {0: (3, Top())}),
            r"selections\[0\]: expected to keep 1 to 2 candidates, got 3; batches cannot grow",
        ),
        (
            lambda: Plan(4, {2: (3, Top()), 1: (2, Top())}),
            r"selections\[2\]: expected to keep 1 to 2 candidates, got 3",
        ),
        (lambda: Plan(4, {1: (0, Top())}), "expected to keep 1 to 4"),
        (lambda: tts_var(1, 4), "n_steps: expected at least 5 for four selections, got 4"),
        (lambda: feynman_kac(2, 1), "n_steps: expected at least 2"),
        (lambda: named_plan("beam", 2, 8), "method: expected one of tts-var, cluster, resample, random, fk"),
        (lambda: named_plan("best-of-n", 2, 8, lam=3.0), "lam: expected it to be left out, got 3.0"),
    ],
)
def test_bad_plans(make, message) -> None:
    with pytest.raises(UsageError, match=message):
        make()


def test_what_a_generator_cannot_do_is_refused(make_toy) -> None:
    toy = make_toy()
    have = {"reward": True, "features": False}
    with pytest.raises(UsageError, match=r"selections\[7\] \(top\): expected a step of 0 to 4, got 7"):
        Plan(2, {7: (1, Top())}).check(toy, **have)
    for method in ("tts-var", "resample", "fk"):
        with pytest.raises(UsageError, match="expected steps that draw noise, got a deterministic sampler"):
            named_plan(method, 2, 5).check(make_toy(stochastic=False), **have)
    for method in ("best-of-n", "importance", "random", "cluster"):
        named_plan(method, 2, 5).check(make_toy(stochastic=False), **have)
    for method in ("tts-var", "best-of-n"):
        with pytest.raises(UsageError, match="expected a reward"):
            named_plan(method, 2, 5).check(toy, reward=False, features=False)

    class Blind(make_toy):
        preview = features = None

    with pytest.raises(UsageError, match="expected a model with previews, got Blind"):
        Plan(2, {1: (1, Top())}).check(Blind(), **have)
    with pytest.raises(UsageError, match="expected a model with previews, got Blind"):
        Plan(2, {1: (1, Cluster())}).check(Blind(), reward=True, features=True)
    for plan in (best_of_n(4), Plan(4, {1: (2, Random())})):
        plan.check(Blind(), **have)

    class Featureless(make_toy):
        features = None

    with pytest.raises(UsageError, match="expected features, got none"):
        Plan(2, {1: (1, Cluster())}).check(Featureless(), **have)
    Plan(2, {1: (1, Cluster())}).check(Featureless(), reward=True, features=True)
