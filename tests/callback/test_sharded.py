"""Weights spread over two processes (gloo): the same scores as on one, nothing hangs, an error on one rank ends all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sharded_worker import STEPS, fit
from tiny_painter import QUIET, RECORDS, scorer

from geneval_reward.callback import GenEvalCallback

pytestmark = [pytest.mark.slow, *QUIET]

LAYOUTS = ["fsdp", "fsdp by block", "fully_shard", "tensor parallel"]
SOME = ["fsdp by block", "fully_shard"]


def start(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    here = Path(__file__).parent
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{here}{os.pathsep}{Path.cwd()}"}
    return subprocess.run(
        [*command, str(here / "sharded_worker.py"), str(folder), *arguments],
        env=environment,
        timeout=300,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("sharded")
    done = start(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same training in one process."""
    callback = GenEvalCallback(scorer(), RECORDS[:5], every_n_train_steps=2, batch_size=2, log_images=1)
    return fit(tmp_path_factory.mktemp("alone"), "auto", callback, devices=1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scores_and_images_equal_those_of_one_process(
    ranks: list[dict[str, Any]], alone: dict[str, Any], layout: str
) -> None:
    first, second = (rank[layout] for rank in ranks)
    assert first["error"] == second["error"] == ""
    assert first["step"] == second["step"] == alone["step"] == 4
    assert first["metrics"] == second["metrics"]
    assert first["metrics"]["geneval/n"] == 5
    without_time = [{k: v for k, v in run["metrics"].items() if k != "geneval/seconds"} for run in (first, alone)]
    assert without_time[0] == without_time[1]
    images = first["images"] | second["images"]
    assert images.keys() == alone["images"].keys()
    for key, level in images.items():
        assert level == pytest.approx(alone["images"][key], abs=1e-5), key


@pytest.mark.parametrize("layout", [*LAYOUTS, "ddp"])
def test_training_is_the_same_with_and_without_rounds(ranks: list[dict[str, Any]], layout: str) -> None:
    for rank in ranks:
        assert rank[layout]["weights"] == rank[f"{layout}, without"]["weights"]


def test_shards_are_shards(ranks: list[dict[str, Any]]) -> None:
    for layout in LAYOUTS:
        assert ranks[0][layout]["weights"] != ranks[1][layout]["weights"]


def test_shares_are_padded_only_where_weights_are_sharded(ranks: list[dict[str, Any]]) -> None:
    rounds = 2
    assert [rank["ddp"]["passes"] for rank in ranks] == [2 * rounds * STEPS, 1 * rounds * STEPS]
    for layout in LAYOUTS[:3]:
        assert [rank[layout]["passes"] for rank in ranks] == [2 * rounds * STEPS] * 2
    # Both ranks hold one replica: each makes all five images.
    assert [rank["tensor parallel"]["passes"] for rank in ranks] == [3 * rounds * STEPS] * 2


@pytest.mark.parametrize("layout", SOME)
def test_a_rank_without_prompts_keeps_in_step(ranks: list[dict[str, Any]], layout: str) -> None:
    first, second = (rank[f"{layout}, one prompt"] for rank in ranks)
    assert first["error"] == second["error"] == ""
    assert first["metrics"] == second["metrics"]
    assert first["metrics"]["geneval/n"] == 1
    assert first["passes"] == second["passes"]


@pytest.mark.parametrize("layout", SOME)
def test_a_budget_is_common(ranks: list[dict[str, Any]], layout: str) -> None:
    first, second = (rank[f"{layout}, budget"] for rank in ranks)
    assert first["metrics"] == second["metrics"]
    assert 6 <= first["metrics"]["geneval/n"] < 24


@pytest.mark.parametrize("layout", SOME)
def test_an_error_in_judging_ends_all_or_lets_all_go_on(ranks: list[dict[str, Any]], layout: str) -> None:
    for rank in ranks:
        assert "rank 1: ArithmeticError: no verdicts on rank 1" in rank[f"{layout}, raised"]["error"]
        assert rank[f"{layout}, warned"]["error"] == ""
        assert rank[f"{layout}, warned"]["step"] == 4
        assert rank[f"{layout}, warned"]["metrics"] == {}


@pytest.mark.parametrize("layout", SOME)
def test_an_audit_gives_all_ranks_its_numbers(ranks: list[dict[str, Any]], layout: str) -> None:
    first, second = (rank[f"{layout}, audit"] for rank in ranks)
    assert first["error"] == second["error"] == ""
    assert first["passes"] == second["passes"]
    assert first["metrics"] == second["metrics"]
    assert "geneval/audit_gap" in first["metrics"]


def test_sampling_that_breaks_on_one_rank_ends_the_run(tmp_path: Path) -> None:
    done = start(tmp_path, "break")
    assert done.returncode != 0
    text = done.stdout + done.stderr
    assert "rank 1: OutOfStepError: GenEvalCallback 'geneval' at step 1: ArithmeticError: no pictures on rank 1" in text
