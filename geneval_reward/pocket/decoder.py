"""`SceneDecoder` takes the place of a latent diffusion pipeline's autoencoder; it draws instead of computing pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.outputs import BaseOutput

from geneval_reward.errors import UsageError
from geneval_reward.pocket.codec import CHANNELS, SIDE, decode_scenes, encode_scenes
from geneval_reward.pocket.render import RESOLUTION, render
from geneval_reward.pocket.scene import POCKET_CLASSES, Scene


@dataclass
class SceneDecoderOutput(BaseOutput):
    """What `SceneDecoder.decode` returns.

    Attributes:
        sample: Pictures `(n, 3, 256, 256)` in [-1, 1].
    """

    sample: torch.Tensor


class SceneDecoder(ModelMixin, ConfigMixin):
    """Turns latents into pictures and scenes into latents, with the interface of a diffusers autoencoder.

    It has no weights and gives no gradient: pictures are drawn from artwork by
    `geneval_reward.pocket.render.render`. Reward methods that need no gradient of the reward (NFT, GRPO) train through
    it as through any decoder.

    Args:
        latent_channels: Channels of a latent; fixed by the world.
        sample_size: Side of a picture in pixels; fixed by the artwork's preparation.
        scaling_factor: As in diffusers: `latents / scaling_factor + shift_factor` is what `decode` takes.
        shift_factor: Added after scaling, as in diffusers.
        classes: The classes that latents were made for; a check that weights fit this version's world.
    """

    config_name = "config.json"  # type: ignore[assignment]  # its base says None

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        latent_channels: int = CHANNELS,
        sample_size: int = RESOLUTION,
        scaling_factor: float = 1.0,
        shift_factor: float = 0.0,
        classes: Sequence[str] = POCKET_CLASSES,
    ) -> None:
        super().__init__()
        if latent_channels != CHANNELS or sample_size != RESOLUTION or tuple(classes) != POCKET_CLASSES:
            raise UsageError(
                f"config: expected {CHANNELS} channels, {RESOLUTION} pixels and classes {list(POCKET_CLASSES)}, got "
                f"{latent_channels}, {sample_size}, {list(classes)}; the weights are of another version of the package"
            )
        # Gives the module a device and a dtype, which pipelines ask for, and a state to save.
        self.register_buffer("anchor", torch.zeros(1))

    def decode(
        self, latents: torch.Tensor, return_dict: bool = True, generator: object = None
    ) -> SceneDecoderOutput | tuple[torch.Tensor]:
        """Draw latents.

        Args:
            latents: `(n, CHANNELS, 2, 2)`.
            return_dict: Whether to wrap the result.
            generator: Ignored; drawing is deterministic.

        Returns:
            Pictures `(n, 3, 256, 256)` in [-1, 1], of the latents' dtype and device, without gradient.

        Raises:
            UsageError: If the shape differs or a number is not finite.
        """
        pictures = np.stack([render(scene) for scene in decode_scenes(latents)]) if len(latents) else _NOTHING
        sample = torch.from_numpy(pictures).permute(0, 3, 1, 2).to(latents.device)
        sample = sample.to(latents.dtype).div_(127.5).sub_(1)
        return SceneDecoderOutput(sample=sample) if return_dict else (sample,)

    def encode(self, scenes: Sequence[Scene]) -> torch.Tensor:
        """Encode scenes as latents `(n, CHANNELS, 2, 2)` on this module's device; training uses them in place of pictures."""
        return encode_scenes(scenes).to(self.device, self.dtype)


_NOTHING = np.zeros((0, RESOLUTION, RESOLUTION, 3), np.uint8)
LATENT_SHAPE = (CHANNELS, SIDE, SIDE)
