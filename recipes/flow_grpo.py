"""Flow-GRPO with GenEval rewards (arXiv 2505.05470), for Stable Diffusion 3 and 3.5, FLUX and the pocket model.

    python recipes/flow_grpo.py fit --config configs/flow_grpo_pocket.yaml
    python recipes/flow_grpo.py fit --config configs/flow_grpo_sd35_medium_one_gpu.yaml --model.kl_weight 0
    python recipes/flow_grpo.py fit --config configs/flow_grpo_pocket.yaml --ckpt_path last     # goes on where it stopped

This file is the whole method, in the order of the algorithm: read it from top to bottom, copy it and change it. What is not
the method is called by name: `geneval_reward.train` (the diffusers pipeline as a policy, adapters and averages, rewards in
flight, ranks) and `geneval_reward.rl` (the equations as pure functions). One epoch of the method is one Lightning batch:

    x_0 .. x_10 = SDE sample of the policy, 24 images per prompt    `sample`; the reward scores while the next batch is sampled
    A    = (R - mean of the prompt) / (std of all R + 1e-4)         `advantages`, from the rewards of all ranks
    rho  = exp(log p(x_k+1 | x_k) - log p_old(x_k+1 | x_k))         `losses`, at 9 of 10 stochastic steps; a log-probability is
    loss = max(-A rho, -A clip(rho, 1 - c, 1 + c)) + .04 KL         a mean over the latent dimensions
    two optimizer steps, each over half of the batches              `update`

| | paper | released code (yifan123/flow_grpo, ac4c86e) | here, and why |
|---|---|---|---|
| reward | GenEval | mean over the clauses of a prompt (`scores`), not 0/1 | `credit: flow_grpo` is that number |
| KL | weight beta | mean square of the means' distance / (2 sigma^2), without dt | as released |
| log p_old | - | of x' before it is rounded to fp16 | of x' as it is stored: the ratio of the first step is exactly 1 |
| guidance 4.5 | in both | unconditional branch detached (later versions do not) | gradients through both branches |
| zero advantage | - | dropped, then topped up until batches divide | dropped; the loss is divided by what is left on all ranks |
| two updates | - | batches shuffled before they are halved | in the order of the rollout, which is shuffled already |
| evaluation | average | decay min((1 + i)/(10 + i), .9), moved twice at each 8th step | as released; `ema_every: 1` if short |
| groups | one per prompt | samples with equal prompt texts | one per slot: a prompt that is drawn twice makes two groups |
| colours | - | BGR crops are given to CLIP as RGB | channels in order (`paper`) |
| TF32 | - | on | PyTorch's default: set `torch.set_float32_matmul_precision("high")` for it |

Variants: `--model.variant fast --model.noise_level .8 --model.kl_weight 0` is Flow-GRPO-Fast, `--model.variant mix` has
MixGRPO's window, `--model.variant guard --model.clip_range 2e-6` is GRPO-Guard.

Needs the extras `lightning` and `diffusers`.
"""

from __future__ import annotations

import time
import warnings
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


