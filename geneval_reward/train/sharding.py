"""`strategy: fsdp2`: the transformer's weights spread over the ranks by PyTorch's `fully_shard` (FSDP2).

With LoRA only the frozen weights are spread, which are what takes the memory: every rank keeps the small adapters whole, so
that they can be switched within a step. In full fine-tuning the trained, old and reference weights are spread, and with them
their average, gradients and AdamW's state. Checkpoints hold whole tensors: runs with and without sharding go on from each
other's.

All ranks must make the same forward and backward passes in the same order; `FlowRL.idle` makes those that a rank without
samples to train on would leave out.

Source: PyTorch's documentation of `torch.distributed.fsdp.fully_shard`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from torch import Tensor, nn
from torch.optim import Optimizer

from geneval_reward.errors import UsageError

if TYPE_CHECKING:
    from geneval_reward.train.policy import Conditions, FlowPolicy
    from geneval_reward.train.weights import PolicyWeights, Role

_NEEDED: Final = "set_force_sum_reduction_for_comms"  # the youngest of the methods used here


class FSDP2Strategy(DDPStrategy):
    """Processes, checkpoints and numbers as under `ddp`, but for weights that are spread over all ranks.

    Registered as `fsdp2`, so that `Trainer(strategy="fsdp2")` and `--trainer.strategy fsdp2` name it once
    `geneval_reward.train` is imported. For `FlowRL` alone, since only a module that says what it calls can be sharded.

    Args:
        **kwargs: Of Lightning's `DDPStrategy` that concern processes, such as `process_group_backend` and `timeout`.
    """

    strategy_name = "fsdp2"

    def model_to_device(self) -> None:
        """Spread the transformer block by block, so that no GPU holds all of it; then move the rest."""
        weights = getattr(self.lightning_module, "weights", None)
        if weights is None:
            raise UsageError(
                f"strategy: expected a module of geneval_reward.train for fsdp2, got {type(self.lightning_module).__name__}; "
                "use ddp, or Lightning's own ModelParallelStrategy"
            )
        shard(weights, self.root_device.type)
        super().model_to_device()

    def configure_ddp(self) -> None:
        """Nothing is wrapped: the transformer gathers its own weights."""

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Whole tensors, on rank 0 alone."""
        state: dict[str, Any] = super().optimizer_state(optimizer)
        return state | {"state": {index: whole(values) for index, values in state["state"].items()}}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Each rank takes its share of whole tensors."""
        states = []
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            split = {
                index: {
                    name: like(value, parameters[index])
                    if isinstance(value, Tensor) and value.shape == parameters[index].shape
                    else value
                    for name, value in values.items()
                }
                for index, values in state["state"].items()
            }
            states.append(state | {"state": split})
        super().load_optimizer_state_dict({"optimizer_states": states})

    def teardown(self) -> None:
        """Leave shards on their device: moved away they could not be gathered any more."""
        module, optimizers = self._lightning_module, self.optimizers
        self._lightning_module, self.optimizers = None, []
        try:
            super().teardown()
        finally:
            self._lightning_module, self.optimizers = module, optimizers


StrategyRegistry.register(
    FSDP2Strategy.strategy_name, FSDP2Strategy, description="FSDP2 for the RL recipes of geneval_reward", override=True
)


def shard(weights: PolicyWeights, device_type: str) -> None:
    """Spread a policy's weights over all ranks, in place; nothing happens to what is spread already.

    Args:
        weights: The policy; its adapters stay whole.
        device_type: `cuda` or `cpu`.

    Raises:
        ValueError: If PyTorch is too old.
    """
    import torch.distributed.fsdp as fsdp
    from torch.distributed.device_mesh import init_device_mesh

    if not hasattr(getattr(fsdp, "FSDPModule", None), _NEEDED):
        raise UsageError(
            f"strategy: expected a PyTorch with FSDPModule.{_NEEDED} for fsdp2, got {torch.__version__}; use ddp"
        )
    # Said of diffusers' blocks that return a part of a tensor. Nothing is done in place with it, here or there.
    warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device_type, (dist.get_world_size(),))
    for model in (weights.transformer, weights.old, weights.reference):
        if model is None or isinstance(model, fsdp.FSDPModule):
            continue
        adapters = {p for name, p in model.named_parameters() if weights.lora and "lora_" in name}
        blocks = [block for part in model.children() if isinstance(part, nn.ModuleList) for block in part]
        for module in (*blocks, model):
            # Given back after each forward pass, the outermost too: else its weights would be whole when they are averaged.
            fsdp.fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=adapters)
        for module in model.modules():
            if isinstance(module, fsdp.FSDPModule):
                # Losses are shares of the sum over all ranks; gloo knows no other reduction than a plain sum.
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is spread over ranks (a DTensor)."""
    return hasattr(tensor, "full_tensor")  # imports nothing where nothing is sharded


def like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A tensor on a parameter's device, and spread as it is; every rank has the whole and keeps its own share."""
    if not is_sharded(parameter) or is_sharded(tensor):
        return tensor.to(parameter.device)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(
        tensor.to(parameter.device),
        parameter.device_mesh,  # type: ignore[attr-defined]
        parameter.placements,  # type: ignore[attr-defined]
        src_data_rank=None,
    )


def whole(values: Mapping[Any, Any]) -> dict[Any, Any]:
    """The same with whole tensors in the place of spread ones: on the CPU, and on rank 0 alone, which writes checkpoints.

    All ranks must call it.
    """
    found = {}
    for name, value in values.items():
        if isinstance(value, Tensor) and is_sharded(value):
            full = value.detach().full_tensor()  # type: ignore[attr-defined]
            if dist.get_rank():
                continue
            value = full.cpu()
        found[name] = value.detach() if isinstance(value, Tensor) else value
    return found


def idle_passes(
    policy: FlowPolicy, weights: PolicyWeights, conditions: Conditions, x: Tensor, steps: int, roles: Sequence[Role]
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Losses with gradient 0 whose passes gather weights as those of the other ranks do.

    Args:
        policy: What gives velocities.
        weights: In their roles.
        conditions: One row.
        x: One latent.
        steps: Losses to yield.
        roles: The forward passes of each, in order; `trained` is differentiated.
    """
    t = torch.full((1,), 0.5, device=x.device)
    for _ in range(steps):
        loss = x.sum()
        for role in roles:
            with torch.set_grad_enabled(role == "trained"), weights.role(role) as transformer:
                v = policy.velocity(transformer, conditions)(x, t)
            if role == "trained":
                loss = (v * 0).sum()
        yield loss, {}
