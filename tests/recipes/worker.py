"""Runs of the recipes on tiny pipelines; a module for the tests, and a script for one process of several.

python worker.py OUT.json                # with RANK, WORLD_SIZE, ... in the environment
python worker.py OUT.json --sharded      # SHARDED under fsdp2: two epochs; a third after one process's two
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

POLICY = ("resolution", "guidance_scale", "gradient_checkpointing")

SHARDED = {
    "nft-sd3-lora": {},
    "grpo-flux-lora": {"gradient_checkpointing": True},
    "nft-flux-full": {"lora_rank": 0, "learning_rate": 1e-3},
    "grpo-sd3-full": {"lora_rank": 0, "learning_rate": 1e-3},
}


def redness(images, prompts, metadata):
    """A reward that needs no detector; image 3 of a batch has none."""
    scores = [float(image[0].float().mean() - image[1].float().mean()) / 64 for image in images]
    return [None if spec["tag"] == "colors" else score for spec, score in zip(metadata, scores, strict=True)]


def slow_redness(images, prompts, metadata):
    time.sleep(0.2)
    return redness(images, prompts, metadata)


class InTheWay:
    """A reward that blocks until it has scored."""

    def __init__(self, function):
        from geneval_reward.train.rewards import FunctionReward

        self.reward = FunctionReward(function)

    def submit(self, images, specs, /):
        future = self.reward.submit(images, specs)
        future.exception()
        return future

    def close(self):
        self.reward.close()


def module(method="nft", family="sd3", **options):
    from geneval_reward.train import FlowPolicy, load_recipe
    from geneval_reward.train.tiny import tiny_flux, tiny_sd3

    options = {"reward": redness, "lora_rank": 4, "num_steps": 4, "learning_rate": 1e-2} | options
    if method == "grpo":
        options = {"clip_range": 0.2, "ema_every": 1} | options
    pipeline = options.pop("pipeline", None) or (tiny_sd3() if family == "sd3" else tiny_flux())
    kind = load_recipe("diffusion_nft").DiffusionNFT if method == "nft" else load_recipe("flow_grpo").FlowGRPO
    policy = {name: options.pop(name) for name in POLICY if name in options}
    return kind(FlowPolicy(pipeline, **policy), **options)


def data(batch_size=8, groups=3, group_size=8, **options):
    from geneval_reward.train import PromptGroups

    return PromptGroups(20, groups=groups, group_size=group_size, batch_size=batch_size, seed=1, **options)


def sharded_module(case):
    method, family, _ = case.split("-")
    return module(method, family, num_steps=3, **SHARDED[case])


def sharded_data(world):
    """Two prompts, one of which has no reward: some batches of one image leave a rank without anything to train on."""
    from geneval_reward.prompts import official_suite
    from geneval_reward.train import PromptGroups

    specs = [next(spec for spec in official_suite() if spec.tag == tag) for tag in ("colors", "counting")]
    return PromptGroups(specs, groups=2, group_size=3, batch_size=2 // world, seed=1)


def watchers():
    """Callbacks that sample while the weights are spread over the ranks, in uneven shares."""
    from geneval_reward.callback import GenEvalCallback
    from geneval_reward.testing import FakeDetector, scorer_for
    from geneval_reward.train.audit import AuditCallback

    prompts = ["a photo of a bench", "a photo of a cow", "a photo of a cat"]
    judge = scorer_for(FakeDetector({"bench": [[1, 1, 9, 9, 0.95]]}))
    sampling = {"sample_kwargs": {"num_inference_steps": 2}, "batch_size": 2, "log_images": 0}
    return [
        GenEvalCallback(judge, prompts, every_n_epochs=1, **sampling),
        AuditCallback(judge, None, prompts=prompts[:1], every_n_epochs=2),
    ]


def sharded_run(case, world, folder, epochs, ckpt=None, **options):
    """A module and what was logged; the checkpoint of the second epoch is kept."""
    from geneval_reward.train.cli import EpochCheckpoint

    model = sharded_module(case)
    model.idled = set()  # (epoch, batch) of this rank that had nothing to train on

    def update(samples, inner=model.update):
        model.idled |= {(model.current_epoch, n) for n, batch in enumerate(samples) if not len(batch.rows)}
        return inner(samples)

    model.update = update
    rows = run(
        model,
        sharded_data(world),
        folder,
        epochs=epochs,
        ckpt_path=ckpt,
        callbacks=[EpochCheckpoint(str(folder), keep_every=2), *watchers()],
        enable_checkpointing=True,
        devices=world,
        **options,
    )
    return model, rows


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


def sharded(out):
    from geneval_reward.support.ranks import gather

    world, folder = int(os.environ["WORLD_SIZE"]), Path(out).parent
    torch.set_num_threads(1)
    results = {}
    for case in SHARDED:
        first, rows = sharded_run(case, world, folder / f"{case}-two", 2, strategy="fsdp2")
        ckpt = folder / case / "epoch-00002.ckpt"
        model, resumed = sharded_run(case, world, folder / f"{case}-on", 3, ckpt, strategy="fsdp2")
        kinds = {type(p).__name__ for p in model.weights.transformer.parameters() if not hasattr(p, "full_tensor")}
        images = [image.tolist() for image in model.generate(["a", "b"], [1, 2], 2)]
        results[case] = {"rows": rows, "resumed": resumed, "whole": sorted(kinds), "images": images}
        results[case]["idled"] = gather(sorted(first.idled))
    if os.environ["RANK"] == "0":
        Path(out).write_text(json.dumps(results))


if __name__ == "__main__":
    (sharded if "--sharded" in sys.argv else main)(sys.argv[1])
