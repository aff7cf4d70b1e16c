"""Other people's rewards as parts of a `CompositeReward`, by name.

| name | class | weights |
|---|---|---|
| `clip_score` | `CLIPScoreReward` | a CLIP model, by torchmetrics |
| `clip_iqa` | `CLIPIQAReward` | a CLIP model, by torchmetrics |
| `pick_score` | `PickScore` | `yuvalkirstain/PickScore_v1` |
| `hps_v2`, `hps_v2.1` | `HPS` | `xswu/HPSv2` |
| `image_reward` | `ImageReward` | `THUDM/ImageReward` |

Each takes `(images, prompts)` and returns one number per sample, None where an image cannot be read. Weights are fetched
from the hub at the first call, or read from the folder or file that `model` names.
"""

from typing import Any

from geneval_reward.errors import UsageError
from geneval_reward.reward.models.base import ModelReward
from geneval_reward.reward.models.hps import HPS
from geneval_reward.reward.models.image_reward import ImageReward
from geneval_reward.reward.models.pick_score import PickScore
from geneval_reward.reward.models.torchmetrics_clip import CLIPIQAReward, CLIPScoreReward

__all__ = ["HPS", "CLIPIQAReward", "CLIPScoreReward", "ImageReward", "ModelReward", "PickScore", "model_reward"]

_NAMES = ("clip_score", "clip_iqa", "pick_score", "hps_v2", "hps_v2.1", "image_reward")


def model_reward(name: str, **options: Any) -> ModelReward:
    """A reward by name.

    Args:
        name: One of the names above.
        **options: Passed to its class.

    Raises:
        ValueError: For another name.

    Examples:
        >>> model_reward("pick_score", device="cpu")
        PickScore('yuvalkirstain/PickScore_v1')
    """
    if name in ("hps_v2", "hps_v2.1"):
        return HPS(version=name.removeprefix("hps_v"), **options)
    kinds: dict[str, type[ModelReward]] = {
        "clip_score": CLIPScoreReward,
        "clip_iqa": CLIPIQAReward,
        "pick_score": PickScore,
        "image_reward": ImageReward,
    }
    if name not in kinds:
        raise UsageError(f"name: expected one of {', '.join(_NAMES)}, got {name!r}")
    return kinds[name](**options)
