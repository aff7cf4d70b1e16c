"""Where a step of RL goes: sampling, reward, training; with the reward in the way and with the reward hidden.

    python benchmarks/rl_step.py                               # tiny SD3, a reward that takes as long as --reward-ms says
    python benchmarks/rl_step.py --pipeline pocket --reward lite

The made reward sleeps, as one on another device or in another process would; on one CPU a real detector competes with
sampling for the same cores, and hiding it saves little. Prints one row per mode: seconds per step, split, and the share of the
scoring time that was hidden.
"""

import argparse
import json
import logging
import statistics
import time
import warnings

import torch


class Sleeper:
    """A reward of a fixed cost per picture."""

    def __init__(self, seconds):
        self.seconds = seconds

    def __call__(self, images, prompts, metadata):
        time.sleep(self.seconds * len(images))
        return [float(image.float().mean()) for image in images]


class InTheWay:
    """A reward that blocks until it has scored, as one that is called between sampling and training does."""

    def __init__(self, reward):
        self.reward = reward

    def submit(self, images, specs, /):
        future = self.reward.submit(images, specs)
        future.exception()
        return future

    def close(self):
        self.reward.close()


def measure(args, method, asynchronous):
    from lightning.pytorch import Callback, Trainer

    from geneval_reward.reward import GenEvalReward
    from geneval_reward.train import FlowPolicy, PromptGroups, load_recipe
    from geneval_reward.train.rewards import FunctionReward

    rows = []

    class Keep(Callback):
        def on_train_batch_end(self, trainer, *_):
            rows.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    full = args.pipeline == "pocket"
    options = {"lora_rank": 0 if full else 4, "num_steps": args.steps}
    reward = FunctionReward(Sleeper(args.reward_ms / 1000)) if args.reward == "sleep" else GenEvalReward(args.reward)
    if not asynchronous:
        reward = InTheWay(reward)
    kind = load_recipe("diffusion_nft").DiffusionNFT if method == "nft" else load_recipe("flow_grpo").FlowGRPO
    module = kind(FlowPolicy(args.pipeline), reward=reward, **options)
    data = PromptGroups("pocket" if full else 64, args.groups, args.group_size, args.batch_size)
    Trainer(
        max_epochs=args.epochs + 1,
        accelerator=args.accelerator,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[Keep()],
    ).fit(module, data)
    middle = {
        name: statistics.median(row[f"time/{name}"] for row in rows[1:])
        for name in ("step", "sampling", "reward_wait", "reward_busy", "training")
    }
    middle["hidden"] = 1 - middle["reward_wait"] / middle["reward_busy"]
    return middle


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", default="geneval_reward.train.tiny:tiny_sd3")
    parser.add_argument("--reward", default="sleep")
    parser.add_argument("--reward-ms", type=float, default=4.0, help="milliseconds per picture of the made reward")
    parser.add_argument("--methods", nargs="+", default=["nft", "flow-grpo"])
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--group-size", type=int, default=24)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    print(
        f"{'method':10} {'reward':6} {'step':>7} {'sampling':>9} {'wait':>7} {'scoring':>8} {'training':>9} {'hidden':>7}"
    )
    for method in args.methods:
        for asynchronous in (False, True):
            found = measure(args, method, asynchronous)
            if args.json:
                print(json.dumps({"method": method, "async": asynchronous, **found}))
                continue
            print(
                f"{method:10} {'async' if asynchronous else 'sync':6} {found['step']:7.2f} {found['sampling']:9.2f} "
                f"{found['reward_wait']:7.2f} {found['reward_busy']:8.2f} {found['training']:9.2f} {found['hidden']:7.0%}"
            )


if __name__ == "__main__":
    main()
