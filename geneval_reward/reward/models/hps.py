"""HPS v2 and v2.1: an open_clip ViT-H-14 tuned on people's rankings."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from torch.nn import functional as F

from geneval_reward.errors import UsageError
from geneval_reward.reward.models.base import Loaded, ModelReward

_FILES: Final = {"2": "HPS_v2_compressed.pt", "2.1": "HPS_v2.1_compressed.pt"}


class HPS(ModelReward):
    """`cos(image, text)`, without a scale: about 0.2 to 0.35.

    Images are fitted into the square and padded with black, as the authors' `image_transform(..., resize_longest_max=True)` does.

    Args:
        version: `2` or `2.1`.
        model: Hub id, folder, or file of the checkpoint.
        device: A torch device or `auto`.
        batch_size: Images per forward pass, >= 1.
        loader: Makes `(open_clip model, open_clip tokenizer)`.

    Raises:
        ValueError: For another version.

    Source: Wu et al., arXiv 2306.09341; weights `xswu/HPSv2` (Apache-2.0).
    """

    name = "hps_v2"

    def __init__(
        self,
        version: str = "2.1",
        model: str = "xswu/HPSv2",
        *,
        device: torch.device | str = "auto",
        batch_size: int = 16,
        loader: Loaded | None = None,
    ) -> None:
        if version not in _FILES:
            raise UsageError(f"version: expected one of {', '.join(_FILES)}, got {version!r}")
        super().__init__(model, device=device, batch_size=batch_size, loader=loader)
        self.version = version
        self.__name__ = f"hps_v{version}"

    def load(self) -> Any:
        """`(model, tokenizer)`."""
        import open_clip

        return load_hps(open_clip.create_model("ViT-H-14"), self._file()), open_clip.get_tokenizer("ViT-H-14")

    def values(self, loaded: Any, images: list[torch.Tensor], texts: list[str], device: torch.device) -> torch.Tensor:
        """In [-1, 1]."""
        model, tokenizer = loaded
        pixels = torch.stack([self._fitted(image, model.visual) for image in images]).to(device)
        image = F.normalize(model.encode_image(pixels), dim=-1)
        text = F.normalize(model.encode_text(tokenizer(texts).to(device)), dim=-1)
        return (image * text).sum(-1)

    def _file(self) -> Path:
        path = Path(self.model)
        if path.is_file():
            return path
        if path.is_dir():
            return path / _FILES[self.version]
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(self.model, _FILES[self.version]))

    @staticmethod
    def _fitted(image: torch.Tensor, visual: Any) -> torch.Tensor:
        """A picture as the network wants it: the longer side to its size, black around, normalised."""
        from torchvision.transforms.v2 import InterpolationMode
        from torchvision.transforms.v2 import functional as T

        side = visual.image_size[0] if isinstance(visual.image_size, tuple) else visual.image_size
        height, width = image.shape[-2:]
        scale = side / max(height, width)
        size = [max(round(height * scale), 1), max(round(width * scale), 1)]
        image = T.resize(image, size, interpolation=InterpolationMode.BICUBIC, antialias=True)
        top, left = (side - size[0]) // 2, (side - size[1]) // 2
        image = T.pad(image, [left, top, side - size[1] - left, side - size[0] - top])
        mean = getattr(visual, "image_mean", None) or (0.48145466, 0.4578275, 0.40821073)
        std = getattr(visual, "image_std", None) or (0.26862954, 0.26130258, 0.27577711)
        fitted: torch.Tensor = T.normalize(image.float() / 255, list(mean), list(std))
        return fitted


def load_hps(model: torch.nn.Module, path: str | Path) -> torch.nn.Module:
    """Put the authors' checkpoint (`{"state_dict": ...}`) into an open_clip model."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state.get("state_dict", state))
    return model
