"""Rewards that compare an image with its prompt by a CLIP model of transformers: CLIPScore and PickScore."""

from __future__ import annotations

from typing import Any

import torch

from geneval_reward.reward.models.base import Loaded, ModelReward, clip_cosines


class CLIPScoreReward(ModelReward):
    """`max(100 cos(image, text), 0)`, of which `torchmetrics.multimodal.CLIPScore` returns the mean over a batch.

    Captions are cut to the model's context (77 tokens for OpenAI's models). torchmetrics cuts them after tokenisation and so
    loses the end token, whereupon all long captions get the same score; here it is kept.

    Args:
        model: A CLIP model of transformers: hub id or folder.
        device: A torch device or `auto`.
        batch_size: Images per forward pass, >= 1.
        loader: Makes `(model, processor)`.

    Source: Hessel et al., arXiv 2104.08718, in torchmetrics' form.
    """

    name = "clip_score"

    def __init__(
        self,
        model: str = "openai/clip-vit-large-patch14",
        *,
        device: torch.device | str = "auto",
        batch_size: int = 32,
        loader: Loaded | None = None,
    ) -> None:
        super().__init__(model, device=device, batch_size=batch_size, loader=loader)

    def load(self) -> Any:
        """Load `(model, processor)`."""
        return _load(self.model, self.model)

    def values(self, loaded: Any, images: list[torch.Tensor], texts: list[str], device: torch.device) -> torch.Tensor:
        """Compute scores in [0, 100]."""
        return 100 * clip_cosines(loaded[0], loaded[1], images, texts, device).clamp(min=0)


class PickScore(ModelReward):
    """`exp(logit_scale) cos(image, text) * scale`, by a CLIP model tuned on people's choices between two images.

    Args:
        model: Weights of CLIP's architecture: hub id or folder.
        processor: Hub id or folder of its tokenizer and image processor.
        scale: Flow-GRPO, verl-omni and UniRL divide by 26, which puts good images near 1; so does the default.
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
        """Load `(model, processor)`."""
        return _load(self.model, self.processor)

    def values(self, loaded: Any, images: list[torch.Tensor], texts: list[str], device: torch.device) -> torch.Tensor:
        """Compute scores, about 0.6 to 1 with the published weights."""
        model, processor = loaded
        scale: torch.Tensor = model.logit_scale.exp() * self.scale
        return scale * clip_cosines(model, processor, images, texts, device)


def _load(model: str, processor: str) -> tuple[Any, Any]:
    from transformers import CLIPModel, CLIPProcessor

    return CLIPModel.from_pretrained(model), CLIPProcessor.from_pretrained(processor)
