"""The demo's training settings; the configurations `configs/*_pocket.yaml` hold the same numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from geneval_reward.errors import UsageError

Method = Literal["nft", "flow-grpo"]

LAUNCH_LINES = {
    "nft": "geneval-reward recipes copy diffusion_nft\n"
    "python recipes/diffusion_nft.py fit --config configs/nft_sd35_medium_one_gpu.yaml",
    "flow-grpo": "geneval-reward recipes copy flow_grpo\n"
    "python recipes/flow_grpo.py fit --config configs/flow_grpo_sd35_medium_one_gpu.yaml",
}
"""The same method on Stable Diffusion 3.5 Medium: two lines that work in any folder."""


@dataclass(frozen=True)
class Settings:
    """How long and with which arguments a demo trains.

    Attributes:
        minutes: Total wall time in minutes, both measurements included.
        groups: Prompts per epoch.
        group_size: Images per prompt.
        images_per_prompt: Images per held-out prompt, before and after.
        check_every: Epochs between the callback's checks of some of the held-out prompts; 0 for none.
        audit_every: Epochs between audits; 0 for only those before and after.
        not_audited: Classes that the second judge does not detect in pocket scenes (docs/second_detector.md).
        guided_epochs: Number of first epochs whose rollouts DiffusionNFT samples with guidance.
        module: Arguments of the LightningModule.
    """

    minutes: float = 10.0
    groups: int = 16
    group_size: int = 12
    images_per_prompt: int = 1
    check_every: int = 8
    audit_every: int = 24
    not_audited: tuple[str, ...] = ("scissors", "vase")
    guided_epochs: int = 4
    module: dict[str, Any] = field(default_factory=dict)


_COMMON: dict[str, Any] = {
    "lora_rank": 0,
    "num_steps": 8,
    "eval_steps": 8,
    "credit": {"official": 1.0, "partial": 1.0},
}
_MODULES: dict[str, dict[str, Any]] = {
    # Images are expensive, since each is judged, and steps are cheap: four passes over each rollout, two of eight times in each.
    "nft": {
        "learning_rate": 3e-4,
        "passes": 4,
        "timestep_fraction": 0.25,
        "kl_weight": 0.0,
        "old_decay_rate": 0.02,
        "beta": 0.4,  # the term that keeps the policy near the old one scales with it: a smaller value moves further
    },
    # A log-probability is a mean over latent dimensions, so its spread falls with their square root: the released 1e-4 at
    # 65,536 dimensions is .0026 at the pocket's 100. Without effective clipping, or at triple this rate, the policy collapses.
    "flow-grpo": {
        "learning_rate": 1e-4,
        "passes": 3,
        "timestep_fraction": 0.5,
        "clip_range": 3e-3,
        "kl_weight": 0.0,
        "ema_every": 1,
    },
}
_QUICK: dict[str, dict[str, Any]] = {
    "nft": {"module": {}},
    "flow-grpo": {"groups": 8, "group_size": 12, "module": {"learning_rate": 2e-4}},
}


def settings_for(method: Method = "nft", *, quick: bool = False) -> Settings:
    """The demo's settings: ten minutes on two CPU cores, or two with `quick`.

    Raises:
        ValueError: If the method is unknown.
    """
    check_method(method)
    module = _COMMON | _MODULES[method]
    if not quick:
        return Settings(module=module)
    change = _QUICK[method]
    return Settings(2.0, check_every=4, audit_every=0, **(change | {"module": module | change["module"]}))


def check_method(method: str) -> None:
    """Refuse an unknown method.

    Raises:
        ValueError: If it is one.
    """
    if method not in _MODULES:
        raise UsageError(f"method: expected {' or '.join(_MODULES)}, got {method!r}")
