"""Does the audit tell a policy that hacks its reward from one that does not?

    OMP_NUM_THREADS=1 python benchmarks/audit_policy.py [--epochs 6] [--every 3]

Two copies of the pocket model are trained by DiffusionNFT with the demo's settings on prompts that ask for counts. The *clean*
one is rewarded by `lite` with its rules. The *weak* one is rewarded by the same detector with rules that no one should use:
confidence .02 and no suppression of overlaps, so that one object may count twice. Before, during and after training each is
audited: the judge that gives its rewards and `nanodet` look at the same samples of held-out prompts. The `lite` that is not
weakened looks too, and so does the world itself, which knows what each picture shows.
"""

from __future__ import annotations

import argparse
from itertools import islice
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer

from geneval_reward import GenEvalScorer, Rules, rl
from geneval_reward.demo.training import settings_for
from geneval_reward.demo.training.nft import for_pocket
from geneval_reward.demo.training.run import in_bf16
from geneval_reward.generate import seed_for
from geneval_reward.pocket import iter_pocket_prompts, pocket_suite
from geneval_reward.pocket.codec import decode_scenes
from geneval_reward.pocket.scene import fulfils
from geneval_reward.reward import GenEvalReward
from geneval_reward.train import FlowPolicy, PromptGroups, load_recipe
from geneval_reward.train.audit import audit, leave_out_classes

WEAK = Rules(confidence=0.02, counting_confidence=0.02, max_overlap=1.0)


class Audits(Callback):
    """Prints a row of the table before training and every few epochs."""

    def __init__(self, name: str, judge: GenEvalScorer, others: dict[str, GenEvalScorer], every: int) -> None:
        self.name, self.judge, self.others, self.every = name, judge, others, every
        counts = [spec for spec in pocket_suite() if spec.tag == "counting"]
        self.specs = leave_out_classes(counts, settings_for().not_audited)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.look(0, pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if (trainer.current_epoch + 1) % self.every == 0:
            self.look(trainer.current_epoch + 1, pl_module)

    @torch.no_grad()
    def look(self, epoch: int, module: Any) -> None:
        asked = [spec for spec in self.specs for _ in range(4)]
        seeds = [seed_for(0, spec.prompt, n) for spec in self.specs for n in range(4)]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        policy = module.policy
        with module.ema.average_parameters(), module.weights.role("trained") as transformer:
            velocity = policy.velocity(transformer, policy.encode([spec.prompt for spec in asked]))
            latents = rl.sample_ode(
                velocity, policy.noise(generators), policy.sigmas(module.eval_steps), solver="euler"
            )
        images = list(policy.decode(latents))
        report = audit(
            images, asked, self.judge.score(images, asked), self.others["nanodet"], scales=(1.0,), flip=False
        )
        strict = np.mean([verdict.correct for verdict in self.others["lite"].score(images, asked)])
        true = np.mean([fulfils(scene, spec) for scene, spec in zip(decode_scenes(latents), asked, strict=True)])
        first = f"{report.score:.2f} | {report.audit:.2f} | {report.gap:+.2f} | {report.confirmed:.2f}"
        print(f"| {self.name} | {epoch} | {first} | {strict:.2f} | {true:.2f} |", flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--every", type=int, default=3)
    args = parser.parse_args()
    settings = settings_for()
    lite = GenEvalScorer.from_pretrained("lite", device="cpu")
    others = {"lite": lite, "nanodet": GenEvalScorer.from_pretrained("nanodet", device="cpu")}
    prompts = list(islice(iter_pocket_prompts(42, {"counting": 1}), 1000))
    judges = {
        "clean": lite,
        "weak": GenEvalScorer.from_pretrained("lite", device="cpu", rules=WEAK, min_confidence=0.01),
    }
    print(
        "| reward | epoch | its judge | `nanodet` | gap | confirmed | `lite` | true |\n|---|---:|---:|---:|---:|---:|---:|---:|"
    )
    for name, judge in reversed(judges.items()):
        kind = for_pocket(load_recipe("diffusion_nft").DiffusionNFT, settings.guided_epochs)
        module = kind(FlowPolicy("pocket"), reward=GenEvalReward(in_bf16(judge)), **settings.module)
        Trainer(
            max_epochs=args.epochs,
            accelerator="cpu",
            devices=1,
            logger=False,
            callbacks=[Audits(name, judge, others, args.every)],
            enable_checkpointing=False,
            use_distributed_sampler=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(module, PromptGroups(prompts, settings.groups, settings.group_size, 96, 42))


if __name__ == "__main__":
    main()
