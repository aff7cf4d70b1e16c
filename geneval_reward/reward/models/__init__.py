"""Other people's rewards as parts of a `CompositeReward`, by name.

| name | class | weights |
|---|---|---|
| `clip_score` | `CLIPScoreReward` | a CLIP model of transformers |
| `pick_score` | `PickScore` | `yuvalkirstain/PickScore_v1` |
| `hps_v2`, `hps_v2.1` | `HPS` | `xswu/HPSv2` |
| `image_reward` | `ImageReward` | `THUDM/ImageReward` |

Each takes `(images, prompts)` and returns one number per sample, or None if an image cannot be read. Weights are downloaded from
the hub at the first call, or read from the folder or file that `model` names.
"""

from typing import Any

from geneval_reward.errors import UsageError
from geneval_reward.reward.models.base import ModelReward
from geneval_reward.reward.models.clip import CLIPScoreReward, PickScore
from geneval_reward.reward.models.hps import HPS
from geneval_reward.reward.models.image_reward import ImageReward

__all__ = ["HPS", "CLIPScoreReward", "ImageReward", "ModelReward", "PickScore", "model_reward"]

MODEL_NAMES = ("clip_score", "pick_score", "hps_v2", "hps_v2.1", "image_reward")


def model_reward(name: str, **options: Any) -> ModelReward:
    """Make a reward by name.

    Args:
        name: One of the names above.
        **options: Passed to its class.

    Raises:
        UsageError: If the name is unknown.

    Examples:
        >>> model_reward("pick_score", device="cpu")
        PickScore('yuvalkirstain/PickScore_v1')
    """
    if name in ("hps_v2", "hps_v2.1"):
        return HPS(version=name.removeprefix("hps_v"), **options)
    kinds: dict[str, type[ModelReward]] = {
        "clip_score": CLIPScoreReward,
        "pick_score": PickScore,
        "image_reward": ImageReward,
    }
    if name not in kinds:
        raise UsageError(f"name: expected one of {', '.join(MODEL_NAMES)}, got {name!r}")
    return kinds[name](**options)
