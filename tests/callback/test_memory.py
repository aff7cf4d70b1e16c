"""On a GPU, a round leaves nothing behind."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_painter import QUIET, RECORDS, data, make_painter, make_trainer

from geneval_reward.callback import GenEvalCallback
from geneval_reward.scorer import GenEvalScorer

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"), *QUIET]


def test_no_memory_is_held_between_rounds_and_random_state_comes_back(tmp_path: Path) -> None:
    scorer = GenEvalScorer.from_pretrained("lite", device="cuda").to("cpu")
    held: list[int] = []
    states: list[bool] = []

    class Watched(GenEvalCallback):
        def _round(self, *args: Any) -> None:
            gc.collect()
            before, state = torch.cuda.memory_allocated(), torch.cuda.get_rng_state()
            super()._round(*args)
            gc.collect()
            held.append(torch.cuda.memory_allocated() - before)
            states.append(torch.equal(torch.cuda.get_rng_state(), state))

    def sample(module: Any, prompts: list[str], seeds: list[int]) -> torch.Tensor:
        return torch.rand(len(prompts), 3, 64, 64, device="cuda")

    callback = Watched(scorer, RECORDS, every_n_train_steps=1, sample_fn=sample, offload=True, log_images=2)
    make_trainer(tmp_path, callbacks=[callback], accelerator="gpu").fit(make_painter(), data())
    assert held == [0] * 4
    assert states == [True] * 4
