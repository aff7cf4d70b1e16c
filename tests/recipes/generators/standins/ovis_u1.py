"""Ovis-U1@dccf5eb: test_txt_to_img.py, and the model that it loads through transformers."""

import torch
from PIL import Image
from record import Weights, record

MODULES = ("test_txt_to_img", "transformers")


class Model(Weights):
    pass


class AutoModelForCausalLM:
    @staticmethod
    def from_pretrained(path, torch_dtype=None, trust_remote_code=False):
        record("load", path=path, torch_dtype=str(torch_dtype), trust_remote_code=trust_remote_code)
        return Model()


def pipe_t2i(model, prompt, height, width, steps, cfg, seed=42):
    assert not model.training
    assert model.where == ["cpu", "torch.bfloat16"]
    record("sample", prompt=prompt, size=[height, width], steps=steps, cfg=cfg, seed=seed)
    noise = torch.rand(16, 16, 3, generator=torch.Generator().manual_seed(seed))
    return [Image.fromarray((noise * 255).to(torch.uint8).numpy())]
