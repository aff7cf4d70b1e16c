from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geneval_reward.callback.schedule import Schedule


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of .* got none"),
        ({"every_n_train_steps": 2, "on_validation": True}, "got every_n_train_steps and on_validation"),
        ({"every_n_epochs": 0}, "every_n_epochs: expected an integer >= 1, got 0"),
        ({"every_n_train_steps": True}, "every_n_train_steps: expected an integer"),
        ({"every_n_train_steps": 2.5}, "every_n_train_steps: expected an integer"),
    ],
)
def test_refuses_what_is_not_exactly_one_rhythm(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Schedule(**arguments)


@given(st.integers(1, 7), st.lists(st.integers(0, 3), max_size=40))
def test_as_many_rounds_as_multiples_passed(n: int, increments: list[int]) -> None:
    """However steps advance (0: accumulation, 2: two optimizers), no multiple is missed and none fires twice."""
    schedule, step, fired = Schedule(every_n_train_steps=n), 0, []
    for increment in increments:
        step += increment
        if schedule.due_after_step(step):
            fired.append(step)
    assert len(fired) == len(set(fired))
    assert {at // n for at in fired} == set(range(1, step // n + 1)) or max(increments, default=0) > n
    assert not schedule.due_after_step(step)


def test_epochs_count_from_one() -> None:
    schedule = Schedule(every_n_epochs=3)
    assert [epoch for epoch in range(9) if schedule.due_after_epoch(epoch)] == [2, 5, 8]
    assert not schedule.due_after_epoch(8)
    assert not schedule.due_after_step(3)


def test_validation_once_a_step_but_always_outside_of_fit() -> None:
    schedule = Schedule(on_validation=True)
    assert [schedule.due_after_validation(step) for step in (0, 4, 4, 8)] == [True, True, False, True]
    assert schedule.due_after_validation(8, fitting=False)
    assert not Schedule(every_n_epochs=1).due_after_validation(8, fitting=False)


def test_resumed_schedule_goes_on() -> None:
    first = Schedule(every_n_train_steps=4)
    assert first.due_after_step(4)
    second = Schedule(every_n_train_steps=4)
    second.load_state_dict(first.state_dict())
    assert [step for step in range(4, 13) if second.due_after_step(step)] == [8, 12]
