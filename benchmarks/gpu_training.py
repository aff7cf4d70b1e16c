"""Part `training` of `gpu.py`: an epoch of RL under the files `configs/*_one_gpu.yaml`, with models of the real sizes.

Rollouts are whole. Of the times that are trained only two are run, to keep the part short: they cost the same each, so that the
whole epoch follows. The reward is the `paper` scorer at its full cost, but returns the mean brightness: pictures of random
weights show no objects, and rewards that are all equal would train nothing in Flow-GRPO.
"""

from __future__ import annotations

import logging
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import gpu_models
import torch
import yaml
from gpu import Report, release

from geneval_reward import GenEvalScorer

CONFIGS = Path(__file__).parents[1] / "configs"
RUNS = {
    "nft_sd35_medium_one_gpu": ("diffusion_nft", "DiffusionNFT", "sd3", 170),
    "flow_grpo_sd35_medium_one_gpu": ("flow_grpo", "FlowGRPO", "sd3", 190),
    "nft_flux_one_gpu": ("diffusion_nft", "DiffusionNFT", "flux", 140),
}
"""Recipe, class, model and expected seconds by configuration."""
TINY = {"groups": 2, "group_size": 2, "batch_size": 2, "prompts": 16}
WEIGHTS = "random weights of the published sizes"


def run(report: Report) -> None:
    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for name, (*_, seconds) in RUNS.items():
        report.step(name, seconds, partial(one_config, report, name))


def one_config(report: Report, name: str) -> None:
    """Train under a configuration; where its batch does not fit, say so and try half of it."""
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    size = TINY["batch_size"] if report.tiny else config["data"]["batch_size"]
    while True:
        try:
            return epoch(report, name, config, size)
        except torch.OutOfMemoryError as error:
            reason = str(error).splitlines()[0][:120]
        # Outside of `except`, whose error holds the tensors.
        report.add(f"does it fit, {WEIGHTS}", config=name, batch_size=size, fits=False, reason=reason)
        release()
        size //= 2
        if not size or report.end - time.monotonic() < RUNS[name][-1]:
            raise RuntimeError("no batch fitted in the time")


class TimedReward:
    """A reward at the cost of a scorer, whose values differ between pictures."""

    def __init__(self, scorer: Any) -> None:
        self.scorer = scorer

    def __call__(self, images: Any, prompts: Any, metadata: Any) -> list[float]:
        self.scorer.score(images, metadata)
        return torch.stack([image.float().mean() for image in images]).tolist()  # type: ignore[no-any-return]


def epoch(report: Report, name: str, config: dict[str, Any], batch_size: int) -> None:
    from lightning.pytorch import Callback, Trainer

    from geneval_reward.callback import GenEvalCallback
    from geneval_reward.rl import num_train_steps
    from geneval_reward.train import FlowPolicy, PromptGroups, load_recipe
    from geneval_reward.train.policy import DTYPES
    from geneval_reward.train.rewards import FunctionReward

    tiny, cuda = report.tiny, not report.tiny
    recipe, kind, family, _ = RUNS[name]
    before = _allocated()
    begun = time.monotonic()
    settings = dict(config["model"])
    policy = {key: value for key, value in settings.pop("policy").items() if key not in ("pipeline", "resolution")}
    dtype = "fp32" if tiny else policy.pop("dtype")
    policy.pop("dtype", None)
    pipeline = gpu_models.pipeline(family, report.device, DTYPES[dtype], tiny=tiny)
    # Pictures of 64 x 64 make `paper`'s input as large as any; a dry run has no time for that.
    scorer = GenEvalScorer.from_pretrained("lite", device="cpu") if tiny else gpu_models.paper(report.device)
    settings |= {"timestep_fraction": 0.2, "num_steps": 10}
    settings |= {"lora_rank": 2, "num_steps": 5, "timestep_fraction": 0.4, "eval_steps": 2} if tiny else {}
    reward = FunctionReward(TimedReward(scorer))
    module = getattr(load_recipe(recipe), kind)(
        FlowPolicy(pipeline, dtype=dtype, resolution=64 if tiny else 512, **policy), reward=reward, **settings
    )
    data_settings = {**config["data"], **(TINY if tiny else {}), "batch_size": batch_size}
    if family == "flux" and cuda:
        data_settings["groups"] = 1  # an epoch of four would take minutes
    data = PromptGroups(**data_settings)
    built = time.monotonic() - begun

    asked = next(one for one in config["trainer"]["callbacks"] if one["class_path"].endswith("GenEvalCallback"))[
        "init_args"
    ]
    shown = 6 if tiny or family == "flux" else 18  # at least one of each task
    callback = GenEvalCallback(scorer, shown, every_n_epochs=1, batch_size=asked["batch_size"])
    rows: list[dict[str, float]] = []
    held: list[int] = []

    class Keep(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            rows.append({key: float(value) for key, value in trainer.callback_metrics.items()})
            if cuda:
                rows[-1]["peak"] = torch.cuda.max_memory_allocated() / 2**30
                torch.cuda.reset_peak_memory_stats()
            release()
            held.append(_allocated())

        def on_fit_end(self, trainer: Any, *_: Any) -> None:
            release()
            held.append(_allocated())

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            max_epochs=1,
            accelerator="gpu" if cuda else "cpu",
            devices=1,
            precision=config["trainer"]["precision"] if cuda else "32-true",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=folder,
            # The callback's round is at the end of the epoch, after the batch whose end `Keep` sees.
            callbacks=[Keep(), callback],
        )
        trainer.fit(module, data)
    reward.close()
    times = {key.removeprefix("time/"): value for key, value in rows[0].items() if key.startswith("time/")}
    trained = num_train_steps(settings["num_steps"], settings["timestep_fraction"])
    whole = num_train_steps(settings["num_steps"], config["model"]["timestep_fraction"])
    training = times["training"] * whole / trained
    images = data_settings["groups"] * data_settings["group_size"]
    full = times["sampling"] + times["reward_wait"] + training
    in_the_way = times["sampling"] + times["reward_busy"] + training
    report.add(
        f"does it fit, {WEIGHTS}",
        config=name,
        batch_size=batch_size,
        fits=True,
        **{"peak GiB in the epoch": rows[0].get("peak"), "seconds to build": built},
    )
    report.add(
        f"seconds per epoch by stage, {WEIGHTS}",
        config=name,
        images=images,
        sampling=times["sampling"],
        **{
            f"training, {trained} times": times["training"],
            f"training, all {whole}": training,
            "scoring": times["reward_busy"],
            "of it waited for": times["reward_wait"],
            "hidden": f"{1 - times['reward_wait'] / times['reward_busy']:.1%}",
            "epoch": full,
            "epoch with the reward in the way": in_the_way,
        },
    )
    took = callback.timings
    prompts, every = int(asked["prompts"]), int(asked["every_n_epochs"])
    scale = config["data"]["groups"] / data_settings["groups"]
    share = took.total / shown * prompts / (every * full * scale)
    report.add(
        f"callback, {WEIGHTS}",
        config=name,
        images=shown,
        sampling=took.sampling,
        detection=took.detection,
        total=took.total,
        **{f"share of the run, {prompts} prompts every {every} epochs": f"{share:.1%}"},
    )
    row = {"config": name, "GiB before": before / 2**30, "after the epoch": held[0] / 2**30}
    row["after the round"] = held[-1] / 2**30
    del module, pipeline, scorer, trainer, callback, reward, data
    release()
    report.add("memory that is held", **row, **{"after all is deleted": _allocated() / 2**30})


def _allocated() -> int:
    return torch.cuda.memory_allocated() if torch.cuda.is_initialized() else 0
