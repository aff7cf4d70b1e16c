"""One of the processes of `test_sharded.py`: trains with weights spread over two ranks, and writes down what it saw.

torchrun --nproc-per-node 2 sharded_worker.py FOLDER [SCENARIO]
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
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from tiny_painter import RECORDS, data, make_trainer, scorer
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from geneval_reward.callback import GenEvalCallback
from geneval_reward.train.audit import AuditCallback

STEPS = 3


class CPUFSDPStrategy(FSDPStrategy):
    """Lightning refuses its own class on a CPU by name, and FSDP takes a CPU only where it is asked for."""

    def _setup_model(self, model: nn.Module) -> nn.Module:
        return FullyShardedDataParallel(model, device_id=torch.device("cpu"), **self.kwargs)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.tanh(self.up(x)))


class DeepPainter(pl.LightningModule):
    """Paints squares whose brightness takes several passes through all of its weights."""

    def __init__(self, layout: str = "") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Linear(4, 4)
        self.layout = layout
        self.passes = 0
        self.images: dict[str, list[float]] = {}

    def configure_model(self) -> None:
        if self.layout == "tensor parallel":
            plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
            for block in self.blocks:
                parallelize_module(block, self.device_mesh["tensor_parallel"], plan)
        elif self.layout == "fully_shard":
            for part in (*self.blocks, self.blocks, self.head):
                fully_shard(part, mesh=self.device_mesh["data_parallel"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(x))

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return (self(batch) - 1).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def generate(self, prompts: list[str], seeds: list[int]) -> list[torch.Tensor]:
        x = torch.stack([torch.rand(4, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        for _ in range(STEPS):
            x = self(x)
            self.passes += 1
        images = [level.sigmoid().expand(3, 16, 16).contiguous() for level in x.mean(1)]
        self.images |= {f"{p}/{s}": i[0, 0, :1].tolist() for p, s, i in zip(prompts, seeds, images, strict=True)}
        return images


class FailsOn:
    """A scorer that breaks on one rank."""

    def __init__(self, rank: int) -> None:
        self._scorer, self._rank = scorer(), rank
        self.name, self.rules = self._scorer.name, self._scorer.rules
        self.fingerprint, self.to = self._scorer.fingerprint, self._scorer.to

    def score(self, images: Any, specs: Any) -> Any:
        if int(os.environ["RANK"]) == self._rank:
            raise ArithmeticError(f"no verdicts on rank {self._rank}")
        return self._scorer.score(images, specs)


def strategy(layout: str) -> Any:
    if layout == "fsdp":
        return CPUFSDPStrategy(process_group_backend="gloo")
    if layout == "fsdp by block":
        return CPUFSDPStrategy(process_group_backend="gloo", auto_wrap_policy={Block})
    if layout == "fully_shard":
        return ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, process_group_backend="gloo")
    if layout == "tensor parallel":
        return ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=2, process_group_backend="gloo")
    return layout


def digest(parameter: torch.Tensor) -> float:
    """The sum of this rank's share."""
    local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
    return float(local.detach().double().sum())


def fit(folder: Path, layout: str, *callbacks: Any, **kwargs: Any) -> dict[str, Any]:
    pl.seed_everything(0, verbose=False)
    # All ranks see the same rows, so that they learn what one process does.
    settings = {
        "use_distributed_sampler": False,
        "devices": 2,
        "strategy": strategy(layout),
        "callbacks": list(callbacks),
    } | kwargs
    trainer, module = make_trainer(folder, **settings), DeepPainter(layout)
    error = ""
    try:
        trainer.fit(module, data(4, shuffle=False))
    except Exception as caught:  # noqa: BLE001
        error = f"{type(caught).__name__}: {caught}"
    model = trainer.strategy.model if layout.startswith("fsdp") else module
    return {
        "metrics": {k: v.item() for k, v in trainer.callback_metrics.items() if k.startswith("geneval")},
        "error": error,
        "passes": module.passes,
        "step": trainer.global_step,
        "weights": [digest(p) for p in model.parameters()],
        "images": module.images,
        "type": type(trainer.strategy).__name__,
    }


def run(folder: Path, layout: str, records: Any, name: str = "", rounds: int = 1, **kwargs: Any) -> dict[str, Any]:
    arguments = {"every_n_train_steps": rounds, "batch_size": 2, "log_images": 1} | kwargs
    judge = arguments.pop("scorer", None) or scorer()
    return fit(folder / (name or layout), layout, GenEvalCallback(judge, records, **arguments))


def main(folder: Path) -> None:
    found: dict[str, Any] = {}
    for layout in ("fsdp", "fsdp by block", "fully_shard", "tensor parallel", "ddp"):
        found[layout] = run(folder, layout, RECORDS[:5], rounds=2)
        found[f"{layout}, without"] = fit(folder / "without", layout)
    for layout in ("fsdp by block", "fully_shard"):
        found[f"{layout}, one prompt"] = run(folder, layout, RECORDS[:1], "one")
        found[f"{layout}, warned"] = run(folder, layout, RECORDS[:5], "warned", scorer=FailsOn(1), on_error="warn")
        found[f"{layout}, raised"] = run(folder, layout, RECORDS[:5], "raised", scorer=FailsOn(1))
        found[f"{layout}, budget"] = run(folder, layout, "4/task", "budget", max_seconds=0.01)
        prompts = ["a photo of a dog", "a photo of a cat"]
        audit = AuditCallback(scorer(), None, prompts=prompts, every_n_epochs=1)
        found[f"{layout}, audit"] = fit(folder / "audit", layout, audit)
    (folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


def break_on_one_rank(folder: Path) -> None:
    def sample(module: Any, prompts: list[str], seeds: list[int]) -> Any:
        module(torch.ones(1, 4))
        if os.environ["RANK"] == "1":
            raise ArithmeticError("no pictures on rank 1")
        return module.generate(prompts, seeds)

    callback = GenEvalCallback(scorer(), RECORDS, every_n_train_steps=1, sample_fn=sample, on_error="warn")
    result = fit(folder, "fully_shard", callback)
    print(f"rank {os.environ['RANK']}: {result['error']}", flush=True)
    sys.exit(1 if result["error"] else 0)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    (break_on_one_rank if "break" in sys.argv else main)(Path(sys.argv[1]))
