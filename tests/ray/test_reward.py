"""The reward by a pool of actors on a real Ray cluster."""

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from geneval_reward import GenEvalScorer
from geneval_reward.errors import ServiceError
from geneval_reward.ray import RayGenEvalReward
from geneval_reward.reward import GenEvalReward

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("two_workers")]

PROMPTS = ["a photo of a bench", "a photo of a cow"]


def making(folder: Path) -> Callable[[], GenEvalScorer]:
    """Images are benches where their first pixel is odd. Of 200 on, something happens to the worker."""

    def make() -> GenEvalScorer:
        import os
        import signal

        from geneval_reward.testing import FakeDetector, scorer_for

        def found(image: Any) -> dict[str, Any]:
            value = int(image[0, 0, 0])
            with open(folder / "log", "a") as file:
                file.write(f"{value}\n")
            if value == 200 and not (folder / "killed").exists():
                (folder / "killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if value == 201:
                raise RuntimeError("a broken kernel")
            if value == 202:
                os.kill(os.getpid(), signal.SIGKILL)
            return {"bench": [[1, 1, 9, 9, 0.8]]} if value % 2 else {}

        return scorer_for(FakeDetector(found), batch_size=4)

    return make


def images(values: list[int]) -> list[torch.Tensor]:
    return [torch.full((3, 16, 16), value, dtype=torch.uint8) for value in values]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reward")


@pytest.fixture(scope="module")
def reward(two_workers: None, folder: Path) -> Iterator[RayGenEvalReward]:
    reward = RayGenEvalReward(making(folder), "partial")
    yield reward
    reward.close()


def test_the_same_as_in_process(reward: RayGenEvalReward, folder: Path) -> None:
    values = list(range(30))
    local = GenEvalReward(making(folder), "partial")
    batch, expected = (r.score(images(values), PROMPTS[::-1] * 15) for r in (reward, local))
    assert batch.rewards == expected.rewards
    assert set(batch.rewards) == {0.0, 1.0}
    assert [verdict.reason for verdict in batch.verdicts if verdict] == [v.reason for v in expected.verdicts if v]
    assert batch.credits() == expected.credits()
    assert isinstance(reward, GenEvalReward)
    assert len(set(reward.scorer.pids())) == 2
    assert reward.scorer.fingerprint_id == local.scorer.fingerprint_id


def test_none_for_what_cannot_be_scored(reward: RayGenEvalReward) -> None:
    batch = [*images([1, 3]), np.full((16, 16, 3), 5.0)]
    assert reward(batch, [PROMPTS[0], "a photo of nobody", PROMPTS[0]]) == [1.0, None, None]
    assert reward(images([1]), [PROMPTS[0]]) == [1.0]
    with pytest.raises(ValueError, match="expected at least one sample that can be scored"):
        reward(images([1]), ["a photo of nobody"])


def test_submitted_batches_come_back_in_order(reward: RayGenEvalReward) -> None:
    futures = [reward.submit(images([number, number + 1]), [PROMPTS[0]] * 2) for number in range(1, 9)]
    assert [future.result().rewards for future in futures] == [[float(n % 2), float((n + 1) % 2)] for n in range(1, 9)]


def test_a_dead_worker_is_replaced_and_its_work_repeated(reward: RayGenEvalReward, folder: Path) -> None:
    values = [1, 3, 200, 5, 2, 4, 7, 9, 6, 8, 11, 13, 15]
    (folder / "log").unlink(missing_ok=True)
    before = set(reward.scorer.pids())
    assert reward(images(values), PROMPTS[:1] * 13) == [float(value % 2) for value in values]
    assert (folder / "killed").exists()
    seen = [int(line) for line in (folder / "log").read_text().split()]
    # Of the piece that was lost, what had been seen is seen again; of all others, each image once.
    assert sorted(set(seen)) == sorted(values)
    assert len(seen) == len(values) + 3
    after = set(reward.scorer.pids())
    assert len(after) == 2
    assert len(before & after) == 1


def test_what_no_worker_can_do_is_an_error(reward: RayGenEvalReward) -> None:
    with pytest.raises(ServiceError, match="got RuntimeError: a broken kernel"):
        reward(images([1, 201]), [PROMPTS[0]] * 2)
    with pytest.raises(ServiceError, match="got none in 3 tries"):
        reward(images([1, 202]), [PROMPTS[0]] * 2)
    assert reward(images([1, 2]), [PROMPTS[0]] * 2) == [1.0, 0.0]


def test_pickled_it_starts_a_pool_of_its_own(reward: RayGenEvalReward, folder: Path) -> None:
    from ray import cloudpickle

    reward.close()
    copy = pickle.loads(cloudpickle.dumps(reward))
    assert copy(images([1, 2]), [PROMPTS[0]] * 2) == [1.0, 0.0]
    copy.close()


def test_a_cluster_that_others_hold_is_an_error(two_workers: None, folder: Path) -> None:
    import ray

    @ray.remote(num_cpus=2)
    class Trainer:
        def here(self) -> bool:
            return True

    trainer = Trainer.remote()
    assert ray.get(trainer.here.remote())
    crowded = RayGenEvalReward(making(folder), start_timeout=1.5)
    message = r"expected room for 2 workers of 1 CPUs and 0 GPUs within 1.5 s, got it for 0; 0 of 2 CPUs are free"
    with pytest.raises(ServiceError, match=message):
        crowded.score(images([1]), PROMPTS[:1])
    ray.kill(trainer)
    later = RayGenEvalReward(making(folder), workers=1)
    assert later(images([1]), PROMPTS[:1]) == [1.0]
    later.close()
