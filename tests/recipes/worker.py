"""Runs of the recipes on tiny pipelines; a module for the tests, and a script for one process of several.

python worker.py OUT.json        # with RANK, WORLD_SIZE, ... in the environment
"""

import json
import os
import sys
import time
import warnings
from pathlib import Path

import torch

# Another library's.
warnings.filterwarnings("ignore", message=r".*LeafSpec.*")
warnings.filterwarnings("ignore", message=r".*does not have many workers.*")

CASES = [("nft", "sd3"), ("nft", "flux"), ("grpo", "sd3"), ("grpo", "flux")]


def redness(images, prompts, metadata):
    """A reward that needs no detector; image 3 of a batch has none."""
    scores = [float(image[0].float().mean() - image[1].float().mean()) / 64 for image in images]
    return [None if spec["tag"] == "colors" else score for spec, score in zip(metadata, scores, strict=True)]


def slow_redness(images, prompts, metadata):
    time.sleep(0.2)
    return redness(images, prompts, metadata)


def module(method="nft", family="sd3", **options):
    from geneval_reward.training import DiffusionNFT, FlowGRPO
    from geneval_reward.training.tiny import tiny_flux, tiny_sd3

    options = {"reward": redness, "lora_rank": 4, "lora_alpha": 8, "num_steps": 4, "learning_rate": 1e-2} | options
    if method == "grpo":
        options = {"clip_range": 0.2} | options
    pipeline = options.pop("pipeline", None) or (tiny_sd3() if family == "sd3" else tiny_flux())
    return (DiffusionNFT if method == "nft" else FlowGRPO)(pipeline, **options)


def data(batch_size=8, groups=3, group_size=8, **options):
    from geneval_reward.training import PromptGroups

    return PromptGroups(20, groups=groups, group_size=group_size, batch_size=batch_size, seed=1, **options)


class Record:
    """What was logged, epoch by epoch."""

    def __init__(self):
        self.rows = []

    def callback(self):
        from lightning.pytorch import Callback

        rows = self.rows

        class Keep(Callback):
            def on_train_batch_end(self, trainer, *_):
                rows.append({name: float(value) for name, value in trainer.callback_metrics.items()})

        return Keep()


def trainer(folder, epochs=2, callbacks=(), **options):
    from lightning.pytorch import Trainer

    options = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False} | options
    return Trainer(
        max_epochs=epochs,
        default_root_dir=folder,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **options,
    )


def run(model, datamodule, folder, epochs=2, ckpt_path=None, callbacks=(), **options):
    record = Record()
    fit = trainer(folder, epochs, [record.callback(), *callbacks], **options)
    fit.fit(model, datamodule, ckpt_path=ckpt_path)
    return record.rows


def main(out):
    world = int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    results = {}
    for method, family in CASES:
        model = module(method, family)
        rows = run(model, data(batch_size=8 // world), Path(out).parent, devices=world, strategy="ddp")
        results[f"{method}-{family}"] = rows
    if os.environ["RANK"] == "0":
        Path(out).write_text(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1])
