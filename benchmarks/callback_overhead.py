"""What GenEvalCallback costs: share of wall time, its split, and memory held between rounds. Prints Markdown.

    python benchmarks/callback_overhead.py --seconds 40 --fraction-seconds 300

The training step sleeps, as a step waits for an accelerator, so that the share does not depend on how busy the processor is
with training. Sampling is the tiny Stable Diffusion 3 pipeline of random weights, detection the `lite` backend on whatever
device there is; the split of another model and detector differs, the share under `max_fraction` must not.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import CSVLogger

from geneval_reward import GenEvalScorer
from geneval_reward.callback import GenEvalCallback, Timings
from geneval_reward.train.tiny import tiny_sd3

STEP_SECONDS = 0.05


class Sleeper(pl.LightningModule):
    """Trains for a given time, a step a twentieth of a second."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.pipe = tiny_sd3()
        self.transformer = self.pipe.transformer
        self.seconds = seconds

    def on_train_start(self) -> None:
        self.pipe.to(self.device)
        self.began = time.monotonic()

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        time.sleep(STEP_SECONDS)
        if time.monotonic() - self.began > self.seconds:
            self.trainer.should_stop = True
        return sum(p.sum() for p in self.transformer.parameters()) * 0.0

    def train_dataloader(self) -> Any:
        class Endless(torch.utils.data.IterableDataset[torch.Tensor]):
            def __iter__(self) -> Iterator[torch.Tensor]:
                while True:
                    yield torch.zeros(1)

        return torch.utils.data.DataLoader(Endless())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Watched(GenEvalCallback):
    """Measures itself from outside: everything its hook takes, and what is alive before and after."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.hook_seconds = 0.0
        self.rounds: list[Timings] = []
        self.held: list[int] = []

    def on_train_batch_end(self, *args: Any) -> None:
        began, timings = time.monotonic(), self.timings
        super().on_train_batch_end(*args)
        self.hook_seconds += time.monotonic() - began
        if self.timings is not timings:
            self.rounds.append(self.timings)
            self.held.append(tensors_alive())


def tensors_alive() -> int:
    """Bytes of all tensors that Python can reach, each memory once; on CUDA what the allocator holds."""
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated()
    gc.collect()
    found: dict[int, int] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for item in gc.get_objects():
            if isinstance(item, torch.Tensor) and item.device.type == "cpu":
                with suppress(NotImplementedError, RuntimeError):  # tensors without memory of their own
                    found[item.untyped_storage().data_ptr()] = item.untyped_storage().nbytes()
    return sum(found.values())


def measure(name: str, scorer: GenEvalScorer, seconds: float, **kwargs: Any) -> str:
    callback = Watched(
        scorer,
        sample_kwargs={"num_inference_steps": 8, "height": 32, "width": 32},
        **{"prompts": 4, "batch_size": 8} | kwargs,
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=1,
            logger=CSVLogger(folder),
            callbacks=[callback],
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            accelerator="auto",
            devices=1,
            default_root_dir=Path(folder),
        )
        module = Sleeper(seconds)
        trainer.fit(module)
        wall = time.monotonic() - module.began
    total = sum(item.total for item in callback.rounds) or 1.0
    parts = [
        sum(getattr(item, part) for item in callback.rounds) / total for part in ("sampling", "detection", "logging")
    ]
    # After the first round, which allocates what stays for good.
    growth = (callback.held[-1] - callback.held[0]) / 2**20 if len(callback.held) > 1 else 0.0
    images = callback.last_metrics.get("geneval/n", 0)
    cells = [
        name,
        f"{wall:.0f}",
        f"{trainer.global_step}",
        f"{len(callback.rounds)}",
        f"{images:.0f}",
        f"{callback.hook_seconds / wall:.4f}",
        *(f"{part:.2f}" for part in parts),
        f"{growth:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=40.0, help="of each fixed schedule")
    parser.add_argument("--fraction-seconds", type=float, default=300.0, help="of the run with max_fraction=0.05")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in ("lightning", "pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    scorer = GenEvalScorer.from_pretrained("lite")
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}, "
          f"{torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU'}\n")  # fmt: skip
    columns = ["schedule", "wall s", "steps", "rounds", "images, last round", "share of wall", "of it sampling", "detection",
               "logging", "MiB more held at the end than after round 1"]  # fmt: skip
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}", flush=True)
    for every in (50, 100, 400):
        print(measure(f"every {every} steps", scorer, arguments.seconds, every_n_train_steps=every), flush=True)
    row = measure(
        "every 100 steps, max_seconds=1",
        scorer,
        arguments.seconds,
        every_n_train_steps=100,
        max_seconds=1.0,
        prompts="50/task",
    )
    print(row, flush=True)
    row = measure(
        "every 20 steps, max_fraction=0.05",
        scorer,
        arguments.fraction_seconds,
        every_n_train_steps=20,
        max_fraction=0.05,
        prompts="50/task",
    )
    print(row, flush=True)


if __name__ == "__main__":
    main()
