from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geneval_reward.callback.budget import Budget


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    "arguments", [{"max_seconds": 0}, {"max_seconds": math.inf}, {"max_fraction": 0}, {"max_fraction": 1.0}]
)
def test_refuses_bounds_out_of_range(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(arguments))}: expected"):
        Budget(**arguments)


def test_unlimited() -> None:
    budget = Budget()
    assert not budget.limited
    assert budget.allowed() == math.inf
    assert budget.permits_round(math.inf)


def test_seconds_bound_waves_but_never_the_first() -> None:
    budget = Budget(max_seconds=10)
    budget.wave_seconds, budget.fixed_seconds = 4.0, 1.0
    assert [budget.permits_wave(budget.allowed(), elapsed) for elapsed in (4.0, 5.0, 5.1)] == [True, True, False]
    budget.wave_seconds = 99.0
    assert budget.permits_round(budget.allowed())


def test_fraction_is_of_wall_time_and_saved_up() -> None:
    clock = Clock()
    budget = Budget(max_fraction=0.1, clock=clock)
    budget.start()
    clock.now = 90.0
    assert budget.allowed() == pytest.approx(10.0)
    assert budget.permits_round(budget.allowed())  # nothing is known of the cost yet
    clock.now, budget.spent_seconds, budget.wave_seconds = 102.0, 12.0, 5.0
    assert budget.training_seconds == pytest.approx(90.0)
    assert not budget.permits_round(budget.allowed())
    clock.now = 102.0 + 70.0
    assert budget.permits_round(budget.allowed())


def test_fraction_does_not_bind_outside_of_training() -> None:
    assert Budget(max_fraction=0.1).allowed() == math.inf


def test_state_goes_on_after_a_break() -> None:
    clock = Clock()
    first = Budget(max_fraction=0.1, clock=clock)
    first.start()
    clock.now, first.spent_seconds, first.wave_seconds = 50.0, 5.0, 1.0
    second = Budget(max_fraction=0.1, clock=clock)
    second.load_state_dict(first.state_dict())
    clock.now = 1000.0  # the break does not count
    second.start()
    clock.now = 1010.0
    assert second.training_seconds == pytest.approx(55.0)
    second.stop()
    clock.now = 2000.0
    assert second.training_seconds == pytest.approx(55.0)


@settings(max_examples=50)
@given(st.floats(0.02, 0.3), st.floats(0.2, 3.0), st.floats(0.05, 1.0), st.integers(1, 20), st.floats(0.05, 1.0))
def test_share_is_kept(fraction: float, wave: float, fixed: float, every: int, step_seconds: float) -> None:
    """Whatever a wave costs: within the share after a while, and most of it used where rounds come often enough."""
    clock = Clock()
    budget = Budget(max_fraction=fraction, clock=clock)
    budget.start()
    step = 0
    while clock.now < 300 * (wave + fixed):
        clock.now += step_seconds
        step += 1
        if step % every:
            continue
        allowed = budget.allowed()
        if not budget.permits_round(allowed):
            continue
        elapsed = 0.0
        while True:
            budget.wave_seconds = wave
            elapsed += wave
            if not budget.permits_wave(allowed, elapsed):
                break
        budget.fixed_seconds = fixed
        clock.now += elapsed + fixed
        budget.spent_seconds += elapsed + fixed
    share = budget.spent_seconds / clock.now
    assert share <= fraction + 0.01
    assert share >= fraction * 0.6 or every * step_seconds * fraction < wave + fixed
