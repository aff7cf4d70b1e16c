"""The policies of a run as weights (trained, old and reference) and the average that is evaluated.

With LoRA, they are adapters of one transformer (`default`, `old`, none); full fine-tuning keeps copies.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from geneval_reward.errors import UsageError
from geneval_reward.rl import ema_decay, ema_update_
from geneval_reward.train.sharded_tensors import gather_whole, place_like

Role = Literal["trained", "old", "reference"]

LORA_TARGETS: Final = (
    "attn.add_k_proj",
    "attn.add_q_proj",
    "attn.add_v_proj",
    "attn.to_add_out",
    "attn.to_k",
    "attn.to_out.0",
    "attn.to_q",
    "attn.to_v",
)
"""The released targets of DiffusionNFT and Flow-GRPO, for SD3's and FLUX's attention alike."""


class PolicyWeights(nn.Module):
    """One transformer in up to three roles.

    Args:
        transformer: A diffusers transformer.
        lora_rank: Rank of the adapters; their alpha is twice that, as released. 0 for full fine-tuning.
        old: Whether an old policy is needed as well as the trained one.
        reference: Whether the untrained model is needed.

    Raises:
        UsageError: If the rank is negative.
    """

    def __init__(
        self, transformer: nn.Module, *, lora_rank: int = 32, old: bool = False, reference: bool = False
    ) -> None:
        super().__init__()
        if lora_rank < 0:
            raise UsageError(f"lora_rank: expected an integer >= 0 (0: full fine-tuning), got {lora_rank}")
        self.lora = lora_rank > 0
        self._layers: list[Any] = []
        if self.lora:
            transformer.requires_grad_(False)
            self._layers = _add_adapters(transformer, lora_rank, ["default", "old"] if old else ["default"])
        else:
            # Half-precision weights would lose small updates; autocast still computes in half precision where wanted.
            transformer.float().requires_grad_(True)
        self.transformer = transformer
        # Copy now: the initial policy is also the old one and the reference.
        self.old = copy.deepcopy(transformer).requires_grad_(False) if old and not self.lora else None
        self.reference = copy.deepcopy(transformer).requires_grad_(False) if reference and not self.lora else None
        self._has_old, self._has_reference = old, reference

    def trained(self) -> dict[str, nn.Parameter]:
        """The trainable parameters by name."""
        if not self.lora:
            return dict(self.transformer.named_parameters())
        return {name: p for name, p in self.transformer.named_parameters() if ".default." in name and "lora_" in name}

    def old_parameters(self) -> dict[str, nn.Parameter]:
        """The old policy's parameters, under the names of the trained ones and in their order."""
        if not self._has_old:
            return {}
        if self.old is not None:
            return dict(self.old.named_parameters())
        parameters = dict(self.transformer.named_parameters())
        return {name: parameters[name.replace(".default.", ".old.")] for name in self.trained()}

    @contextmanager
    def role(self, role: Role) -> Iterator[nn.Module]:
        """Yield the transformer in a role; adapters are switched for the duration.

        Raises:
            UsageError: If `PolicyWeights` was made without this role.
        """
        if (role == "old" and not self._has_old) or (role == "reference" and not self._has_reference):
            raise UsageError(f"role: expected one that was asked for, got {role!r}; make PolicyWeights with it")
        if role == "trained":
            yield self.transformer
        elif not self.lora:
            copied = self.old if role == "old" else self.reference
            assert copied is not None
            yield copied
        else:
            # Use the known layers; diffusers' own methods would walk thousands of modules at each switch.
            for layer in self._layers:
                if role == "old":
                    layer.set_adapter("old")
                else:
                    layer.enable_adapters(False)
            try:
                yield self.transformer
            finally:
                for layer in self._layers:
                    # This also re-enables the trained adapter's gradients, which switching disables.
                    layer.set_adapter("default")
                    if role == "reference":
                        layer.enable_adapters(True)

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """Move the old policy: `old <- decay old + (1 - decay) trained`."""
        ema_update_(self.old_parameters().values(), self.trained().values(), decay)


