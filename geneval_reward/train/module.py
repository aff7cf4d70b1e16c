"""`FlowRL`: what every method that trains a flow model from rewards has in common, as a LightningModule.

One Lightning batch is one epoch of the method: `training_step` samples a rank's share of the groups while the reward scores
what is finished, gathers the rewards of all ranks, turns them into advantages and calls the method's `update`. A method is a
subclass with `rollout` (how a batch is sampled) and `losses` (what is minimised); see `diffusion_nft.py` and
`flow_grpo.py`.

No random state is ever read: every image's noise comes from `seed_for(seed, "epoch/group", repeat)`. Hence batch size and
number of processes do not change what is sampled, and a resumed run goes on as if it had never stopped.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule
from torch import Tensor

from geneval_reward.errors import UsageError
from geneval_reward.generate.seeds import seed_for
from geneval_reward.rl import DistributedKRepeatSampler, sample_ode
from geneval_reward.train.data import RolloutBatch
from geneval_reward.train.epoch import Chunk, Epoch, epoch_advantages, reward_metrics, split_evenly
from geneval_reward.train.policy import Conditions, FlowPolicy, load_pipeline
from geneval_reward.train.ranks import gather, raise_together, sum_gradients, sum_over_ranks
from geneval_reward.train.rewards import RewardQueue, load_reward
from geneval_reward.train.sharding import FSDP2Strategy, idle_passes, is_sharded
from geneval_reward.train.weights import (
    LORA_TARGETS,
    PolicyAverage,
    PolicyWeights,
    Role,
    load_weights,
    saved_weights,
)


class FlowRL(LightningModule, ABC):
    """Base of the methods; see the module's text.

    Args:
        pipeline: What `geneval_reward.train.policy.load_pipeline` takes.
        dtype: Of what diffusers loads: `fp32`, `bf16`, `fp16`.
        reward: `lite`, `paper`, `module:function`, or a callable such as `GenEvalReward`.
        credit: Credit of a backend's reward: `official`, `strict`, `partial`, `dense`, `flow_grpo`; or weights of
            several, such as `{official: 1, partial: 1}`.
        async_reward: Score in a thread while sampling goes on.
        resolution: Of the images in pixels; None for the pipeline's own.
        num_steps: Sampling steps of the rollout.
        eval_steps: Euler ODE steps of `generate`.
        guidance_scale: 1 for none.
        max_sequence_length: Text tokens of a T5 encoder.
        lora_rank: 0 for full fine-tuning.
        lora_alpha: Scale of the adapters.
        lora_targets: Module names that get one.
        gradient_checkpointing: Recompute activations to save memory.
        learning_rate: Of AdamW.
        betas: Of AdamW.
        weight_decay: Of AdamW.
        max_grad_norm: Gradients are clipped to it.
        updates_per_epoch: Optimizer steps over consecutive parts of the rollout (1 as released for GenEval's NFT, 2 for GRPO).
        passes: Times that the whole rollout is gone through.
        timestep_fraction: Share of the rollout's steps that is trained.
        advantage_std: `global`, `group` or `none`; or `gdpo`, which normalises every credit of `credit`, or every part
            of a `CompositeReward`, within its groups before they are added.
        advantage_clip: Bound of the absolute advantage.
        ema_decay: Ceiling of the evaluated average's decay.

    Raises:
        ValueError: If a number is out of range or a part of the pipeline does not fit.
    """

    method = "flow-rl"
    needs_old = False

    def __init__(
        self,
        pipeline: Any = "pocket",
        *,
        dtype: str = "fp32",
        reward: str | Callable[..., Any] = "lite",
        credit: str | dict[str, float] = "official",
        async_reward: bool = True,
        resolution: int | None = None,
        num_steps: int = 10,
        eval_steps: int = 40,
        guidance_scale: float = 1.0,
        max_sequence_length: int = 128,
        lora_rank: int = 32,
        lora_alpha: int = 64,
        lora_targets: Sequence[str] = LORA_TARGETS,
        gradient_checkpointing: bool = False,
        learning_rate: float = 3e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 1e-4,
        max_grad_norm: float = 1.0,
        updates_per_epoch: int = 1,
        passes: int = 1,
        timestep_fraction: float = 0.99,
        advantage_std: Literal["global", "group", "none", "gdpo"] = "global",
        advantage_clip: float = 5.0,
        ema_decay: float = 0.9,
        reference: bool = True,
    ) -> None:
        super().__init__()
        for name, number in {
            "num_steps": num_steps,
            "eval_steps": eval_steps,
            "updates_per_epoch": updates_per_epoch,
            "passes": passes,
        }.items():
            if number < 1:
                raise UsageError(f"{name}: expected an integer >= 1, got {number}")
        # One step is a rollout with many backward passes; Lightning's own loop has one.
        self.automatic_optimization = False
        self.strict_loading = False  # the frozen weights are not in checkpoints
        self.policy = FlowPolicy(
            load_pipeline(pipeline, dtype),
            resolution=resolution,
            guidance_scale=guidance_scale,
            max_sequence_length=max_sequence_length,
        )
        if gradient_checkpointing:
            self.policy.transformer.enable_gradient_checkpointing()
        self.weights = PolicyWeights(
            self.policy.transformer,
            lora_rank=lora_rank,
            lora_alpha=lora_alpha,
            lora_targets=lora_targets,
            old=self.needs_old,
            reference=reference,
        )
        self.ema = PolicyAverage(self.weights, ema_decay)
        self.reward: Any = reward
        self.credit, self.async_reward = credit, async_reward
        self.num_steps, self.eval_steps = num_steps, eval_steps
        self.learning_rate, self.betas, self.weight_decay = learning_rate, betas, weight_decay
        self.max_grad_norm = max_grad_norm
        self.updates_per_epoch, self.passes = updates_per_epoch, passes
        self.timestep_fraction = timestep_fraction
        self.advantage_std, self.advantage_clip = advantage_std, advantage_clip
        self.images_sampled = 0
        self.updates = 0
        self.first_velocity_norm: float | None = None

    # What a method defines.

    @abstractmethod
    def rollout(
        self, noise: Tensor, conditions: Conditions, generators: list[torch.Generator]
    ) -> tuple[Tensor, dict[str, Any]]:
        """Sample a batch; returns the final latents and what `losses` needs of the way there."""

    @abstractmethod
    def losses(
        self, chunk: Chunk, advantages: Tensor, weights: Tensor, total: float
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Yield one loss a trained timestep, to be differentiated at once, with numbers to log.

        Losses are sums over samples divided by `total`, so that batches, timesteps and ranks add up exactly. Numbers are
        shares of the whole too, but for names that end in `_max`.
        """

    def count(self, epoch: Epoch, chunks: Sequence[int]) -> int:
        """How many samples of all ranks the given chunks train on."""
        return sum(epoch.scored[index] for index in chunks)

    def after_update(self) -> None:
        """Called after the last optimizer step of an epoch."""

    # What all share.

    @property
    def sharded(self) -> bool:
        """Whether weights are spread over ranks, so that all must make the same passes."""
        return isinstance(self.trainer.strategy, FSDP2Strategy)

    def idle(self, chunk: Chunk, steps: int, roles: Sequence[Role]) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """What `losses` yields of a batch without samples to train on: nothing, or sharded passes with gradient 0.

        Args:
            chunk: The batch.
            steps: Losses that it would have yielded.
            roles: The forward passes of each, in order.
        """
        if self.sharded:
            x = torch.zeros((1, *self.policy.latent_shape), device=self.device)
            yield from idle_passes(self.policy, self.weights, chunk.conditions.rows(slice(0, 1)), x, steps, roles)

    def setup(self, stage: str) -> None:
        """Refuse what cannot work, and move the frozen parts to this rank's device."""
        strategy = type(self.trainer.strategy).__name__
        if not self.sharded and any(kind in strategy for kind in ("FSDP", "DeepSpeed", "ModelParallel")):
            raise UsageError(
                f"strategy: expected auto, ddp or fsdp2, got {strategy}, which does not shard adapters that are switched "
                "within a step; use fsdp2. LoRA with gradient_checkpointing and dtype=bf16 fits FLUX on one 80 GB GPU"
            )
        if self.sharded and not self.weights.lora and self.trainer.precision == "16-mixed":
            raise UsageError(
                "precision: expected bf16-mixed or 32-true for full fine-tuning under fsdp2, got 16-mixed, whose loss scale "
                "ranks would choose apart"
            )
        device = self.trainer.strategy.root_device
        self.policy.to(device)
        self.reward = load_reward(self.reward, self.credit, device)

    def on_train_start(self) -> None:
        """Check that groups reach this module as they were made."""
        loader = self.trainer.train_dataloader
        if not isinstance(getattr(loader, "sampler", None), DistributedKRepeatSampler):
            raise UsageError(
                f"train_dataloader: expected a DistributedKRepeatSampler, got {type(getattr(loader, 'sampler', None)).__name__}; "
                "use PromptGroups and Trainer(use_distributed_sampler=False)"
            )

    def configure_optimizers(self) -> Any:
        """AdamW over the trained weights."""
        return torch.optim.AdamW(
            self.weights.trained().values(), lr=self.learning_rate, betas=self.betas, weight_decay=self.weight_decay
        )

    def training_step(self, batch: RolloutBatch, batch_idx: int) -> None:
        """One epoch of the method."""
        start = time.monotonic()
        with torch.no_grad():
            chunks, queue = self._sample(batch)
        sampled = time.monotonic()
        epoch, metrics = self._judge(chunks, queue)
        judged = time.monotonic()
        metrics |= self._train(epoch)
        metrics |= self._drift(metrics)
        self.after_update()
        trained = time.monotonic()
        self.images_sampled += len(batch.specs) * self.trainer.world_size
        metrics |= {
            "time/sampling": sampled - start - (0.0 if self.async_reward else queue.wait_seconds),
            "time/reward_wait": queue.wait_seconds,
            "time/reward_busy": queue.busy_seconds,
            "time/training": trained - judged,
            "time/step": trained - start,
            "images": float(self.images_sampled),
            "epoch_number": float(batch.epoch),
        }
        # The same numbers on all ranks, all but the times: nothing is left to be reduced.
        self.log_dict(metrics, on_step=True, on_epoch=False, batch_size=1)
        self.log("reward/mean", metrics["reward_mean"], prog_bar=True, on_step=True, on_epoch=False, batch_size=1)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Clip; here, since under fp16 gradients have their true scale only now."""
        parameters = [p for p in self.weights.trained().values() if p.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
        self._grad_norms.append(float(norm.full_tensor() if is_sharded(norm) else norm))  # type: ignore[attr-defined]

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[str], seeds: Sequence[int], num_inference_steps: int | None = None
    ) -> list[Tensor]:
        """Images of prompts, each from its own seed, with the averaged weights and Euler ODE steps; for evaluation.

        Args:
            prompts: Texts.
            seeds: One a prompt.
            num_inference_steps: `eval_steps` if None.

        Returns:
            uint8 tensors (3, h, w).

        Raises:
            ValueError: If the weights have diverged, so that latents are not finite.
        """
        policy = self.policy
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        with self.ema.average_parameters(), self.weights.role("trained") as transformer:
            velocity = policy.velocity(transformer, policy.encode(list(prompts)))
            sigmas = policy.sigmas(num_inference_steps or self.eval_steps)
            latents = sample_ode(velocity, policy.noise(generators), sigmas, solver="euler")
        if not bool(latents.isfinite().all()):
            raise UsageError("latents: expected finite numbers, got NaN or infinity; the weights have diverged")
        return list(policy.decode(latents))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what was trained: the policy, the old policy, their average; no frozen weights."""
        checkpoint["state_dict"] = {}
        checkpoint["flow_rl"] = {
            "method": self.method,
            **saved_weights(self.weights, self.ema),
            "images_sampled": self.images_sampled,
            "updates": self.updates,
            "first_velocity_norm": self.first_velocity_norm,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from a checkpoint of the same method and model."""
        state = checkpoint.get("flow_rl")
        if state is None or state["method"] != self.method:
            got = "none" if state is None else state["method"]
            raise UsageError(
                f"checkpoint: expected one of {self.method}, got one of {got}; give the one of this recipe"
            )
        load_weights(self.weights, self.ema, state)
        self.images_sampled, self.updates = int(state["images_sampled"]), int(state["updates"])
        self.first_velocity_norm = state.get("first_velocity_norm")

    def _sample(self, batch: RolloutBatch) -> tuple[list[Chunk], RewardQueue]:
        queue, error = RewardQueue(self.reward, asynchronous=self.async_reward, credit=self.credit), None
        chunks: list[Chunk] = []
        try:
            for start in range(0, len(batch.specs), batch.batch_size):
                part = slice(start, start + batch.batch_size)
                specs, slots = batch.specs[part], batch.slots[part]
                generators = [
                    torch.Generator().manual_seed(seed_for(batch.seed, f"{batch.epoch}/{slot.group}", slot.repeat))
                    for slot in slots
                ]
                conditions = self.policy.encode([spec.prompt for spec in specs])
                latents, extra = self.rollout(self.policy.noise(generators), conditions, generators)
                finite = latents.flatten(1).isfinite().all(1)
                rows = finite.nonzero().flatten().tolist()
                images = self.policy.decode(latents[finite]) if rows else latents[:0]
                queue.put([start + row for row in rows], images, [specs[row] for row in rows])
                chunks.append(Chunk(specs, slots, conditions, generators, latents, finite, extra))
        except Exception as caught:  # noqa: BLE001  told to all ranks before it is raised
            error = caught
        raise_together(error, f"rollout of epoch {batch.epoch}", self.sharded)
        return chunks, queue

    def _judge(self, chunks: list[Chunk], queue: RewardQueue) -> tuple[Epoch, dict[str, float]]:
        slots = [slot for chunk in chunks for slot in chunk.slots]
        error, rewards = None, [math.nan] * len(slots)
        credits: dict[str, list[float]] = {}
        try:
            rewards, credits = queue.rewards(len(slots))
        except Exception as caught:  # noqa: BLE001  told to all ranks before it is raised
            error = caught
        raise_together(error, "reward")
        tags = [spec.tag for chunk in chunks for spec in chunk.specs]
        sizes = [len(chunk.slots) for chunk in chunks]
        shares: list[dict[str, Any]] = gather(
            {"rewards": rewards, "groups": [s.group for s in slots], "tags": tags, "credits": credits}
        )
        everyone = [value for share in shares for value in share["rewards"]]
        if all(math.isnan(value) for value in everyone):
            raise RuntimeError(
                f"reward: expected at least one image of the epoch to have one, got {len(everyone)} without; the policy has "
                "diverged or the reward does not know the prompts"
            )
        groups = epoch_advantages(
            shares, everyone, self.advantage_std, self.advantage_clip, reward=self.reward, credit=self.credit
        )
        ranks = len(shares)
        by_rank = groups.advantages.view(ranks, -1), groups.weight.view(ranks, -1)
        rank = dist.get_rank() if ranks > 1 else 0
        epoch = Epoch(
            chunks=chunks,
            advantages=[a.to(self.device) for a in by_rank[0][rank].split(sizes)],
            weights=[w.to(self.device) for w in by_rank[1][rank].split(sizes)],
            groups=groups,
            scored=[int(w.sum()) for w in by_rank[1].split(sizes, 1)],
            useful=[int(u.sum()) for u in groups.trainable.view(ranks, -1).split(sizes, 1)],
        )
        return epoch, reward_metrics(shares, everyone, groups)

    def _train(self, epoch: Epoch) -> dict[str, float]:
        optimizer: Any = self.optimizers()
        self._grad_norms: list[float] = []
        sums: dict[str, float] = {}
        steps = 0
        for _ in range(self.passes):
            for part in split_evenly(len(epoch.chunks), self.updates_per_epoch):
                total = self.count(epoch, part)
                if not total:
                    continue  # on all ranks alike
                optimizer.zero_grad()
                error = None
                try:
                    with self._local_gradients():
                        for index in part:
                            self._accumulate(epoch, index, float(total), sums)
                except Exception as caught:  # noqa: BLE001  told to all ranks before it is raised
                    error = caught
                raise_together(error, "update", self.sharded)
                sum_gradients(self.weights.trained().values())
                optimizer.step()
                self.ema.update()
                self.updates += 1
                steps += 1
        metrics = sum_over_ranks(sums, max(steps, 1), self.device)
        metrics["actual_batch_size"] = float(sum(epoch.useful))
        metrics["updates"] = float(self.updates)
        if self._grad_norms:
            metrics["grad_norm"] = sum(self._grad_norms) / len(self._grad_norms)
        return metrics

    def _drift(self, metrics: dict[str, float]) -> dict[str, float]:
        """How much longer velocities are than in the first epoch, as a share."""
        if "velocity_norm" not in metrics:
            return {}
        if self.first_velocity_norm is None:
            self.first_velocity_norm = metrics["velocity_norm"]
        return {"velocity_norm_drift": metrics["velocity_norm"] / self.first_velocity_norm - 1}

    def _accumulate(self, epoch: Epoch, index: int, total: float, sums: dict[str, float]) -> None:
        chunk, advantages, weights = epoch.chunks[index], epoch.advantages[index], epoch.weights[index]
        for loss, numbers in self.losses(chunk, advantages, weights, total):
            self.manual_backward(loss)
            for name, value in numbers.items():
                sums[name] = (
                    max(sums.get(name, -math.inf), float(value))
                    if name.endswith("_max")
                    else (sums.get(name, 0.0) + float(value))
                )

    def _local_gradients(self) -> AbstractContextManager[Any]:
        """Gradients are added up here and summed over ranks once: ranks may then differ in their number of backward passes."""
        block: Callable[[], AbstractContextManager[Any]] | None = getattr(
            self.trainer.strategy, "block_backward_sync", None
        )
        return nullcontext() if block is None else block()
