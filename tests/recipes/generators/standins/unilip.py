"""UniLIP@299817d: unilip/model/builder.py, unilip/utils.py and unilip/model/language_model/unilip_internvl.py."""

import numpy as np
import torch
from record import Tokenizer, Weights, record

MODULES = ("unilip.model.builder", "unilip.utils")


def disable_torch_init():
    record("no_init")


class Model(Weights):
    def generate_image(
        self,
        text,
        tokenizer,
        pixel_values=None,
        image_grid_thw=None,
        max_var=None,
        generator=None,
        guidance_scale=4.5,
    ):
        assert pixel_values is None
        assert isinstance(tokenizer, Tokenizer)
        assert generator.device == self.device
        record("sample", text=text, guidance=guidance_scale)
        noise = torch.rand(14, 14, 3, generator=generator)
        return noise.numpy().astype(np.float32)


def load_pretrained_model_general(
    model_name, model_path, load_8bit=False, load_4bit=False, device_map="auto", device="cuda", use_flash_attn=False
):
    assert not load_8bit
    assert not load_4bit
    record("load", name=model_name, path=model_path)
    return Tokenizer(), Model(), 2048
