"""`strategy: fsdp2`: the transformer's weights spread over the ranks by PyTorch's `fully_shard` (FSDP2).

With LoRA, only the frozen weights are spread, which take most of the memory. Every rank keeps the small adapters whole, so
that they can be switched within a step. In full fine-tuning, the trained, old and reference weights are spread, along with
their average, gradients and AdamW's state. Checkpoints hold whole tensors, so a run can be resumed with or without
sharding.

All ranks must make the same forward and backward passes in the same order; `idle_passes` makes those that a rank without
samples to train on would skip.

Source: PyTorch's documentation of `torch.distributed.fsdp.fully_shard`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from torch import Tensor, nn
from torch.optim import Optimizer

from geneval_reward.errors import UsageError
from geneval_reward.train.policy import Conditions, FlowPolicy
from geneval_reward.train.sharded_tensors import gather_whole, place_like
from geneval_reward.train.weights import PolicyWeights, Role

_NEEDED: Final = "set_force_sum_reduction_for_comms"  # the most recently added of the methods used here
_OTHERS: Final = ("FSDP", "DeepSpeed", "ModelParallel")


class FSDP2Strategy(DDPStrategy):
    """Like `ddp` in its processes, checkpoints and results, but with the weights spread over all ranks.

    It is registered as `fsdp2`, so `Trainer(strategy="fsdp2")` and `--trainer.strategy fsdp2` find it once
    `geneval_reward.train` is imported. It works with recipes only, because it shards their `weights`.

    Args:
        **kwargs: Arguments of Lightning's `DDPStrategy` that concern processes, such as `process_group_backend`.
    """

    strategy_name = "fsdp2"

    def model_to_device(self) -> None:
        """Spread the transformer block by block, so that no GPU ever holds all of it, then move the rest."""
        weights = getattr(self.lightning_module, "weights", None)
        if weights is None:
            raise UsageError(
                f"strategy: expected a recipe of geneval_reward for fsdp2, got {type(self.lightning_module).__name__}; "
                "use ddp, or Lightning's own ModelParallelStrategy"
            )
        shard(weights, self.root_device.type)
        super().model_to_device()

    def configure_ddp(self) -> None:
        """Do nothing: the transformer gathers its own weights."""

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the state with whole tensors, on rank 0 only."""
        state: dict[str, Any] = super().optimizer_state(optimizer)
        return state | {"state": {index: gather_whole(values) for index, values in state["state"].items()}}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load whole tensors; each rank takes its share."""
        states = []
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            split = {
                index: {
                    name: place_like(value, parameters[index])
                    if isinstance(value, Tensor) and value.shape == parameters[index].shape
                    else value
                    for name, value in values.items()
                }
                for index, values in state["state"].items()
            }
            states.append(state | {"state": split})
        super().load_optimizer_state_dict({"optimizer_states": states})

    def teardown(self) -> None:
        """Leave shards on their device; they could not be gathered after a move."""
        module, optimizers = self._lightning_module, self.optimizers
        self._lightning_module, self.optimizers = None, []
        try:
            super().teardown()
        finally:
            self._lightning_module, self.optimizers = module, optimizers


StrategyRegistry.register(
    FSDP2Strategy.strategy_name, FSDP2Strategy, description="FSDP2 for the RL recipes of geneval_reward", override=True
)


def check_strategy(trainer: Any, weights: PolicyWeights) -> None:
    """Refuse a Trainer whose strategy or precision cannot work with these weights.

    Raises:
        UsageError: If the strategy shards in a way that does not support switching adapters within a step, or each rank
            would choose its own loss scale.
    """
    name, sharded = type(trainer.strategy).__name__, isinstance(trainer.strategy, FSDP2Strategy)
    if not sharded and any(kind in name for kind in _OTHERS):
        raise UsageError(
            f"strategy: expected auto, ddp or fsdp2, got {name}, which does not shard adapters that are switched "
            "within a step; use fsdp2. LoRA with gradient_checkpointing and dtype=bf16 fits FLUX on one 80 GB GPU"
        )
    if sharded and not weights.lora and trainer.precision == "16-mixed":
        raise UsageError(
            "precision: expected bf16-mixed or 32-true for full fine-tuning under fsdp2, got 16-mixed, with which every "
            "rank would choose a loss scale of its own"
        )


def refuse_sharded(trainer: Any) -> None:
    """Refuse a Trainer whose strategy spreads weights over the ranks, for methods that keep them whole.

    Raises:
        UsageError: If it does.
    """
    name = type(trainer.strategy).__name__
    if isinstance(trainer.strategy, FSDP2Strategy) or any(kind in name for kind in _OTHERS):
        raise UsageError(f"strategy: expected auto or ddp, got {name}; this method keeps all weights on every rank")


def shard(weights: PolicyWeights, device_type: str) -> None:
    """Spread a policy's weights over all ranks, in place; weights that are already spread are left alone.

    Args:
        weights: The policy; its adapters stay whole.
        device_type: `cuda` or `cpu`.

    Raises:
        UsageError: If PyTorch is too old.
    """
    import torch.distributed.fsdp as fsdp
    from torch.distributed.device_mesh import init_device_mesh

    if not hasattr(getattr(fsdp, "FSDPModule", None), _NEEDED):
        raise UsageError(
            f"strategy: expected a PyTorch with FSDPModule.{_NEEDED} for fsdp2, got {torch.__version__}; use ddp"
        )
    # diffusers' blocks that return a view of a tensor cause this warning. Neither they nor we change it in place.
    warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device_type, (dist.get_world_size(),))
    for model in (weights.transformer, weights.old, weights.reference):
        if model is None or isinstance(model, fsdp.FSDPModule):
            continue
        adapters = {p for name, p in model.named_parameters() if weights.lora and "lora_" in name}
        blocks = [block for part in model.children() if isinstance(part, nn.ModuleList) for block in part]
        for module in (*blocks, model):
            # Reshard after each forward pass, the root too; otherwise its weights would be whole when they are averaged.
            fsdp.fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=adapters)
        for module in model.modules():
            if isinstance(module, fsdp.FSDPModule):
                # Losses are shares of the sum over all ranks, and gloo only supports a plain sum.
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)


def idle_passes(
    trainer: Any, policy: FlowPolicy, weights: PolicyWeights, conditions: Conditions, steps: int, roles: Sequence[Role]
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Yield the losses of a batch without samples to train on.

    Under `fsdp2` these have gradient 0, and their passes gather the weights along with the other ranks. Other strategies
    yield nothing.

    Args:
        trainer: The Trainer of the run.
        policy: Computes velocities.
        weights: The policies.
        conditions: At least one row.
        steps: Number of losses that the batch would have yielded.
        roles: The forward passes of each loss, in order; only `trained` is differentiated.
    """
    if not isinstance(trainer.strategy, FSDP2Strategy):
        return
    x = torch.zeros((1, *policy.latent_shape), device=policy.device)
    t, conditions = torch.full((1,), 0.5, device=policy.device), conditions.rows(slice(0, 1))
    for _ in range(steps):
        loss = x.sum()
        for role in roles:
            with torch.set_grad_enabled(role == "trained"), weights.role(role) as transformer:
                v = policy.velocity(transformer, conditions)(x, t)
            if role == "trained":
                loss = (v * 0).sum()
        yield loss, {}
