"""UniPic@9e2a609: UniPic-1/src/builder.py and UniPic-1/src/models/skywork_unipic_siglip.py; mmengine's Config."""

import numpy as np
import torch
from record import Config as Fields
from record import Weights, record, text_of

MODULES = ("mmengine.config", "src.builder")


class Config:
    @staticmethod
    def fromfile(path):
        record("config", path=path)
        return Fields(model={"type": "SkyworkUnipic"})


class SkyworkUnipic(Weights):
    dtype = torch.bfloat16

    def load_state_dict(self, state, strict=True):
        record("weights", keys=sorted(state), strict=strict)

    def prepare_text_conditions(self, prompt, cfg_prompt="Generate an image."):
        width = max(len(prompt), len(cfg_prompt))
        rows = [[ord(letter) for letter in text.ljust(width)] for text in (prompt, cfg_prompt)]
        return {"input_ids": torch.tensor(rows), "attention_mask": torch.ones(2, width).bool()}

    def sample(
        self,
        input_ids=None,
        inputs_embeds=None,
        attention_mask=None,
        num_iter=64,
        cfg=1.0,
        cfg_schedule="constant",
        temperature=1.0,
        progress=False,
        mask=None,
        past_key_values=None,
        image_shape=None,
        x_con=None,
        **kwargs,
    ):
        assert not kwargs
        assert not self.training
        assert self.where == ["cpu", "torch.bfloat16"]
        assert attention_mask.shape == input_ids.shape
        texts = [text_of(row).strip() for row in input_ids]
        record(
            "sample",
            texts=texts,
            steps=num_iter,
            cfg=cfg,
            schedule=cfg_schedule,
            temperature=temperature,
            shape=list(image_shape),
        )
        order = np.arange(16)
        np.random.shuffle(order)  # noqa: NPY002 - as mar.py does
        noise = torch.randn(1, 3, 16, 16)
        return (noise + torch.tensor(order)).sin()


class BUILDER:
    @staticmethod
    def build(config):
        assert config == {"type": "SkyworkUnipic"}
        return SkyworkUnipic()