class PolicyAverage:
    """A moving average of the trained weights in float32, for evaluation.

    It is not a module, so it is never trained or saved twice. `GenEvalCallback(weights="ema")` finds it as `pl_module.ema`.

    Args:
        weights: The policy whose trained parameters are averaged.
        max_decay: Ceiling of the warm-up `geneval_reward.rl.ema_decay`.
        every: Number of optimizer steps between updates of the average.
        moves: How many times it is moved at each update.
    """

    def __init__(self, weights: PolicyWeights, max_decay: float = 0.9, *, every: int = 1, moves: int = 1) -> None:
        if every < 1 or moves < 1:
            raise UsageError(f"expected every >= 1 and moves >= 1, got {every} and {moves}")
        self._weights = weights
        self.max_decay, self.every, self.moves = max_decay, every, moves
        self.num_updates = 0
        self.averages = {name: p.detach().float().clone() for name, p in weights.trained().items()}

    def update(self) -> None:
        """Update the average after an optimizer step."""
        # Count first: the released code passes the number of finished steps, this one included.
        self.num_updates += 1
        if (self.num_updates + 1) % self.every:
            return
        trained = self._weights.trained()
        for name, p in trained.items():
            self.averages[name] = place_like(self.averages[name], p)
        decay = ema_decay(self.num_updates, self.max_decay) ** self.moves
        ema_update_(self.averages.values(), trained.values(), decay)

    @contextmanager
    def average_parameters(self) -> Iterator[None]:
        """Use the average in place of the trained weights; contexts may nest."""
        trained = self._weights.trained()
        before = {name: p.detach().clone() for name, p in trained.items()}
        try:
            # Copy in place: sharded weights are gathered from the memory that they were first given.
            for name, p in trained.items():
                p.detach().copy_(place_like(self.averages[name], p))
            yield
        finally:
            for name, p in trained.items():
                p.detach().copy_(before[name])

    def state_dict(self) -> dict[str, Any]:
        """Return averages by name, and the number of updates; all ranks must call it."""
        return {"averages": gather_whole(self.averages), "num_updates": self.num_updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state; names and shapes must match (`check_same_tensors`)."""
        check_same_tensors(self.averages, state["averages"], "averages")
        self.averages = {name: state["averages"][name].float().clone() for name in self.averages}
        self.num_updates = int(state["num_updates"])


def policy_state(weights: PolicyWeights, average: PolicyAverage) -> dict[str, Any]:
    """Return a policy's checkpoint: trained and old weights by name, and their average. All ranks must call it."""
    return {
        "trained": gather_whole(weights.trained()),
        "old": gather_whole(weights.old_parameters()),
        "ema": average.state_dict(),
    }


@torch.no_grad()
def load_policy_state(weights: PolicyWeights, average: PolicyAverage, state: Mapping[str, Any]) -> None:
    """Load what `policy_state` returned for a policy of the same model.

    Raises:
        UsageError: If names or shapes differ (`check_same_tensors`).
    """
    trained, old = weights.trained(), weights.old_parameters()
    check_same_tensors(trained, state["trained"], "trained weights")
    check_same_tensors(old, state["old"], "old-policy weights")
    for own, saved in ((trained, state["trained"]), (old, state["old"])):
        for name, parameter in own.items():
            parameter.copy_(place_like(saved[name], parameter))
    average.load_state_dict(state["ema"])


def check_same_tensors(expected: Mapping[str, Tensor], got: Mapping[str, Tensor], what: str) -> None:
    """Raise UsageError unless two sets of named tensors have equal names and shapes."""
    advice = "start with the pipeline and lora_rank that the checkpoint was made with"
    missing, surplus = sorted(set(expected) - set(got)), sorted(set(got) - set(expected))
    if missing or surplus:
        raise UsageError(
            f"checkpoint: expected {what} of this model, got one of another: {len(missing)} tensors are missing "
            f"(first: {missing[:1]}) and {len(surplus)} are not known (first: {surplus[:1]}); {advice}"
        )
    for name, tensor in expected.items():
        if tensor.shape != got[name].shape:
            raise UsageError(
                f"checkpoint: expected {what} {name} of shape {tuple(tensor.shape)}, got {tuple(got[name].shape)}; {advice}"
            )


def _add_adapters(transformer: Any, rank: int, names: list[str]) -> list[Any]:
    """Add identical adapters in float32, of which only `default` is trained; return the layers that have them."""
    from peft import LoraConfig
    from peft.tuners.tuners_utils import BaseTunerLayer

    config = LoraConfig(r=rank, lora_alpha=2 * rank, init_lora_weights="gaussian", target_modules=list(LORA_TARGETS))
    # Make the same adapters on all ranks and in every run, whatever random numbers were drawn before.
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # two adapters are intended
        torch.manual_seed(0)
        for name in names:
            transformer.add_adapter(config, adapter_name=name)
    transformer.set_adapter("default")
    parameters = dict(transformer.named_parameters())
    for name, parameter in parameters.items():
        if "lora_" not in name:
            continue
        parameter.data = parameter.data.float()
        parameter.requires_grad_(".default." in name)
        if ".old." in name:
            parameter.data.copy_(parameters[name.replace(".old.", ".default.")].data)
    return [module for module in transformer.modules() if isinstance(module, BaseTunerLayer)]
