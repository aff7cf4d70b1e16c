"""Group-relative advantages: how much better a sample is than the other samples of its prompt."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from geneval_reward.errors import UsageError

Rewards = Sequence[float | None] | npt.NDArray[np.floating] | Tensor
Groups = Sequence[Hashable] | npt.NDArray[np.integer] | Tensor


@dataclass(frozen=True)
class GroupAdvantages:
    """Advantages of one rollout epoch, with the counts that tell whether it can teach anything.

    Attributes:
        advantages: float32 (N,), on the device of the rewards; exactly 0 for an unscored sample and in a group
            whose rewards are all equal.
        weight: float32 (N,), 1 for a scored sample, 0 for one without a reward. Pass it to the loss: an advantage of
            0 is *not* the same as no advantage (in DiffusionNFT it means "half good").
        group: int64 (N,), the index of each sample's group, numbered by first appearance.
        num_groups: How many groups there are.
        num_unscored: How many samples have no reward (None or NaN).
        num_empty: Groups in which no sample has a reward.
        num_zero_std: Groups with at least one reward whose rewards are all equal; they teach nothing.
        reward_mean: Mean of the scored rewards.
        reward_std: Population standard deviation of the scored rewards.
        reward_std_mean: Mean of the groups' standard deviations (empty groups left out).
    """

    advantages: Tensor
    weight: Tensor
    group: Tensor
    num_groups: int
    num_unscored: int
    num_empty: int
    num_zero_std: int
    reward_mean: float
    reward_std: float
    reward_std_mean: float

    @property
    def zero_std_ratio(self) -> float:
        """Share of the non-empty groups whose rewards are all equal, in [0, 1]."""
        return self.num_zero_std / (self.num_groups - self.num_empty)

    @property
    def group_size(self) -> float:
        """Mean number of samples per group, unscored ones included."""
        return self.advantages.numel() / self.num_groups

    @property
    def trainable(self) -> Tensor:
        """Bool (N,): scored and with an advantage other than 0.

        Flow-GRPO drops the rest before training, since their policy gradient is 0. Do not drop them in
        DiffusionNFT: there an advantage of 0 still pulls towards the data of the old policy.
        """
        return (self.weight > 0) & (self.advantages != 0)

    def log_dict(self) -> dict[str, float]:
        """The numbers under the names that the Flow-GRPO and DiffusionNFT communities log."""
        return {
            "group_size": self.group_size,
            "zero_std_ratio": self.zero_std_ratio,
            "reward_std_mean": self.reward_std_mean,
            "reward_mean": self.reward_mean,
            "reward_std": self.reward_std,
            "unscored": float(self.num_unscored),
        }


def group_advantages(
    rewards: Rewards,
    groups: Groups,
    *,
    std: Literal["global", "group", "none"] = "global",
    eps: float = 1e-4,
    clip: float | None = 5.0,
    std_floor: float = 1e-6,
) -> GroupAdvantages:
    """Subtract each group's mean reward and divide by a standard deviation.

    `A = (R - mean_group(R)) / (std + eps)`, then clipped to `[-clip, clip]`. Everything is computed in float64
    from the scored samples only. Pass the rewards of the *whole* epoch, gathered over the ranks.

    Args:
        rewards: (N,) numbers; None or NaN marks a sample that could not be scored.
        groups: (N,) group keys: prompt texts, prompt ids or group numbers.
        std: `"global"`, the std of all rewards (the released Flow-GRPO and DiffusionNFT setting); `"group"`, of
            the sample's own group (GRPO, arXiv 2402.03300); `"none"`, no division (Dr. GRPO, arXiv 2503.20783).
        eps: Added to the std.
        clip: Bound of the absolute advantage; None leaves the advantages unclipped, so each group sums to 0.
        std_floor: A std at or below `std_floor * max(1, |mean|)` counts as 0. Without it, rewards that differ by
            rounding alone would be blown up by `1 / eps`.

    Returns:
        A `GroupAdvantages`.

    Raises:
        UsageError: On lengths that differ, an infinite reward, no scored sample at all, or a bad argument.

    Source: Flow-GRPO (arXiv 2505.05470) and DiffusionNFT (arXiv 2509.16117), with `eps`, `clip` and
    the global std as in their released GenEval configurations.

    Examples:
        >>> result = group_advantages([1.0, 0.0, 1.0, 1.0, None], ["a", "a", "b", "b", "b"], std="group")
        >>> [round(a, 3) for a in result.advantages.tolist()]
        [1.0, -1.0, 0.0, 0.0, 0.0]
        >>> result.weight.tolist(), result.num_unscored, result.zero_std_ratio
        ([1.0, 1.0, 1.0, 1.0, 0.0], 1, 0.5)
    """
    if std not in ("global", "group", "none"):
        raise UsageError(f"std: expected 'global', 'group' or 'none', got {std!r}")
    if eps < 0 or std_floor < 0 or (clip is not None and clip <= 0):
        raise UsageError(f"expected eps >= 0, std_floor >= 0, clip > 0 or None, got {eps}, {std_floor}, {clip}")
    device = rewards.device if isinstance(rewards, Tensor) else torch.device("cpu")
    values = _reward_vector(rewards)
    inverse = _group_index(groups)
    if len(inverse) != len(values):
        raise UsageError(f"groups: expected one key per reward, {len(values)}, got {len(inverse)}")
    scored = ~np.isnan(values)
    if not scored.any():
        raise UsageError(f"rewards: expected at least one scored sample, got {len(values)} without a reward")

    n_groups = int(inverse.max()) + 1
    member, known = inverse[scored], values[scored]
    count = np.bincount(member, minlength=n_groups)
    mean = np.bincount(member, known, n_groups) / np.maximum(count, 1)
    residual = known - mean[member]
    group_std = np.sqrt(np.bincount(member, residual**2, n_groups) / np.maximum(count, 1))
    flat = group_std <= std_floor * np.maximum(1.0, np.abs(mean))
    total_std = float(known.std())

    if std == "group":
        scale = group_std[member] + eps
    elif std == "global":
        scale = np.full_like(known, total_std + eps)
    else:
        scale = np.ones_like(known)
    advantage = np.zeros_like(known)
    # A flat group has scale eps or even 0; it is set, not divided.
    np.divide(residual, scale, out=advantage, where=~flat[member])
    if clip is not None:
        advantage = advantage.clip(-clip, clip)
    full = np.zeros(len(values))
    full[scored] = advantage
    return GroupAdvantages(
        advantages=torch.from_numpy(full).to(device, torch.float32),
        weight=torch.from_numpy(scored).to(device, torch.float32),
        group=torch.from_numpy(inverse).to(device),
        num_groups=n_groups,
        num_unscored=int((~scored).sum()),
        num_empty=int((count == 0).sum()),
        num_zero_std=int((flat & (count > 0)).sum()),
        reward_mean=float(known.mean()),
        reward_std=total_std,
        reward_std_mean=float(group_std[count > 0].mean()),
    )


def gdpo_advantages(
    rewards: Mapping[str, Rewards],
    groups: Groups,
    *,
    weights: Mapping[str, float] | None = None,
    eps: float = 1e-4,
    clip: float | None = 5.0,
) -> tuple[GroupAdvantages, dict[str, GroupAdvantages]]:
    """Advantages of several rewards: normalise each within its groups, add, then normalise over the batch.

    Summing raw rewards first lets the one with the widest spread decide, and makes different combinations collapse
    to one advantage; normalising each first keeps them apart. A sample that lacks any of the rewards gets weight 0.

    Args:
        rewards: Name -> (N,) rewards.
        groups: (N,) group keys.
        weights: Name -> factor of the normalised reward; default 1 each.
        eps: Added to each std.
        clip: Bound of the final advantage.

    Returns:
        The combined `GroupAdvantages` (its `reward_*` fields describe the weighted sum of normalised rewards) and
        one `GroupAdvantages` per reward.

    Raises:
        UsageError: On no reward, a weight for an unknown reward, or as `group_advantages`.

    Source: GDPO (arXiv 2601.05242).
    """
    if not rewards:
        raise UsageError("rewards: expected at least one named reward, got an empty mapping")
    factors = dict.fromkeys(rewards, 1.0) | dict(weights or {})
    if unknown := sorted(set(factors) - set(rewards)):
        raise UsageError(f"weights: expected names among {', '.join(rewards)}, got {', '.join(unknown)}")
    columns = {name: _reward_vector(values) for name, values in rewards.items()}
    sizes = {name: len(c) for name, c in columns.items()}
    if len(set(sizes.values())) > 1:
        raise UsageError(f"rewards: expected columns of equal length, got {sizes}")
    missing = np.any([np.isnan(c) for c in columns.values()], axis=0)
    for c in columns.values():
        c[missing] = np.nan
    each = {name: group_advantages(c, groups, std="group", eps=eps, clip=None) for name, c in columns.items()}
    total = torch.stack([factors[name] * a.advantages.double() for name, a in each.items()]).sum(0)
    combined = group_advantages(
        torch.where(torch.from_numpy(missing), torch.nan, total), groups, std="global", eps=eps, clip=clip
    )
    return combined, each


def _reward_vector(rewards: Rewards) -> npt.NDArray[np.float64]:
    """Rewards as a fresh float64 array, None as NaN; raises on another shape or an infinite reward."""
    if isinstance(rewards, Tensor):
        values = rewards.detach().cpu().double().numpy().copy()
    else:
        values = np.array([np.nan if r is None else r for r in rewards], dtype=np.float64)
    if values.ndim != 1 or not values.size:
        raise UsageError(f"rewards: expected one number per sample, shape (N,), got shape {values.shape}")
    if (infinite := np.flatnonzero(np.isinf(values))).size:
        raise UsageError(f"rewards[{infinite[0]}]: expected a finite reward or None, got {values[infinite[0]]}")
    return values


def _group_index(groups: Groups) -> npt.NDArray[np.int64]:
    """Number the groups by first appearance."""
    keys: Sequence[Hashable] = groups.tolist() if isinstance(groups, Tensor | np.ndarray) else groups
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
