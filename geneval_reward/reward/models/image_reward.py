"""ImageReward: a BLIP encoder that reads the text beside the image, and a small head that says how good the pair is.

The authors' checkpoint is of BLIP's original code. Here it is put into transformers' BLIP, whose blocks are the same under other
names; the vision normalisation keeps the original's epsilon of 1e-6.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from geneval_reward.reward.models.base import Loaded, ModelReward, pixels_of

# The authors standardise the head's output over their training set.
_MEAN: Final = 0.16717362830052426
_STD: Final = 1.0333394966054072
_TOKENS: Final = 35

_RENAMES: Final = (
    (r"^visual_encoder\.cls_token$", "vision.embeddings.class_embedding"),
    (r"^visual_encoder\.pos_embed$", "vision.embeddings.position_embedding"),
    (r"^visual_encoder\.patch_embed\.proj\.", "vision.embeddings.patch_embedding."),
    (r"^visual_encoder\.norm\.", "vision.post_layernorm."),
    (r"^visual_encoder\.blocks\.(\d+)\.norm(\d)\.", r"vision.encoder.layers.\1.layer_norm\2."),
    (r"^visual_encoder\.blocks\.(\d+)\.attn\.proj\.", r"vision.encoder.layers.\1.self_attn.projection."),
    (r"^visual_encoder\.blocks\.(\d+)\.attn\.qkv\.", r"vision.encoder.layers.\1.self_attn.qkv."),
    (r"^visual_encoder\.blocks\.(\d+)\.mlp\.", r"vision.encoder.layers.\1.mlp."),
    (r"^text_encoder\.", "text."),
    (r"^mlp\.layers\.", "head."),
)


class ImageRewardNet(nn.Module):
    """Encoders and head.

    Args:
        config: A `transformers.BlipConfig`; None for that of the published weights.
    """

    def __init__(self, config: Any = None) -> None:
        super().__init__()
        from transformers.models.blip.modeling_blip import BlipVisionModel
        from transformers.models.blip.modeling_blip_text import BlipTextModel

        config = _published() if config is None else config
        width = config.text_config.hidden_size
        self.vision = BlipVisionModel(config.vision_config)
        self.text = BlipTextModel(config.text_config, add_pooling_layer=False)
        self.head = nn.Sequential(
            nn.Linear(width, 1024),
            nn.Dropout(0.2),
            nn.Linear(1024, 128),
            nn.Dropout(0.2),
            nn.Linear(128, 64),
            nn.Dropout(0.1),
            nn.Linear(64, 16),
            nn.Linear(16, 1),
        )

    def forward(self, pixels: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Scores `(n,)` of `(n, 3, s, s)` pixels and `(n, t)` tokens."""
        image = self.vision(pixel_values=pixels).last_hidden_state
        seen = torch.ones(image.shape[:-1], dtype=torch.long, device=image.device)
        text = self.text(
            input_ids=ids, attention_mask=mask, encoder_hidden_states=image, encoder_attention_mask=seen
        ).last_hidden_state
        found: torch.Tensor = self.head(text[:, 0].float())[:, 0]
        return (found - _MEAN) / _STD


class ImageReward(ModelReward):
    """A number of mean 0 and deviation 1 over the authors' data; higher is better.

    Args:
        model: Hub id, folder, or file of `ImageReward.pt`.
        tokenizer: Hub id or folder of BERT's tokenizer.
        device: A torch device or `auto`.
        batch_size: Images per forward pass, >= 1.
        loader: Makes `(ImageRewardNet, tokenizer, image processor)`.

    Source: Xu et al., arXiv 2304.05977; weights `THUDM/ImageReward` (Apache-2.0).
    """

    name = "image_reward"

    def __init__(
        self,
        model: str = "THUDM/ImageReward",
        tokenizer: str = "google-bert/bert-base-uncased",
        *,
        device: torch.device | str = "auto",
        batch_size: int = 16,
        loader: Loaded | None = None,
    ) -> None:
        super().__init__(model, device=device, batch_size=batch_size, loader=loader)
        self.tokenizer = tokenizer

    def load(self) -> Any:
        """`(network, tokenizer, image processor)`."""
        from transformers import AutoTokenizer

        with torch.device("meta"):
            net = ImageRewardNet()
        net.to_empty(device="cpu")
        for module in net.modules():  # buffers that are no weights are made again
            if hasattr(module, "position_ids"):
                old: Any = module.position_ids
                module.position_ids = torch.arange(old.shape[-1])[None]
        side: Any = net.vision.config.image_size
        return (
            load_image_reward(net, self._file()),
            AutoTokenizer.from_pretrained(self.tokenizer),
            image_processor(side),
        )

    def values(self, loaded: Any, images: list[torch.Tensor], texts: list[str], device: torch.device) -> torch.Tensor:
        """About -2 to 2."""
        net, tokenizer, processor = loaded
        tokens = tokenizer(texts, padding="max_length", truncation=True, max_length=_TOKENS, return_tensors="pt").to(
            device
        )
        found: torch.Tensor = net(pixels_of(processor, images, device), tokens["input_ids"], tokens["attention_mask"])
        return found

    def _file(self) -> Path:
        path = Path(self.model)
        if path.is_file():
            return path
        if path.is_dir():
            return path / "ImageReward.pt"
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(self.model, "ImageReward.pt"))


def image_processor(side: int) -> Any:
    """Shorter side to `side`, centre crop, CLIP's normalisation."""
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def load_image_reward(net: ImageRewardNet, path: str | Path) -> ImageRewardNet:
    """Put the authors' checkpoint into the network.

    Raises:
        OSError: If it lacks a tensor, or one has another shape.
    """
    state: Mapping[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    renamed = {}
    for name, tensor in state.items():
        name = name.removeprefix("blip.")
        for pattern, ours in _RENAMES:
            new, count = re.subn(pattern, ours, name)
            if count:
                renamed[new] = tensor
                break
    wanted = net.state_dict()
    lacking = sorted(set(wanted) - set(renamed))
    wrong = sorted(name for name in set(wanted) & set(renamed) if wanted[name].shape != renamed[name].shape)
    if lacking or wrong:
        raise OSError(
            f"{path}: expected the tensors of ImageReward, got {len(lacking)} missing and {len(wrong)} of another shape; "
            f"the first: {(lacking + wrong)[0]}"
        )
    net.load_state_dict({name: renamed[name] for name in wanted})
    return net


def _published() -> Any:
    """BLIP with ViT-L/16 at 224 pixels and BERT-base, of two more words than BERT's."""
    from transformers import BlipConfig

    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    text = {"vocab_size": 30524, "hidden_size": 768, "encoder_hidden_size": 1024, "intermediate_size": 3072}
    text |= {"num_hidden_layers": 12, "num_attention_heads": 12, "max_position_embeddings": 512}
    return BlipConfig(
        vision_config={**vision, "image_size": 224, "patch_size": 16, "layer_norm_eps": 1e-6, "hidden_act": "gelu"},
        text_config=text,
    )
