import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geneval_reward.rl import (
    ema_decay,
    ema_update_,
    flow_sigmas,
    num_train_steps,
    permuted_steps,
    progressive_window,
    random_window,
)


def test_ema_decay_warms_up():
    assert [ema_decay(s) for s in (0, 8, 80, 81)] == pytest.approx([0.1, 0.5, 0.9, 0.9])
    assert ema_decay(10**6, 0.999) == 0.999


def test_ema_update():
    average, current = [torch.tensor([1.0, 2.0]), torch.zeros(2, 2)], [torch.tensor([3.0, 3.0]), torch.ones(2, 2)]
    ema_update_(average, iter(current), 0.75)
    assert average[0].tolist() == pytest.approx([1.5, 2.25])
    assert average[1].tolist() == [[0.25, 0.25], [0.25, 0.25]]


def test_ema_update_with_decay_zero_copies_and_one_keeps():
    current = torch.randn(100, dtype=torch.float64)
    average = torch.randn(100)
    kept = average.clone()
    ema_update_([average], [current], 1.0)
    assert torch.equal(average, kept)
    ema_update_([average], [current], 0.0)
    assert torch.equal(average, current.float())


def test_ema_update_on_parameters_keeps_no_graph():
    old, new = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    ema_update_(old.parameters(), new.parameters(), 0.0)
    assert torch.equal(old.weight, new.weight)
    assert old.weight.grad_fn is None


def test_ema_update_refuses_whole():
    average = torch.zeros(2)
    with pytest.raises(ValueError, match="got 2 and 1 tensors"):
        ema_update_([average, torch.zeros(1)], [torch.ones(2)], 0.5)
    with pytest.raises(ValueError, match="decay: expected"):
        ema_update_([average], [torch.ones(2)], 1.5)
    assert not average.any()


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 60), st.floats(0.2, 10))
def test_sigmas_fall_from_one_to_zero(n, shift):
    sigmas = flow_sigmas(n, shift=shift)
    assert (sigmas[0], sigmas[-1], len(sigmas)) == (1, 0, n + 1)
    assert (sigmas.diff() < 0).all()


def test_shift_moves_towards_noise():
    assert flow_sigmas(2, shift=3.0).tolist() == [1.0, 0.75, 0.0]


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 50), st.integers(1, 5), st.floats(0.05, 1))
def test_permuted_steps_are_distinct(num_steps, batch, fraction):
    steps = permuted_steps(batch, num_steps, fraction=fraction)
    assert steps.shape == (batch, num_train_steps(num_steps, fraction))
    assert all(len(set(row.tolist())) == steps.shape[1] for row in steps)
    assert steps.min() >= 0
    assert steps.max() < num_steps


def test_permuted_steps_are_seeded_and_differ_between_samples():
    first, second = (permuted_steps(8, 10, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert len({tuple(row.tolist()) for row in first}) > 4
    # Every step is left out for some sample sooner or later, unlike a cut at the end.
    many = permuted_steps(400, 10, generator=torch.Generator().manual_seed(0))
    assert set(range(10)) == {(set(range(10)) - set(row.tolist())).pop() for row in many}


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 3000), st.integers(1, 30), st.data())
def test_progressive_window_fits_and_only_moves_on(iteration, num_steps, data):
    size = data.draw(st.integers(1, num_steps))
    options = {"size": size, "every": data.draw(st.integers(1, 30))}
    start, end = progressive_window(iteration, num_steps, **options)
    later, _ = progressive_window(iteration + 1, num_steps, **options)
    assert 0 <= start < end <= num_steps
    assert end - start == size
    assert 0 <= later - start <= 1


def test_progressive_window_ends():
    seen = [progressive_window(i, 6, size=4, every=1) for i in range(5)]
    assert seen == [(0, 4), (1, 5), (2, 6), (2, 6), (2, 6)]


def test_random_window_covers_all_its_places():
    g = torch.Generator().manual_seed(0)
    assert {random_window(10, generator=g) for _ in range(100)} == {(0, 3), (1, 4), (2, 5)}
    assert {random_window(10, size=2, bounds=(8, 10), generator=g) for _ in range(5)} == {(8, 10)}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ema_decay(1, 2.0), "max_decay in"),
        (lambda: flow_sigmas(0), "num_steps >= 1"),
        (lambda: flow_sigmas(4, shift=0.0), "shift > 0"),
        (lambda: num_train_steps(10, 0.0), "fraction in"),
        (lambda: progressive_window(0, 3, size=4), "size: expected a window of 1 to 3 steps"),
        (lambda: progressive_window(-1, 10), "iteration >= 0"),
        (lambda: random_window(4), "size: expected a window of 1 to 2 steps"),
        (lambda: random_window(10, bounds=(5, 11)), "bounds: expected"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
