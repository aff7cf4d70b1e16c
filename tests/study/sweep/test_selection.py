"""Choosing the best: the held-out score is right where the apparent one is not."""

import numpy as np
import pytest
from simulated_runs import simulate_runs

from geneval_reward.study.sweep.selection import select_best
from geneval_reward.study.sweep.timing import note_batch, read_batches, timing

SIZES = dict.fromkeys(("single_object", "two_object", "counting", "colors", "position", "color_attr"), 10)


def runs(accuracies, seed):
    return simulate_runs(
        [dict.fromkeys(SIZES, accuracy) for accuracy in accuracies],
        prompts=SIZES,
        images_per_prompt=2,
        icc=0.3,
        seed=seed,
    )


def test_of_settings_that_are_alike_only_the_held_out_score_is_right() -> None:
    apparent, held, covered = [], [], 0
    for seed in range(60):
        data = runs([0.5] * 12, seed)
        found = select_best(data.correct, data.prompt, data.tag, repeats=8, draws=300)
        apparent.append(found.apparent)
        held.append(found.held_out.value)
        covered += 0.5 in found.held_out.interval
    error = np.std(held) / len(held) ** 0.5
    assert np.mean(apparent) > 0.53
    assert abs(np.mean(held) - 0.5) < 3.5 * error
    assert covered >= 53, "nominal 57 of 60"


def test_a_clear_winner_is_chosen_every_time() -> None:
    data = runs([0.2, 0.9, 0.5], 0)
    found = select_best(data.correct, data.prompt, data.tag, repeats=8, draws=200)
    assert found.best == 1
    assert found.chosen == (0.0, 1.0, 0.0)
    assert found.held_out.value == pytest.approx(found.apparent, abs=1e-9)


def test_a_task_with_one_prompt_cannot_be_split() -> None:
    assert select_best([[1, 0, 1], [0, 1, 1]], [0, 1, 2], ["colors", "colors", "counting"]) is None
    with pytest.raises(ValueError, match=r"expected \(settings, images\)"):
        select_best([[1, 0]], [0], ["colors"])


def test_seconds_by_batches(tmp_path) -> None:
    path = tmp_path / "times.jsonl"
    assert read_batches(path) == []
    assert np.isnan(timing([]).seconds)
    rng = np.random.default_rng(0)
    for _ in range(200):
        note_batch(path, 4, 4 * 0.5 + rng.normal(0, 0.1))
    with path.open("a") as file:
        file.write('{"images": 4, "sec')
    found = timing(read_batches(path))
    assert found.images == 800
    assert found.low < 0.5 < found.high
    assert found.high - found.low == pytest.approx(2 * 1.97 * 0.1 / 4 / 200**0.5, rel=0.15)
    assert found.times(3).seconds == pytest.approx(3 * found.seconds)
    assert np.isnan(timing([(4, 1.0), (4, 2.0), (4, 1.0)]).low)
    path.write_text("nonsense\n" + '{"images": 4, "seconds": 1}\n')
    with pytest.raises(ValueError, match=r"times\.jsonl line 1: expected images and seconds"):
        read_batches(path)
