"""What can be said without a cluster."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from geneval_reward.cli import app
from geneval_reward.errors import DependencyError, ServiceError
from geneval_reward.ray import RayScorer, score_dataset
from geneval_reward.ray.pool import Description, ScoringActor
from geneval_reward.ray.runtime import Recipe, Share, Workers, await_room, connect, share
from geneval_reward.ray.scorer import piece_size
from geneval_reward.testing import FakeDetector, scorer_for


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)


@pytest.mark.usefixtures("no_ray")
def test_a_missing_ray_is_named_with_its_extra(sixteen: Path, tmp_path: Path) -> None:
    for call in (lambda: score_dataset(sixteen, tmp_path / "out.jsonl"), RayScorer):
        with pytest.raises(DependencyError, match=r"pip install 'geneval-reward\[ray\]'"):
            call()
    result = CliRunner().invoke(app, ["score", str(sixteen), "--out", str(tmp_path / "out.jsonl"), "--engine", "ray"])
    assert isinstance(result.exception, DependencyError)
    assert "pip install 'geneval-reward[ray]'" in str(result.exception)


@pytest.mark.parametrize(
    ("images", "workers", "limit", "expected"),
    [(0, 2, 16, 1), (1, 2, 16, 1), (32, 2, 16, 16), (33, 2, 16, 9), (40, 2, 16, 10), (64, 3, 16, 11), (30, 2, 4, 4),
     (100, 1, 16, 15)],
)  # fmt: skip
def test_pieces_are_equal_and_as_many_for_each_worker(images: int, workers: int, limit: int, expected: int) -> None:
    size = piece_size(images, workers, limit)
    assert size == expected
    assert size <= limit
    # The busiest worker has at most a piece's rounding more than its share.
    pieces = -(-images // size)
    assert -(-pieces // workers) * size <= -(-images // workers) + size // 2 + 1


class TwoWorkers:
    """Stands for a pool of two actors, and keeps the sizes of the pieces."""

    def __init__(self, *_: object) -> None:
        self.actor = ScoringActor(Recipe(lambda: scorer_for(FakeDetector(found), batch_size=16)))
        self.sizes: list[int] = []

    def __len__(self) -> int:
        return 2

    def describe(self) -> Description:
        return self.actor.describe()

    def map(self, method: str, calls: list[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        self.sizes = [len(call[0]) for call in calls]
        for number in reversed(range(len(calls))):  # the last piece may be done first
            yield number, getattr(self.actor, method)(*calls[number])


def found(image: torch.Tensor) -> dict[str, Any]:
    return {"bench": [[1, 1, 9, 9, 0.8]]} if int(image[0, 0, 0]) % 2 else {}


def test_a_batch_goes_out_in_equal_pieces_and_comes_back_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    pools: list[TwoWorkers] = []
    monkeypatch.setattr("geneval_reward.ray.scorer.ActorPool", lambda *given: pools.append(TwoWorkers()) or pools[-1])
    scorer = RayScorer("lite")
    values = [number % 3 for number in range(40)]
    images = [torch.full((3, 16, 16), value, dtype=torch.uint8) for value in values]
    verdicts = scorer.score(images, ["a photo of a bench"] * 40)
    assert [verdict.correct for verdict in verdicts] == [value == 1 for value in values]
    assert pools[0].sizes == [10, 10, 10, 10]
    assert scorer.score([], []) == []


@pytest.mark.slow
def test_nothing_imports_ray_unasked() -> None:
    code = (
        "import sys, geneval_reward.ray, geneval_reward.ray.dataset, geneval_reward.ray.scorer, geneval_reward.cli\n"
        "print([name for name in sys.modules if name.partition('.')[0] == 'ray'])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "spark"], "--engine: expected local or ray, got 'spark'"),
        (["--workers", "2"], "--workers: expected it with --engine ray, got the local engine"),
    ],
)
def test_options_that_do_not_fit(sixteen: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["score", str(sixteen), "--out", str(tmp_path / "out.jsonl"), *arguments])
    assert isinstance(result.exception, ValueError)
    assert message in str(result.exception)


def test_recipes() -> None:
    scorer = scorer_for(FakeDetector({}))
    assert Recipe(lambda: scorer).make() is scorer
    assert Recipe("lite", {"device": "cpu"}).make().name == "lite"
    with pytest.raises(ValueError, match="scorer: expected a name or a function, got a scorer"):
        Recipe(scorer)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="device: expected no options beside a function"):
        Recipe(lambda: scorer, {"device": "cpu"})


class Cluster:
    def __init__(self, **resources: float) -> None:
        self.resources = resources

    def cluster_resources(self) -> dict[str, float]:
        return self.resources


def test_how_a_cluster_is_shared(caplog: pytest.LogCaptureFixture) -> None:
    gpus = Cluster(CPU=64.0, GPU=8.0)
    assert (share(gpus, Workers()).count, share(gpus, Workers()).gpus) == (8, 1.0)
    assert share(gpus, Workers(gpus=0.5)).count == 16
    assert share(gpus, Workers(gpus=0)).count == 64
    assert share(gpus, Workers(3)).count == 3
    assert share(gpus, Workers(), at_most=2).count == 2
    assert share(Cluster(CPU=6.0), Workers(cpus=2)).count == 3
    assert share(Cluster(CPU=6.0), Workers(9, cpus=2)).count == 3
    assert "9 workers asked for, room for 3" in caplog.text
    for arguments in ((0, 1, None), (None, 0, None), (None, 1, -1.0), (None, 7, None), (None, 1, 1.0), (1, 1, 0, 0)):
        with pytest.raises(ValueError, match="expected"):
            share(Cluster(CPU=6.0), Workers(*arguments))


class Crowded(Cluster):
    """Others hold all but one CPU; a worker more starts with each wait."""

    def __init__(self, **resources: float) -> None:
        super().__init__(**resources)
        self.waits: list[float] = []
        self.wanted: list[int] = []
        self.started = 0

    def available_resources(self) -> dict[str, float]:
        return {"CPU": 1.0}

    def wait(self, references: list[int], *, num_returns: int, timeout: float) -> tuple[list[int], list[int]]:
        self.wanted.append(num_returns)
        self.waits.append(timeout)
        self.started += 1
        return references[: self.started], references[self.started :]


def test_a_wait_for_room_is_told_and_ends(caplog: pytest.LogCaptureFixture) -> None:
    ray = Crowded(CPU=4.0, GPU=2.0)
    message = "expected room for 3 workers of 1 CPUs and 1 GPUs within 120 s, got it for 2; 1 of 4 CPUs and 0 of 2 GPUs are free"
    with pytest.raises(ServiceError, match=message):
        await_room(ray, [0, 1, 2], Share(3, 1, 1), 120)
    assert ray.waits == [10, 110]
    assert ray.wanted == [3, 3]
    assert "2 of 3 workers wait for room; 1 of 4 CPUs" in caplog.text
    ray = Crowded(CPU=4.0)
    await_room(ray, [0, 1], Share(2, 1, 0), 60)
    assert ray.waits == [10, 50]
    ray = Crowded(CPU=4.0)
    await_room(ray, [0], Share(1, 1, 0), 2)
    assert ray.waits == [2]


def test_some_workers_are_enough_where_no_number_was_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    ray = Crowded(CPU=4.0)
    assert await_room(ray, [0, 1, 2], Share(3, 1, 0), 120, enough=1) == [0]
    assert ray.waits == [10]
    ray = Crowded(CPU=4.0)
    assert await_room(ray, [0, 1, 2], Share(3, 1, 0), 120, enough=2) == [0, 1]
    assert (ray.waits, ray.wanted) == ([10, 110], [3, 2])


def test_a_cluster_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")

    def fail(**options: object) -> None:
        raise TimeoutError("a page\nof\n\ntext")

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(
        ServiceError, match=r"^ray: expected a cluster at nowhere:1, got TimeoutError: a page of text; .*RAY_ADDRESS"
    ):
        connect("nowhere:1")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ServiceError, match=r"to start on this machine, got .*RAY_raylet_start_wait_time_s=240"):
        connect()
