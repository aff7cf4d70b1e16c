"""The scorer of a pool of actors on a real Ray cluster, and a reward on it."""

import copy
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from geneval_reward import GenEvalScorer
from geneval_reward.errors import ImageError, ScoringError, ServiceError
from geneval_reward.judge import Rules
from geneval_reward.prompts import official_suite
from geneval_reward.ray import RayScorer, score_dataset
from geneval_reward.results.layout import write_prompt_folder
from geneval_reward.scorer import Scorer, fingerprint_id

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


def one_image(folder: Path) -> Path:
    root = folder / "one"
    for number in range(2):
        path = write_prompt_folder(root, number, official_suite()[number]) / "0000.png"
        Image.new("RGB", (16, 16)).save(path)
    return root


def images(values: list[int]) -> list[torch.Tensor]:
    return [torch.full((3, 16, 16), value, dtype=torch.uint8) for value in values]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reward")


@pytest.fixture(scope="module")
def scorer(two_workers: None, folder: Path) -> Iterator[RayScorer]:
    scorer = RayScorer(making(folder), workers=2, start_timeout=300)
    yield scorer
    scorer.close()


def test_the_same_as_in_process(scorer: RayScorer, folder: Path) -> None:
    values = list(range(30))
    local = making(folder)()
    found, expected = (one.score(images(values), PROMPTS[::-1] * 15) for one in (scorer, local))
    assert [verdict.credits() for verdict in found] == [verdict.credits() for verdict in expected]
    assert [verdict.reason for verdict in found] == [verdict.reason for verdict in expected]
    assert {verdict.correct for verdict in found} == {True, False}
    assert isinstance(scorer, Scorer)
    assert scorer.name == local.name
    assert scorer.rules == local.rules == Rules()
    assert fingerprint_id(scorer) == local.fingerprint_id
    assert scorer.to("cpu") is copy.deepcopy(scorer) is scorer
    assert len(set(scorer.process_ids())) == 2
    assert scorer.score([], []) == []


def test_what_is_not_valid_is_not_sent(scorer: RayScorer) -> None:
    with pytest.raises(ImageError, match=r"images\[1\]: expected floats in \[0, 1\]"):
        scorer.score([*images([1]), np.full((16, 16, 3), 5.0)], PROMPTS)
    with pytest.raises(ValueError, match=r"specs: expected 1, one per image, got 2"):
        scorer.score(images([1]), PROMPTS)


def test_calls_from_several_threads(scorer: RayScorer) -> None:
    def one(number: int) -> list[bool]:
        return [verdict.correct for verdict in scorer.score(images([number, number + 1]), [PROMPTS[0]] * 2)]

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(one, range(1, 9))) == [[bool(n % 2), bool((n + 1) % 2)] for n in range(1, 9)]


def test_a_dead_worker_is_replaced_and_its_work_repeated(scorer: RayScorer, folder: Path) -> None:
    values = [1, 3, 200, 5, 2, 4, 7, 9, 6, 8, 11, 13, 15]
    before = set(scorer.process_ids())
    (folder / "log").unlink(missing_ok=True)
    found = scorer.score(images(values), PROMPTS[:1] * 13)
    assert [verdict.correct for verdict in found] == [bool(value % 2) for value in values]
    assert (folder / "killed").exists()
    seen = [int(line) for line in (folder / "log").read_text().split()]
    # Of the piece that was lost, what had been seen is seen again; of all others, each image once.
    assert sorted(set(seen)) == sorted(values)
    assert len(seen) == len(values) + 3
    after = set(scorer.process_ids())
    assert len(after) == 2
    assert len(before & after) == 1


def test_one_bad_image_harms_no_other(scorer: RayScorer) -> None:
    with pytest.raises(
        ScoringError, match=r"1 of 3 images .* images\[1\]: ray: RuntimeError: a broken kernel"
    ) as caught:
        scorer.score(images([1, 201, 2]), [PROMPTS[0]] * 3)
    assert [verdict and verdict.correct for verdict in caught.value.verdicts] == [True, None, False]
    with pytest.raises(ServiceError, match="a broken kernel"):
        scorer.score(images([201]), PROMPTS[:1])
    with pytest.raises(ServiceError, match="got none in 3 tries"):
        scorer.score(images([202]), PROMPTS[:1])
    assert [verdict.correct for verdict in scorer.score(images([1, 2]), [PROMPTS[0]] * 2)] == [True, False]


def test_pickled_it_starts_a_pool_of_its_own(scorer: RayScorer) -> None:
    from ray import cloudpickle

    scorer.close()
    again = pickle.loads(cloudpickle.dumps(scorer))
    assert [verdict.correct for verdict in again.score(images([1, 2]), [PROMPTS[0]] * 2)] == [True, False]
    again.close()


def test_a_cluster_that_others_hold_is_an_error(two_workers: None, folder: Path) -> None:
    import ray

    @ray.remote(num_cpus=2)
    class Trainer:
        def here(self) -> bool:
            return True

    trainer = Trainer.remote()
    assert ray.get(trainer.here.remote())
    crowded = RayScorer(making(folder), start_timeout=1.5)
    message = r"expected room for 2 workers of 1 CPUs and 0 GPUs within 1.5 s, got it for 0; 0 of 2 CPUs are free"
    with pytest.raises(ServiceError, match=message):
        crowded.score(images([1]), PROMPTS[:1])
    with pytest.raises(ServiceError, match=message):
        score_dataset(
            one_image(folder), folder / "out.jsonl", making(folder), workers=2, shard_size=1, start_timeout=1.5
        )
    ray.kill(trainer)
    later = RayScorer(making(folder), workers=1)
    assert later.score(images([1]), PROMPTS[:1])[0].correct
    later.close()
