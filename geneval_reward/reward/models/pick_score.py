"""PickScore: a CLIP model tuned on people's choices between two pictures."""

from __future__ import annotations

from typing import Any

import torch

from geneval_reward.reward.models.base import Loaded, ModelReward, clip_cosines


class PickScore(ModelReward):
    """`exp(logit_scale) cos(image, text) * scale`.

    Args:
        model: Weights of CLIP's architecture: hub id or folder.
        processor: Hub id or folder of its tokenizer and image processor.
        scale: Flow-GRPO, verl-omni and UniRL divide by 26, which puts good pictures near 1; so does the default.
        device: A torch device or `auto`.
        batch_size: Images per forward pass, >= 1.
        loader: Makes `(model, processor)`.

    Source: Kirstain et al., arXiv 2305.01569; weights `yuvalkirstain/PickScore_v1` (MIT).
    """

    name = "pick_score"

    def __init__(
        self,
        model: str = "yuvalkirstain/PickScore_v1",
        processor: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        scale: float = 1 / 26,
        *,
        device: torch.device | str = "auto",
        batch_size: int = 16,
        loader: Loaded | None = None,
    ) -> None:
        super().__init__(model, device=device, batch_size=batch_size, loader=loader)
        self.processor, self.scale = processor, scale

    def load(self) -> Any:
        """`(model, processor)`."""
        from transformers import CLIPModel, CLIPProcessor

        return CLIPModel.from_pretrained(self.model), CLIPProcessor.from_pretrained(self.processor)

    def values(self, loaded: Any, images: list[torch.Tensor], texts: list[str], device: torch.device) -> torch.Tensor:
        """About 0.6 to 1 with the published weights."""
        model, processor = loaded
        scale: torch.Tensor = model.logit_scale.exp() * self.scale
        return scale * clip_cosines(model, processor, images, texts, device)
