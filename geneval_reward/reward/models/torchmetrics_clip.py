"""CLIPScore and CLIP-IQA as rewards: one number per image.

torchmetrics' metrics answer one number per batch (CLIPScore) or at the end. CLIPScore is computed here, since torchmetrics
cuts long captions after tokenisation and loses their end token, whereupon all of them get the same score. CLIP-IQA stands on
torchmetrics' functional parts. With transformers 5, torchmetrics 1.9 fails on features that are no tensors
(`'BaseModelOutputWithPooling' object has no attribute 'norm'`); `_Tensors` makes them tensors again.
"""

from __future__ import annotations

from typing import Any

import torch

from geneval_reward.errors import UsageError
from geneval_reward.reward.models.base import Loaded, ModelReward, clip_cosines, plain


class _Tensors:
    """A CLIP model whose features are tensors, as torchmetrics 1.9 expects."""

    def __init__(self, model: Any) -> None:
        self.model, self.config = model, model.config

    def to(self, device: Any) -> _Tensors:
        """torchmetrics moves the model at each call."""
        self.model.to(device)
        return self

    def get_image_features(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Features as a tensor."""
        return plain(self.model.get_image_features(*args, **kwargs))

    def get_text_features(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Features as a tensor."""
        return plain(self.model.get_text_features(input_ids=ids, attention_mask=mask))


def _load(name: str) -> tuple[Any, Any]:
    from transformers import CLIPModel, CLIPProcessor

    return CLIPModel.from_pretrained(name), CLIPProcessor.from_pretrained(name)


class CLIPScoreReward(ModelReward):
    """`max(100 cos(image, text), 0)`, as `torchmetrics.multimodal.CLIPScore` averages it.

    Captions are cut to the model's context (77 tokens for OpenAI's models).

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
        """`(model, processor)`."""
        return _load(self.model)

    def values(self, loaded: Any, images: list[torch.Tensor], texts: list[str], device: torch.device) -> torch.Tensor:
        """In [0, 100]."""
        return 100 * clip_cosines(loaded[0], loaded[1], images, texts, device).clamp(min=0)


class CLIPIQAReward(ModelReward):
    """The probability that an image is rather the first than the second of two texts; no prompt is read.

    Args:
        model: A CLIP model of transformers. The paper's own weights (torchmetrics' `"clip_iqa"`) need `piq` and are not
            for this class.
        prompts: A pair of texts, or a name that torchmetrics knows: `quality`, `brightness`, `noisiness`,
            `sharpness`, `natural`, `beautiful` and others.
        device: A torch device or `auto`.
        batch_size: Images per forward pass, >= 1.
        loader: Makes `(model, processor)`.

    torchmetrics scales images to [0, 1] and the processor of transformers divides them by 255 once more, so that its metric sees
    nearly black pictures with these models; here they are scaled once.

    Source: Wang et al., arXiv 2207.12396, in torchmetrics' form.
    """

    name = "clip_iqa"
    needs_prompts = False

    def __init__(
        self,
        model: str = "openai/clip-vit-base-patch16",
        prompts: str | tuple[str, str] = "quality",
        *,
        device: torch.device | str = "auto",
        batch_size: int = 32,
        loader: Loaded | None = None,
    ) -> None:
        from torchmetrics.functional.multimodal.clip_iqa import _clip_iqa_format_prompts

        if model == "clip_iqa":
            raise UsageError("model: expected a CLIP model of transformers, got 'clip_iqa', which needs piq")
        super().__init__(model, device=device, batch_size=batch_size, loader=loader)
        pair: Any = prompts if isinstance(prompts, str) else tuple(prompts)  # a configuration has lists
        self.prompts, _ = _clip_iqa_format_prompts((pair,))

    def load(self) -> Any:
        """`(model, processor)`."""
        return _load(self.model)

    def values(self, loaded: Any, images: list[torch.Tensor], texts: list[str], device: torch.device) -> torch.Tensor:
        """In [0, 1]."""
        from torchmetrics.functional.multimodal.clip_iqa import (
            _clip_iqa_compute,
            _clip_iqa_get_anchor_vectors,
            _clip_iqa_update,
        )

        model: Any = _Tensors(loaded[0])
        anchors = _clip_iqa_get_anchor_vectors(self.model, model, loaded[1], self.prompts, device)
        # Sizes may differ, so one image at a time; the processor makes 0..255 into [0, 1].
        found = [_clip_iqa_update(self.model, image[None].float(), model, loaded[1], 1.0, device) for image in images]
        odds: Any = _clip_iqa_compute(torch.cat(found), anchors, ["it"])
        column: torch.Tensor = odds.reshape(-1)
        return column
