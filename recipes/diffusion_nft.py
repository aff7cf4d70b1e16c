"""DiffusionNFT with GenEval rewards (arXiv 2509.16117, ICLR 2026), for Stable Diffusion 3 and 3.5, FLUX and the pocket model.

    python recipes/diffusion_nft.py fit --config configs/nft_pocket.yaml
    python recipes/diffusion_nft.py fit --config configs/nft_sd35_medium_one_gpu.yaml --model.learning_rate 1e-4
    python recipes/diffusion_nft.py fit --config configs/nft_pocket.yaml --ckpt_path last     # goes on where it stopped

This file is the whole method, in the order of the algorithm: read it from top to bottom, copy it and change it. What is not
the method is called by name: `geneval_reward.train` (the diffusers pipeline as a policy, adapters and averages, rewards in
flight, ranks) and `geneval_reward.rl` (the equations as pure functions). One epoch of the method is one Lightning batch:

    x0     = ODE sample of the old policy, 24 images per prompt     `sample`; the reward scores while the next batch is sampled
    A      = (R - mean of the prompt) / (std of all R + 1e-4)       `advantages`, from the rewards of all ranks
    r      = clip(A, -5, 5) / 10 + 1/2                              probability that a sample is a good one
    loss   = r |x0(v+) - x0|^2 + (1 - r) |x0(v-) - x0|^2            `losses`, at 9 of 10 times, with fresh noise;
             v+ = v_old + beta (v - v_old), v- = v_old - beta (v - v_old), x0(v) = x_t - t v
    old   <- d old + (1 - d) trained                                `training_step`

| | paper | released code (NVlabs/DiffusionNFT, 24af555) | here, and why |
|---|---|---|---|
| loss | r and 1 - r as weights | also divided by each sample's own error, times 5, plus 1e-4 KL | as released |
| old policy | decay min(.001 i, .5) | the same, i counts optimizer steps | i counts epochs, of one step each as released |
| reward | GenEval | mean over the clauses of a prompt (`scores`), not 0/1 | `credit: flow_grpo` is that number |
| rollout | second-order ODE, 10 steps | dpm2; times cut to thousandths | exact times, as in training (the cut is 0.9 %) |
| latents | - | kept in fp16 after each step | float32: costs nothing |
| groups | one per prompt | samples with equal prompt texts | one per slot: a prompt that is drawn twice makes two groups |
| batches | - | groups complete within one batch of all ranks | the epoch divides as a whole: freer batch sizes |
| evaluation | average of the weights | decay min((1 + i)/(10 + i), .9), i after the step | as released |
| colours | - | BGR crops are given to CLIP as RGB | channels in order (`paper`) |
| TF32 | - | on | PyTorch's default: set `torch.set_float32_matmul_precision("high")` for it |

Needs the extras `lightning` and `diffusers`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningCLI
from torch import Tensor

from geneval_reward import rl, train
from geneval_reward.errors import UsageError
from geneval_reward.reward import Reward

ADVANTAGE_CLIP = 5.0  # bound of the absolute advantage, as released


class DiffusionNFT(LightningModule):
    """DiffusionNFT; the defaults are the released GenEval setting for SD3.5-M.

    Args:
        policy: The pipeline to train, with its precision, resolution and guidance.
        lora_rank: Rank of the adapters (alpha is twice that); 0 for full fine-tuning.
        reward: A backend (`lite`, `paper`, `mmdet`), `module:function`, or a reward such as `CompositeReward`; None for that
            of the `GenEvalCallback` in the Trainer, which loads one judge for both.
        credit: Credit of a backend's reward: `official`, `strict`, `partial`, `dense` or `flow_grpo` (the released one); or
            weights of several, such as `{official: 1, partial: 1}`.
        num_steps: Sampling steps of the rollout.
        eval_steps: Euler ODE steps of `generate`.
        learning_rate: Learning rate of AdamW.
        updates_per_epoch: Optimizer steps over consecutive parts of the rollout.
        passes: How often an epoch trains on the whole rollout.
        timestep_fraction: Share of the rollout's steps that is trained.
        advantage_std: `global`, `group` or `none`; or `gdpo`, which normalises every credit of `credit`, or every part of a
            `CompositeReward`, within its groups before they are added.
        beta: How far v+ and v- are from the old policy: 1 for GenEval, 0.1 for OCR and several rewards.
        kl_weight: Weight of the distance to the untrained model's velocity; 0 leaves it out.
        old_decay_rate: Growth per epoch of the old policy's decay, up to 0.5; runs of tens of epochs need more.

    Raises:
        UsageError: If a number is out of range.
    """

    method = "diffusion-nft"

    def __init__(
        self,
        policy: train.FlowPolicy,
        *,
        lora_rank: int = 32,
        reward: Reward | Callable[..., Any] | str | None = None,
        credit: str | dict[str, float] = "official",
        num_steps: int = 10,
        eval_steps: int = 40,
        learning_rate: float = 3e-4,
        updates_per_epoch: int = 1,
        passes: int = 1,
        timestep_fraction: float = 0.99,
        advantage_std: Literal["global", "group", "none", "gdpo"] = "global",
        beta: float = 1.0,
        kl_weight: float = 1e-4,
        old_decay_rate: float = 0.001,
    ) -> None:
        super().__init__()
        if min(num_steps, eval_steps, updates_per_epoch, passes) < 1:
            raise UsageError(
                "expected num_steps, eval_steps, updates_per_epoch and passes >= 1, got "
                f"{num_steps}, {eval_steps}, {updates_per_epoch} and {passes}"
            )
        self.automatic_optimization = False  # one batch is a rollout with many backward passes
        self.strict_loading = False  # checkpoints have no frozen weights
        self.policy = policy
        self.weights = train.PolicyWeights(
            self.policy.transformer, lora_rank=lora_rank, old=True, reference=kl_weight > 0
        )
        self.ema = train.PolicyAverage(self.weights, max_decay=0.9)
        self.reward: Any = reward
        self.credit = credit
        self.num_steps, self.eval_steps, self.timestep_fraction = num_steps, eval_steps, timestep_fraction
        self.learning_rate, self.updates_per_epoch, self.passes = learning_rate, updates_per_epoch, passes
        self.advantage_std = advantage_std
        self.beta, self.kl_weight, self.old_decay_rate = beta, kl_weight, old_decay_rate
        self.images_sampled = self.updates = 0
        self.first_velocity_norm: float | None = None

    def setup(self, stage: str) -> None:
        """Refuse what cannot work, move the frozen parts to this rank's device, and find the reward."""
        train.check_strategy(self.trainer, self.weights)
        self.policy.to(self.trainer.strategy.root_device)
        if stage == "fit":
            self.reward = train.find_reward(self.reward, self.credit, self.trainer)

    def on_train_start(self) -> None:
        """Check that groups come as `PromptGroups` makes them."""
        train.check_sampler(self.trainer)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over the trained weights."""
        return torch.optim.AdamW(self.weights.trained().values(), lr=self.learning_rate, weight_decay=1e-4)

    def training_step(self, batch: train.RolloutBatch, batch_idx: int) -> None:
        """One epoch of the method."""
        start = time.monotonic()
        samples, queue = self.rollout(batch)
        sampled = time.monotonic()
        scores = train.gather_scores(queue, batch.specs, batch.slots)
        groups = self.advantages(scores)
        # A sample of advantage 0 is trained on too: r = 1/2 still pulls towards the old policy.
        train.deal_advantages(samples, groups.advantages, groups.weight > 0)
        scored = time.monotonic()
        metrics = self.update(samples)
        decay = min(self.old_decay_rate * (self.current_epoch + 1), 0.5)
        self.weights.follow(decay)
        trained = time.monotonic()
        metrics |= {"images": float(self.images_sampled), "epoch_number": float(batch.epoch), "old_policy_decay": decay}
        times = {"sampling": sampled - start, "training": trained - scored, "step": trained - start}
        train.log_epoch(self, metrics, scores, groups, queue, times)

    # 1. Rollout and reward.

    @torch.no_grad()
    def rollout(self, batch: train.RolloutBatch) -> tuple[list[train.Samples], train.RewardQueue]:
        """Sample this rank's share of the epoch; each finished batch is scored while the next one is sampled."""
        queue, samples = train.RewardQueue(self.reward, self.credit), list[train.Samples]()
        with train.errors_together(f"rollout of epoch {batch.epoch}", self.trainer):
            for specs, slots in batch.split():
                generators = batch.generators(slots)
                conditions = self.policy.encode([spec.prompt for spec in specs])
                latents, kept = self.sample(self.policy.noise(generators), conditions, generators)
                part = train.Samples(specs, slots, conditions, generators, latents, kept)
                rows, first = part.finite_rows(), sum(len(earlier.slots) for earlier in samples)
                images = self.policy.decode(latents[rows]) if rows else latents[:0]
                queue.put([first + row for row in rows], images, [specs[row] for row in rows])
                samples.append(part)
        self.images_sampled += len(batch.slots) * self.trainer.world_size
        return samples, queue

    def sample(
        self, noise: Tensor, conditions: train.Conditions, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Any]:
        """Follow the old policy's ODE; only its end is needed.

        Args:
            noise: (b, C, H, W).
            conditions: The encoded prompts, (b,).
            generators: One per sample.

        Returns:
            Final latents (b, C, H, W), and what `losses` needs of the way there.
        """
        with self.weights.role("old") as transformer:
            velocity = self.policy.velocity(transformer, conditions)
            return rl.sample_ode(velocity, noise, self.policy.sigmas(self.num_steps), solver="dpm2"), None

    # 2. Advantages.

    def advantages(self, scores: train.Scores) -> rl.GroupAdvantages:
        """`A = (R - mean of the prompt) / (std + 1e-4)`, clipped, from the rewards of all ranks."""
        if self.advantage_std == "gdpo":
            return scores.gdpo_advantages(self.credit, self.reward, clip=ADVANTAGE_CLIP)
        return rl.group_advantages(scores.rewards, scores.groups, std=self.advantage_std, clip=ADVANTAGE_CLIP)

    # 3. Losses and update.

    def losses(self, samples: train.Samples, total: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Yield a loss for each of the rollout's times but one, in a random order of each sample's own.

        Args:
            samples: A batch of the rollout with its advantages.
            total: How many samples of all ranks this optimizer step trains on. Losses and numbers to log are sums over
                samples divided by it, so that batches, timesteps and ranks add up exactly.
        """
        steps = rl.num_train_steps(self.num_steps, self.timestep_fraction)
        if not len(samples.rows):
            roles: list[train.Role] = ["old", "reference", "trained"] if self.kl_weight > 0 else ["old", "trained"]
            yield from train.idle_passes(self.trainer, self.policy, self.weights, samples.conditions, steps, roles)
            return
        rows = samples.rows.to(self.device, non_blocking=True)
        x0, conditions = samples.latents[rows], samples.conditions.rows(rows)
        r = rl.optimality_probability(samples.advantages[samples.rows], clip=ADVANTAGE_CLIP)
        r = r.to(self.device, non_blocking=True)
        generators = [samples.generators[row] for row in samples.rows.tolist()]
        orders = [
            rl.permuted_steps(1, self.num_steps, fraction=self.timestep_fraction, generator=generator)
            for generator in generators
        ]
        times = self.policy.sigmas(self.num_steps)[torch.cat(orders)].to(self.device, non_blocking=True)  # (b, steps)
        share = 1 / (total * steps)
        for t in times.unbind(1):
            x_t = rl.interpolate(x0, self.policy.noise(generators), t)
            with torch.no_grad():
                with self.weights.role("old") as transformer:
                    v_old = self.policy.velocity(transformer, conditions)(x_t, t)
                v_ref = None
                if self.kl_weight > 0:
                    with self.weights.role("reference") as transformer:
                        v_ref = self.policy.velocity(transformer, conditions)(x_t, t)
            v = self.policy.velocity(self.weights.transformer, conditions)(x_t, t)
            loss = rl.nft_loss(
                v,
                v_old,
                x0,
                x_t,
                t,
                r,
                v_ref=v_ref,
                beta=self.beta,
                kl_weight=self.kl_weight,
                scale=ADVANTAGE_CLIP,
                denominator=1 / share,
            )
            numbers = loss.log_dict()
            for name in ("old_deviate", "old_deviate_max", "x0_norm", "x0_norm_max"):
                numbers[name] = numbers[name] * (len(x0) * share)
            yield loss.total, numbers | {"velocity_norm": train.velocity_norm(v) * share}

    def update(self, samples: list[train.Samples]) -> dict[str, float]:
        """Take `passes * updates_per_epoch` optimizer steps; gradients are summed over batches, times and ranks."""
        optimizer: Any = self.optimizers()
        sums, self.grad_norms = train.MetricSums(), list[Tensor]()
        for _ in range(self.passes):
            for part in train.split_evenly(samples, self.updates_per_epoch):
                total = sum(batch.total for batch in part)
                if not total:
                    continue  # on all ranks alike
                optimizer.zero_grad()
                with train.errors_together("update", self.trainer), train.local_gradients(self.trainer):
                    for batch in part:
                        for loss, numbers in self.losses(batch, total):
                            self.manual_backward(loss)
                            sums.add(numbers)
                train.sum_gradients(self.weights.trained().values())
                optimizer.step()
                sums.count_step()
                self.ema.update()
                self.updates += 1
        metrics = sums.over_ranks()
        metrics |= {"updates": float(self.updates), "trained_images": float(sum(batch.total for batch in samples))}
        if self.grad_norms:
            metrics["grad_norm"] = float(torch.stack(self.grad_norms).mean())
        if (norm := metrics.get("velocity_norm")) is not None:
            self.first_velocity_norm = self.first_velocity_norm or norm
            metrics["velocity_norm_drift"] = norm / self.first_velocity_norm - 1
        return metrics

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip gradients here, since with fp16 they have their true scale only now."""
        self.grad_norms.append(train.clip_gradients(self.weights.trained().values(), 1.0))

    # Evaluation and checkpoints.

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[str], seeds: Sequence[int], num_inference_steps: int | None = None
    ) -> list[Tensor]:
        """Sample with the averaged weights and Euler ODE steps; `GenEvalCallback` calls this.

        Args:
            prompts: Texts.
            seeds: One per prompt; an image depends on its own alone.
            num_inference_steps: Number of steps; `eval_steps` if None.

        Returns:
            uint8 images (3, h, w).

        Raises:
            ImageError: If a picture has NaN or infinite pixels, because the weights have diverged.
        """
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        with self.ema.average_parameters(), self.weights.role("trained") as transformer:
            velocity = self.policy.velocity(transformer, self.policy.encode(list(prompts)))
            sigmas = self.policy.sigmas(num_inference_steps or self.eval_steps)
            latents = rl.sample_ode(velocity, self.policy.noise(generators), sigmas, solver="euler")
        return list(self.policy.decode(latents))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what was trained: the policy, the old policy and their average, but no frozen weights."""
        checkpoint["state_dict"] = {}
        checkpoint["flow_rl"] = {
            "method": self.method,
            **train.policy_state(self.weights, self.ema),
            "images_sampled": self.images_sampled,
            "updates": self.updates,
            "first_velocity_norm": self.first_velocity_norm,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from a checkpoint of the same method and model."""
        state = checkpoint.get("flow_rl", {"method": "none"})
        if state["method"] != self.method:
            raise UsageError(f"checkpoint: expected one of {self.method}, got one of {state['method']}")
        train.load_policy_state(self.weights, self.ema, state)
        self.images_sampled, self.updates = int(state["images_sampled"]), int(state["updates"])
        self.first_velocity_norm = state.get("first_velocity_norm")


def main(args: list[str] | None = None) -> LightningCLI:
    """Run the command line, with `args` in place of `sys.argv` if they are given."""
    return train.RecipeCLI(DiffusionNFT, train.PromptGroups, args=args)


if __name__ == "__main__":
    main()
