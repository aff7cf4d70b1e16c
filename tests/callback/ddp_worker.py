"""One of the processes of `test_ddp.py`: runs every scenario in one process group and writes down what it saw.

torchrun --nproc-per-node 2 ddp_worker.py FOLDER
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, WeightAveraging
from lightning.pytorch.loggers import CSVLogger
from tiny_painter import RECORDS, data, make_painter, make_trainer, scorer

from geneval_reward.callback import GenEvalCallback

warnings.simplefilter("ignore")
RANK = int(os.environ["RANK"])


class Recorder:
    """Samples as the module does, and keeps digests of what was made."""

    def __init__(self) -> None:
        self.images: dict[str, float] = {}

    def __call__(self, module: Any, prompts: list[str], seeds: list[int]) -> Any:
        images = module.generate(prompts, seeds)
        self.images |= {f"{p}/{s}": float(i.sum()) for p, s, i in zip(prompts, seeds, images, strict=True)}
        return images


def fail_on(rank: int) -> Any:
    def sample(module: Any, prompts: list[str], seeds: list[int]) -> Any:
        if rank == RANK:
            raise ArithmeticError(f"no pictures on rank {rank}")
        return module.generate(prompts, seeds)

    return sample


class BrokenLogger(CSVLogger):
    """Fails on rank 0, the only one that logs."""

    def log_metrics(self, metrics: Any, step: Any = None) -> None:
        if any(key.startswith("geneval/") for key in metrics):
            raise OSError("disk is full")


def fit(folder: Path, callback: GenEvalCallback, *others: Any, **kwargs: Any) -> dict[str, Any]:
    pl.seed_everything(0, verbose=False)
    settings = {"devices": 2, "strategy": "ddp", "enable_checkpointing": bool(others)} | kwargs
    trainer = make_trainer(folder, callbacks=[*others, callback], **settings)
    error = ""
    module = make_painter()
    try:
        trainer.fit(module, data(4), data(2, shuffle=False))
    except Exception as caught:  # noqa: BLE001
        error = f"{type(caught).__name__}: {caught}"
    return {
        "metrics": {key: value.item() for key, value in trainer.callback_metrics.items() if key.startswith("geneval")},
        "error": error,
        "calls": sum(len(call) for call in module.calls),
        "step": trainer.global_step,
        "weights": [float(p.double().sum()) for p in module.parameters()],
    }


def main(folder: Path) -> None:
    found: dict[str, Any] = {}

    def run(name: str, prompts: Any, *others: Any, trainer: Any = None, **kwargs: Any) -> None:
        recorder = Recorder()
        arguments = {"every_n_train_steps": 1, "sample_fn": recorder, "log_images": 2} | kwargs
        callback = GenEvalCallback(scorer(), prompts, **arguments)
        found[name] = fit(folder / name, callback, *others, **trainer or {}) | {"images": recorder.images}

    run("uneven", RECORDS[:5], images_per_prompt=1, batch_size=2)
    run("zero share", RECORDS[:1])
    run("validation", RECORDS, every_n_train_steps=None, on_validation=True)
    run("budget", "20/task", max_seconds=0.02, batch_size=4)
    run("fraction", RECORDS, max_fraction=0.2)
    run("ema", RECORDS, WeightAveraging(), weights="ema")
    run("one fails", RECORDS, sample_fn=fail_on(1))
    run("one fails, warned", RECORDS, sample_fn=fail_on(0), on_error="warn")
    run("logger fails", RECORDS, trainer={"logger": BrokenLogger(folder / "logs")})
    stop = EarlyStopping("geneval/overall", mode="max", patience=1)
    best = ModelCheckpoint(folder / "best", "{step}", monitor="geneval/overall", mode="max", every_n_train_steps=1)
    run("monitored", RECORDS, stop, best, trainer={"max_epochs": 8})
    found["best"] = best.best_model_path
    (folder / f"rank{RANK}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
