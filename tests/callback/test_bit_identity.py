"""Training with the callback ends with the very weights that training without it ends with."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from tiny_painter import QUIET, RECORDS, data, make_painter, make_trainer, scorer

from geneval_reward.callback import GenEvalCallback

pytestmark = QUIET


def train(root: Path, *callbacks: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
    pl.seed_everything(7, verbose=False)
    module = make_painter()
    settings: dict[str, Any] = {"max_epochs": 2, "accumulate_grad_batches": 2} | kwargs
    trainer = make_trainer(root, callbacks=list(callbacks), **settings)
    trainer.fit(module, data(), data(1, shuffle=False))
    return {name: value.clone() for name, value in module.state_dict().items()}


def vandal(module: Any, prompts: list[str], seeds: list[int]) -> torch.Tensor:
    """Leaves nothing as it found it."""
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    module.float().train()
    torch.set_autocast_enabled("cpu", False)
    module.net(torch.randn(8, 4))
    module.requires_grad_(True)
    module.double()
    torch.set_grad_enabled(True)
    torch.backends.cudnn.benchmark = True
    torch.set_autocast_enabled("cpu", True)
    return torch.rand(len(prompts), 3, 16, 16)


def failing(module: Any, prompts: list[str], seeds: list[int]) -> torch.Tensor:
    vandal(module, prompts, seeds)
    raise ArithmeticError("no pictures today")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return train(tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize(
    "schedule",
    [{"every_n_train_steps": 1}, {"every_n_epochs": 1}, {"on_validation": True}],
    ids=lambda s: next(iter(s)),
)
@pytest.mark.parametrize("sample_fn", [None, vandal, failing], ids=["generate", "vandal", "failing"])
@pytest.mark.filterwarnings("ignore:GenEvalCallback 'geneval' at step .* ArithmeticError. no pictures today")
def test_bit_identical(
    tmp_path: Path, plain: dict[str, torch.Tensor], schedule: dict[str, Any], sample_fn: Any
) -> None:
    callback = GenEvalCallback(
        scorer(), RECORDS, **schedule, sample_fn=sample_fn, on_error="warn", log_images=0, batch_size=5
    )
    weights = train(tmp_path, callback)
    assert weights.keys() == plain.keys()
    for name, value in plain.items():
        assert torch.equal(weights[name], value), name
    assert bool(callback.last_metrics) == (sample_fn is not failing)


def test_the_comparison_can_fail(tmp_path: Path, plain: dict[str, torch.Tensor]) -> None:
    """A callback that does not give back what it takes is seen by the test above."""

    class Careless(pl.Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            torch.rand(1)

    assert any(not torch.equal(value, plain[name]) for name, value in train(tmp_path, Careless()).items())


def test_a_failing_scorer_leaves_training_intact(tmp_path: Path, plain: dict[str, torch.Tensor]) -> None:
    class Broken:
        name = "broken"

        def detect(self, images: Any, wanted: Any) -> Any:
            raise RuntimeError("detector fell over")

        def fingerprint(self) -> dict[str, Any]:
            return {}

    judge = scorer()
    judge.detector = Broken()  # type: ignore[assignment]
    with pytest.warns(UserWarning, match="RuntimeError: detector fell over; training goes on"):
        weights = train(tmp_path, GenEvalCallback(judge, RECORDS, every_n_epochs=2, on_error="warn"))
    assert all(torch.equal(weights[name], value) for name, value in plain.items())


def test_a_pipelines_schedule_is_not_disturbed() -> None:
    """A training step that draws from the scheduler of the pipeline must not see the steps of sampling."""
    diffusers = pytest.importorskip("diffusers")
    from geneval_reward.callback.sampler import Sampler

    class Pipeline(diffusers.DiffusionPipeline):  # type: ignore[misc]
        def __init__(self, scheduler: Any, net: Any) -> None:
            super().__init__()
            self.register_modules(scheduler=scheduler, net=net)

    module = make_painter()
    module.pipe = Pipeline(diffusers.FlowMatchEulerDiscreteScheduler(), torch.nn.Dropout())
    scheduler = module.pipe.scheduler
    before = scheduler.sigmas.clone()
    sampler = Sampler(module, lambda *_: None)
    assert module.pipe.net in sampler.modules(), "what only the pipeline holds is given back too"
    with sampler.sampling():
        module.pipe.scheduler.set_timesteps(3)
        assert not module.pipe.net.training
    assert module.pipe.scheduler is scheduler
    assert torch.equal(scheduler.sigmas, before)
