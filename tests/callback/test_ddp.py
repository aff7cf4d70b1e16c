"""Two processes, gloo: all ranks log the same, an error on one ends all, nothing hangs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_painter import QUIET, RECORDS, data, make_painter, make_trainer, scorer

from geneval_reward.callback import GenEvalCallback

pytestmark = [pytest.mark.slow, *QUIET]

Ranks = list[dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All scenarios in one start of two processes; a hang fails by the time limit."""
    folder = tmp_path_factory.mktemp("ddp")
    here = Path(__file__).parent
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{here}{os.pathsep}{Path.cwd()}"}
    done = subprocess.run(
        [*command, str(here / "ddp_worker.py"), str(folder)],
        env=environment,
        timeout=240,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> Ranks:
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize(
    ("scenario", "images"),
    [("uneven", 5), ("zero share", 1), ("validation", 8), ("fraction", 8), ("ema", 8), ("monitored", 8)],
)
def test_all_ranks_log_the_same_number_of_all_images(ranks: Ranks, scenario: str, images: int) -> None:
    first, second = (rank[scenario] for rank in ranks)
    assert first["error"] == second["error"] == ""
    assert first["metrics"] == second["metrics"]
    assert first["metrics"]["geneval/n"] == images
    assert first["weights"] == second["weights"]


def test_shares(ranks: Ranks) -> None:
    assert [rank["uneven"]["calls"] for rank in ranks] == [3 * 2, 2 * 2]
    assert [rank["zero share"]["calls"] for rank in ranks] == [2, 0]


def test_budget_is_balanced_and_common(ranks: Ranks) -> None:
    first, second = (rank["budget"] for rank in ranks)
    assert first["metrics"] == second["metrics"]
    assert first["metrics"]["geneval/n"] % 6 == 0
    assert 6 <= first["metrics"]["geneval/n"] < 120


def test_images_do_not_depend_on_world_size(ranks: Ranks, tmp_path: Path) -> None:
    """The images themselves; with weights that do not depend on the number of processes: those before training."""
    seen: dict[str, float] = {}

    def sample(module: Any, prompts: list[str], seeds: list[int]) -> Any:
        images = [torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        seen.update({f"{p}/{s}": float(i.sum()) for p, s, i in zip(prompts, seeds, images, strict=True)})
        return images

    callback = GenEvalCallback(scorer(), RECORDS[:5], every_n_epochs=1, sample_fn=sample, log_images=0)
    make_trainer(tmp_path, callbacks=[callback]).fit(make_painter(), data(2))
    split = [rank["uneven"]["images"] for rank in ranks]
    assert not split[0].keys() & split[1].keys()
    assert seen.keys() == split[0].keys() | split[1].keys()
    for key, total in (split[0] | split[1]).items():
        # Only the first pixel is the weights' work: three values of at most 1.
        assert abs(total - seen[key]) < 3


def test_an_error_on_one_rank_ends_all_with_its_message(ranks: Ranks) -> None:
    for rank in ranks:
        assert "rank 1: ArithmeticError: no pictures on rank 1" in rank["one fails"]["error"]
        assert rank["one fails"]["error"].startswith("RoundError: GenEvalCallback 'geneval' at step 1:")


def test_a_warning_lets_all_ranks_go_on(ranks: Ranks) -> None:
    first, second = (rank["one fails, warned"] for rank in ranks)
    assert first["error"] == second["error"] == ""
    assert first["step"] == second["step"] == 2
    assert first["weights"] == second["weights"]
    assert first["metrics"] == second["metrics"] == {}


def test_a_logger_that_fails_on_rank_0_ends_nothing(ranks: Ranks) -> None:
    first, second = (rank["logger fails"] for rank in ranks)
    assert first["error"] == second["error"] == ""
    assert first["metrics"] == second["metrics"] != {}


def test_checkpoint_and_early_stopping_agree(ranks: Ranks) -> None:
    assert ranks[0]["best"] == ranks[1]["best"] != ""
    assert ranks[0]["monitored"]["step"] == ranks[1]["monitored"]["step"]


def test_files_are_written_once(folder: Path) -> None:
    lines = (folder / "uneven/geneval/step-00000001/results.jsonl").read_text().splitlines()
    assert len(lines) == 5
    assert len({json.loads(line)["filename"] for line in lines}) == 5