class FlowGRPO(LightningModule):
    """Flow-GRPO; the defaults are the released GenEval setting for SD3.5-M.

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
        variant: `plain`; `cps`, which steps by another rule; `fast` (Flow-GRPO-Fast: CPS, stochastic at three steps within the
            first half, drawn anew in each epoch); `mix` (MixGRPO: stochastic at four steps that move on every 25 epochs); or
            `guard` (GRPO-Guard's normalised ratio).
        noise_level: Noise of the stochastic steps: 0.7, or 0.8 for `cps` and `fast`.
        clip_range: Bound of the ratio's distance from 1: 1e-4 for some 65,000 latent dimensions (1e-5 without guidance), 3e-3
            for a hundred, 2e-6 for `guard`. bfloat16 rounds more than 1e-4 away.
        kl_weight: Weight of the KL to the untrained model: 0.04 for GenEval, 0 for `fast`.
        ema_every: The evaluated average moves at each so-many-th optimizer step: 8 as released.

    Raises:
        UsageError: If a number is out of range.
    """

    method = "flow-grpo"

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
        variant: Literal["plain", "cps", "fast", "mix", "guard"] = "plain",
        noise_level: float = 0.7,
        clip_range: float = 1e-4,
        kl_weight: float = 0.04,
        ema_every: int = 8,
    ) -> None:
        super().__init__()
        if min(num_steps, eval_steps, updates_per_epoch, passes) < 1:
            raise UsageError(
                "expected num_steps, eval_steps, updates_per_epoch and passes >= 1, got "
                f"{num_steps}, {eval_steps}, {updates_per_epoch} and {passes}"
            )
        if variant not in ("plain", "cps", "fast", "mix", "guard"):
            raise UsageError(f"variant: expected 'plain', 'cps', 'fast', 'mix' or 'guard', got {variant!r}")
        self.automatic_optimization = False  # one batch is a rollout with many backward passes
        self.strict_loading = False  # checkpoints have no frozen weights
        self.policy = policy
        self.weights = train.PolicyWeights(self.policy.transformer, lora_rank=lora_rank, reference=kl_weight > 0)
        self.ema = train.PolicyAverage(self.weights, max_decay=0.9, every=ema_every, moves=2 if ema_every > 1 else 1)
        self.reward: Any = reward
        self.credit = credit
        self.num_steps, self.eval_steps, self.timestep_fraction = num_steps, eval_steps, timestep_fraction
        self.learning_rate, self.updates_per_epoch, self.passes = learning_rate, updates_per_epoch, passes
        self.advantage_std = advantage_std
        self.variant, self.noise_level = variant, noise_level
        self.kind: Literal["sde", "cps"] = "cps" if variant in ("cps", "fast") else "sde"
        self.clip_range, self.kl_weight = clip_range, kl_weight
        self.images_sampled = self.updates = 0
        self.first_velocity_norm: float | None = None

    def setup(self, stage: str) -> None:
        """Refuse what cannot work, move the frozen parts to this rank's device, and find the reward."""
        train.check_strategy(self.trainer, self.weights)
        if "bf16" in str(self.trainer.precision) and self.clip_range < 1e-3 and self.variant != "guard":
            warnings.warn(
                f"clip_range: expected a range above the noise of bfloat16, got {self.clip_range:g}, while rounding alone moves "
                "a log-ratio by up to 4e-4; use precision 16-mixed with dtype fp16, as released",
                stacklevel=2,
            )
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
        # A sample of advantage 0 has no gradient and is left out, as released.
        train.deal_advantages(samples, groups.advantages, groups.trainable)
        scored = time.monotonic()
        metrics = self.update(samples)
        trained = time.monotonic()
        metrics |= {"images": float(self.images_sampled), "epoch_number": float(batch.epoch)}
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
        """Follow the policy's SDE, and keep every stochastic step.

        Args:
            noise: (b, C, H, W).
            conditions: The encoded prompts, (b,).
            generators: One per sample.

        Returns:
            Final latents (b, C, H, W), and what `losses` needs of the way there.
        """
        steps, window = self.num_steps, None
        if self.variant == "mix":
            window = rl.progressive_window(self.current_epoch, steps, size=min(4, steps))
        elif self.variant == "fast":
            # Drawn from the epoch alone, so that all ranks and a resumed run draw the same.
            half, generator = max(1, steps // 2), torch.Generator().manual_seed(self.current_epoch)
            window = rl.random_window(steps, size=min(3, half), bounds=(0, half), generator=generator)
        kept = rl.sample_sde(
            self.policy.velocity(self.weights.transformer, conditions),
            noise,
            self.policy.sigmas(steps),
            window=window,
            kind=self.kind,
            noise_level=self.noise_level,
            generator=generators,
            keep_means=self.variant == "guard",
        )
        return kept.x, kept

    # 2. Advantages.

    def advantages(self, scores: train.Scores) -> rl.GroupAdvantages:
        """`A = (R - mean of the prompt) / (std + 1e-4)`, clipped, from the rewards of all ranks."""
        if self.advantage_std == "gdpo":
            return scores.gdpo_advantages(self.credit, self.reward, clip=ADVANTAGE_CLIP)
        return rl.group_advantages(scores.rewards, scores.groups, std=self.advantage_std, clip=ADVANTAGE_CLIP)

    # 3. Losses and update.

    def losses(self, samples: train.Samples, total: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Yield a loss for each stochastic step, except the last one of a rollout that is stochastic throughout.

        Args:
            samples: A batch of the rollout with its advantages.
            total: How many samples of all ranks this optimizer step trains on. Losses and numbers to log are sums over
                samples divided by it, so that batches, timesteps and ranks add up exactly.
        """
        kept: rl.Rollout = samples.kept
        steps = kept.log_probs.shape[1]
        if steps == self.num_steps:
            steps = rl.num_train_steps(self.num_steps, self.timestep_fraction)
        if not len(samples.rows):
            roles: list[train.Role] = ["trained", "reference"] if self.kl_weight > 0 else ["trained"]
            yield from train.idle_passes(self.trainer, self.policy, self.weights, samples.conditions, steps, roles)
            return
        rows = samples.rows.to(self.device, non_blocking=True)
        conditions = samples.conditions.rows(rows)
        advantages = samples.advantages[samples.rows].to(self.device, non_blocking=True)
        bounds: dict[str, Any] = {"clip_range": self.clip_range, "adv_clip": ADVANTAGE_CLIP}
        bounds["denominator"] = total * steps
        share = len(samples.rows) / (total * steps)
        for k in range(steps):
            x, x_next, log_prob_old = kept.states[rows, k], kept.states[rows, k + 1], kept.log_probs[rows, k]
            t, t_next = kept.t[k], kept.t_next[k]
            step, v = self.measure(self.weights.transformer, conditions, x, x_next, t, t_next)
            if kept.means is not None:  # GRPO-Guard
                means = kept.means[rows, k]
                loss = rl.guarded_ratio_loss(
                    step.log_prob, log_prob_old, step.mean, means, step.sigma, step.sqrt_dt, advantages, **bounds
                )
            else:
                loss = rl.ratio_loss(step.log_prob, log_prob_old, advantages, **bounds)
            numbers = {name: value * share for name, value in loss.log_dict().items()}
            numbers["policy_loss"] = loss.policy
            numbers["ratio_deviation"] = (loss.ratio - 1).abs().sum() / (total * steps)
            objective = loss.policy
            if self.kl_weight > 0:
                with torch.no_grad(), self.weights.role("reference") as transformer:
                    reference, _ = self.measure(transformer, conditions, x, x_next, t, t_next)
                numbers["kl_loss"] = rl.gaussian_kl(step.mean, reference.mean, step.sigma).sum() / (total * steps)
                objective = objective + self.kl_weight * numbers["kl_loss"]
            yield objective, numbers | {"loss": objective, "velocity_norm": train.velocity_norm(v) / (total * steps)}

    def measure(
        self, transformer: Any, conditions: train.Conditions, x: Tensor, x_next: Tensor, t: Tensor, t_next: Tensor
    ) -> tuple[rl.SDEStep, Tensor]:
        """Return log-probability and mean of a stored step under a policy, and the velocity that they come from."""
        v = self.policy.velocity(transformer, conditions)(x, t.expand(len(x)))
        return rl.sde_step(v, x, t, t_next, kind=self.kind, noise_level=self.noise_level, x_next=x_next), v

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
    return train.RecipeCLI(FlowGRPO, train.PromptGroups, args=args)


if __name__ == "__main__":
    main()
