"""Orthus@609d968: models/modeling_orthus.py and models/processing_orthus.py."""

import torch
from record import Weights, record, text_of

MODULES = ("models.modeling_orthus", "models.processing_orthus")


class Batch(dict):
    def to(self, device, dtype=None):
        record("inputs", device=str(device), dtype=str(dtype))
        return self


class OrthusProcessor:
    @classmethod
    def from_pretrained(cls, path):
        record("processor", path=path)
        return cls()

    def __call__(self, text=None, images=None, padding=False, truncation=None, max_length=None, return_tensors="pt"):
        assert images is None
        assert padding
        width = max(map(len, text))
        rows = [[ord(letter) for letter in one.rjust(width)] for one in text]
        return Batch(input_ids=torch.tensor(rows), attention_mask=torch.ones(len(text), width))

    def postprocess_pixel_values(self, pixel_values):
        return torch.clip((pixel_values + 1) * 127.5, 0, 255).to(dtype=torch.uint8)


class OrthusForConditionalGeneration(Weights):
    dtype = torch.bfloat16

    @classmethod
    def from_pretrained(cls, path, device_map=None, torch_dtype=None, attn_implementation=None):
        record("load", path=path, device_map=device_map, torch_dtype=str(torch_dtype), attention=attn_implementation)
        return cls()

    def generate(self, generate_wo_quant=True, inputs=None, multimodal_generation_mode=None, **kwargs):
        texts = [text_of(row).strip() for row in kwargs.pop("input_ids")]
        assert len(texts) == 2  # one prompt, and the branch without it
        assert kwargs.pop("attention_mask").shape[0] == 2
        record("sample", texts=texts, mode=multimodal_generation_mode, **kwargs)
        return torch.randn(1, 64, 256)

    def decode_image_latents(self, image_latents):
        assert not torch.is_grad_enabled()
        return image_latents[..., :3].reshape(1, 8, 8, 3).permute(0, 3, 1, 2).clamp(-1, 1)
