"""Flow-GRPO (arXiv 2505.05470): sample with an SDE, then raise the probability of the steps that led to good images.

Variants: Flow-GRPO-Fast and MixGRPO (stochastic steps in a window), CPS steps, GRPO-Guard.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from geneval_reward.errors import UsageError
from geneval_reward.rl import (
    gaussian_kl,
    guarded_ratio_loss,
    num_train_steps,
    progressive_window,
    random_window,
    ratio_loss,
    sample_sde,
    sde_step,
)
from geneval_reward.train.epoch import Chunk, Epoch, velocity_norm
from geneval_reward.train.module import FlowRL
from geneval_reward.train.policy import Conditions


class FlowGRPO(FlowRL):
    """Flow-GRPO as released; the defaults are its GenEval setting for SD3.5-M.

    Args:
        kind: `sde` or `cps`.
        noise_level: 0.7 for `sde`, 0.8 for `cps`.
        clip_range: Of the ratio; 1e-4 for some 65,000 latent dimensions (1e-5 without guidance), about 0.2 for a hundred.
        kl_weight: Of the KL to the untrained model; .04 for GenEval, 0 in Fast.
        window: `all`, `random` (Flow-GRPO-Fast: three steps within the first half, anew each epoch) or `progressive`
            (MixGRPO: four steps that move on every 25 epochs).
        guard: GRPO-Guard's normalised ratio; its clip range is 2e-6.
        drop_zero_advantage: Leave samples of advantage 0 out before training, as released. The ratio of the first step is then
            1 but for rounding, since kernels differ with the batch size.
        **common: Arguments of `FlowRL`.
    """

    method = "flow-grpo"

    def __init__(
        self,
        *args: Any,
        kind: Literal["sde", "cps"] = "sde",
        noise_level: float = 0.7,
        clip_range: float = 1e-4,
        kl_weight: float = 0.04,
        window: Literal["all", "random", "progressive"] = "all",
        guard: bool = False,
        drop_zero_advantage: bool = True,
        **common: Any,
    ) -> None:
        super().__init__(*args, reference=kl_weight > 0, **common)
        if guard and kind != "sde":
            raise UsageError(f"guard: expected kind 'sde', got {kind!r}")
        if window not in ("all", "random", "progressive"):
            raise UsageError(f"window: expected 'all', 'random' or 'progressive', got {window!r}")
        self.kind, self.noise_level, self.clip_range = kind, noise_level, clip_range
        self.kl_weight, self.window, self.guard, self.drop_zero_advantage = (
            kl_weight,
            window,
            guard,
            drop_zero_advantage,
        )

    def rollout(
        self, noise: Tensor, conditions: Conditions, generators: list[torch.Generator]
    ) -> tuple[Tensor, dict[str, Any]]:
        """The trained policy's SDE, every stochastic step kept."""
        with self.weights.role("trained") as transformer:
            rollout = sample_sde(
                self.policy.velocity(transformer, conditions),
                noise,
                self.policy.sigmas(self.num_steps),
                window=self._window(),
                kind=self.kind,
                noise_level=self.noise_level,
                generator=generators,
                keep_means=self.guard,
            )
        return rollout.x, {"rollout": rollout}

    def count(self, epoch: Epoch, chunks: Sequence[int]) -> int:
        """Samples with an advantage, or all scored ones."""
        return sum((epoch.useful if self.drop_zero_advantage else epoch.scored)[index] for index in chunks)

    def losses(
        self, chunk: Chunk, advantages: Tensor, weights: Tensor, total: float
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """One for each stochastic step, but for the last of a rollout that is stochastic throughout."""
        keep = chunk.finite & (weights > 0)
        if self.drop_zero_advantage:
            keep &= advantages != 0
        rollout = chunk.extra["rollout"]
        steps = rollout.log_probs.shape[1]
        if steps == self.num_steps:
            steps = num_train_steps(self.num_steps, self.timestep_fraction)
        if not bool(keep.any()):
            yield from self.idle(chunk, steps, ["trained", "reference"] if self.kl_weight > 0 else ["trained"])
            return
        conditions, a, share = chunk.conditions.rows(keep), advantages[keep], int(keep.sum()) / (total * steps)
        for k in range(steps):
            x, x_next, old = rollout.states[keep, k], rollout.states[keep, k + 1], rollout.log_probs[keep, k]
            t, t_next = rollout.t[k], rollout.t_next[k]
            taken, v = self._step("trained", conditions, x, x_next, t, t_next)
            common: dict[str, Any] = {
                "clip_range": self.clip_range,
                "adv_clip": self.advantage_clip,
                "denominator": total * steps,
            }
            if self.guard:
                means = rollout.means[keep, k]
                loss = guarded_ratio_loss(
                    taken.log_prob, old, taken.mean, means, taken.sigma, taken.sqrt_dt, a, **common
                )
            else:
                loss = ratio_loss(taken.log_prob, old, a, **common)
            numbers = {name: v * share for name, v in loss.log_dict().items()}
            numbers["policy_loss"] = loss.policy.detach()
            numbers["ratio_deviation_max"] = (loss.ratio - 1).abs().max()
            objective = loss.policy
            if self.kl_weight > 0:
                with torch.no_grad():
                    reference, _ = self._step("reference", conditions, x, x_next, t, t_next)
                kl = gaussian_kl(taken.mean, reference.mean, taken.sigma).sum() / (total * steps)
                objective = objective + self.kl_weight * kl
                numbers["kl"] = kl.detach()
                numbers["kl_loss"] = self.kl_weight * kl.detach()
            numbers["total_loss"] = objective.detach()
            numbers["velocity_norm"] = velocity_norm(v) / (total * steps)
            yield objective, numbers

    def _step(
        self,
        role: Literal["trained", "reference"],
        conditions: Conditions,
        x: Tensor,
        x_next: Tensor,
        t: Tensor,
        t_next: Tensor,
    ) -> tuple[Any, Tensor]:
        with self.weights.role(role) as transformer:
            v = self.policy.velocity(transformer, conditions)(x, t.expand(len(x)))
        return sde_step(v, x, t, t_next, kind=self.kind, noise_level=self.noise_level, x_next=x_next), v

    def _window(self) -> tuple[int, int] | None:
        if self.window == "all":
            return None
        if self.window == "progressive":
            return progressive_window(self.current_epoch, self.num_steps, size=min(4, self.num_steps))
        # Drawn from the epoch alone, so that all ranks and a resumed run draw the same.
        generator = torch.Generator().manual_seed(self.current_epoch)
        half = max(1, self.num_steps // 2)
        return random_window(self.num_steps, size=min(3, half), bounds=(0, half), generator=generator)
