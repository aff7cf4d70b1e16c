"""DiffusionNFT (arXiv 2509.16117): sample with the old policy's ODE, then contrast good and bad on the forward process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from geneval_reward.rl import (
    interpolate,
    nft_loss,
    num_train_steps,
    old_policy_decay,
    optimality_probability,
    permuted_steps,
    sample_ode,
)
from geneval_reward.rl.nft import AdvantageMode
from geneval_reward.train.epoch import Chunk, velocity_norm
from geneval_reward.train.module import FlowRL
from geneval_reward.train.policy import Conditions


class DiffusionNFT(FlowRL):
    """DiffusionNFT as released; the defaults are its GenEval setting for SD3.5-M.

    Args:
        beta: 1 for GenEval, 0.1 for several rewards.
        kl_weight: Of the distance to the untrained model's velocity; 0 leaves it out.
        advantage_mode: As `geneval_reward.rl.optimality_probability`.
        adaptive: The released weighting by each sample's own error.
        solver: ODE solver of the rollout, `dpm2` or `euler`.
        old_decay: The released schedule of the old policy, 0, 1 or 2.
        old_decay_max: Ceiling of that decay.
        old_decay_rate: Growth of the decay an epoch, in place of the schedule's own; runs of tens of epochs need more.
        **common: Arguments of `FlowRL`.
    """

    method = "diffusion-nft"
    needs_old = True

    def __init__(
        self,
        *args: Any,
        beta: float = 1.0,
        kl_weight: float = 1e-4,
        advantage_mode: AdvantageMode = "all",
        adaptive: bool = True,
        solver: Literal["dpm2", "euler"] = "dpm2",
        old_decay: int = 1,
        old_decay_rate: float | None = None,
        old_decay_max: float = 0.5,
        **common: Any,
    ) -> None:
        super().__init__(*args, reference=kl_weight > 0, **common)
        self.beta, self.kl_weight, self.advantage_mode, self.adaptive = beta, kl_weight, advantage_mode, adaptive
        self.solver, self.old_decay = solver, old_decay
        self.old_decay_rate, self.old_decay_max = old_decay_rate, old_decay_max
        old_policy_decay(0, old_decay)  # refuse an unknown schedule now

    def rollout(
        self, noise: Tensor, conditions: Conditions, generators: list[torch.Generator]
    ) -> tuple[Tensor, dict[str, Any]]:
        """The old policy's ODE; only the end of it is needed."""
        with self.weights.role("old") as transformer:
            velocity = self.policy.velocity(transformer, conditions)
            return sample_ode(velocity, noise, self.policy.sigmas(self.num_steps), solver=self.solver), {}

    def losses(
        self, chunk: Chunk, advantages: Tensor, weights: Tensor, total: float
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """At each of the rollout's times but one, in an order of each sample's own, with fresh noise."""
        sigmas = self.policy.sigmas(self.num_steps)
        steps = num_train_steps(self.num_steps, self.timestep_fraction)
        orders = [
            permuted_steps(1, self.num_steps, fraction=self.timestep_fraction, generator=g) for g in chunk.generators
        ]
        times = sigmas[torch.cat(orders)].to(self.device)  # (b, steps)
        noises = [self.policy.noise(chunk.generators) for _ in range(steps)]
        # A sample with NaN latents would make the gradients of the others NaN, even with weight 0.
        keep = chunk.finite & (weights > 0)
        if not bool(keep.any()):
            yield from self.idle(
                chunk, steps, ["old", "reference", "trained"] if self.kl_weight > 0 else ["old", "trained"]
            )
            return
        x0, r = (
            chunk.latents[keep],
            optimality_probability(advantages[keep], mode=self.advantage_mode, clip=self.advantage_clip),
        )
        conditions = chunk.conditions.rows(keep)
        for step in range(steps):
            t = times[keep, step]
            x_t = interpolate(x0, noises[step][keep], t)
            with torch.no_grad():
                v_old = self._velocity("old", conditions, x_t, t)
                v_ref = self._velocity("reference", conditions, x_t, t) if self.kl_weight > 0 else None
            v = self._velocity("trained", conditions, x_t, t)
            loss = nft_loss(
                v,
                v_old,
                x0,
                x_t,
                t,
                r,
                v_ref=v_ref,
                beta=self.beta,
                kl_weight=self.kl_weight,
                scale=self.advantage_clip,
                adaptive=self.adaptive,
                denominator=total * steps,
            )
            numbers = loss.log_dict()
            share = len(x0) / (total * steps)
            for name in ("old_deviate", "x0_norm"):
                numbers[name] = numbers[name] * share
            numbers["kl_div_loss"] = self.kl_weight * loss.kl
            numbers["velocity_norm"] = velocity_norm(v) / (total * steps)
            yield loss.total, numbers

    def after_update(self) -> None:
        """The old policy follows, by the released schedule over optimizer steps or by one over epochs."""
        if self.old_decay_rate is None:
            decay = min(old_policy_decay(self.updates, self.old_decay), self.old_decay_max)
        else:
            decay = min(self.old_decay_rate * (self.current_epoch + 1), self.old_decay_max)
        self.weights.follow(decay)
        self.log("old_policy_decay", decay, on_step=True, on_epoch=False, batch_size=1)

    def _velocity(
        self, role: Literal["trained", "old", "reference"], conditions: Conditions, x: Tensor, t: Tensor
    ) -> Tensor:
        with self.weights.role(role) as transformer:
            return self.policy.velocity(transformer, conditions)(x, t)
