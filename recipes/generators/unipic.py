"""Skywork UniPic 1 (1.5B, 1024 px; arXiv 2508.03320) for `ForeignGenerator`.

Repository  https://github.com/SkyworkAI/UniPic at 9e2a609, folder UniPic-1
Pins        Python 3.10, torch 2.6.0, transformers 4.45.2, timm 0.9.12, flash-attn 2.6.2, xtuner, mmengine
Licence     MIT; its NOTICE names Harmon (S-Lab licence, which is not for commercial use)
Weights     Skywork/Skywork-UniPic-1.5B on the hub, in the folder UniPic-1/checkpoint, whose name the configuration holds

    git clone https://github.com/SkyworkAI/UniPic && git -C UniPic checkout 9e2a609
    uv venv -p 3.10 unipic && uv pip install -p unipic -r UniPic/UniPic-1/requirements.txt
    hf download Skywork/Skywork-UniPic-1.5B --local-dir UniPic/UniPic-1/checkpoint
    geneval-reward generate unipic --generator-python unipic/bin/python --generator-dir UniPic/UniPic-1 --out samples

Published   GenEval .86 (.98 .92 .74 .91 .89 .72), without a word on rewriting; no evaluation code. The settings here are the
            defaults of the repository's scripts/text2image.py. Its batch script ends every prompt with a full stop.
Seeds       None in any script. The order of tokens comes from NumPy, the noise from torch on the CPU and on the GPU: one
            image per call, after all of them are seeded.
Not known   The template of the evaluation. The weights were out of reach here: this file was tested against a stand-in with
            the same signatures, not with the model.
"""

import torch


class UniPic:
    """Masked autoregressive model with a diffusion head of 100 steps per group of tokens."""

    seeding = "global"
    template = "Generate an image: {prompt}"
    negative_prompt = "Generate an image."

    def __init__(
        self,
        path="checkpoint/pytorch_model.bin",
        config="configs/models/qwen2_5_1_5b_kl16_mar_h.py",
        guidance=3.0,
        steps=32,
        device="cuda",
    ):
        from mmengine.config import Config
        from src.builder import BUILDER

        model = BUILDER.build(Config.fromfile(config).model).eval().to(device)
        self.model = model.to(model.dtype)
        self.model.load_state_dict(torch.load(path, map_location=device), strict=False)
        self.guidance, self.steps = guidance, steps
        self.settings = {"guidance": guidance, "steps": steps, "head_steps": 100, "size": 1024, "dtype": "bf16"}

    def generate(self, prompts, seeds):
        (prompt,) = prompts
        # Two rows: with and without the prompt.
        inputs = self.model.prepare_text_conditions(self.template.format(prompt=prompt), self.negative_prompt)
        pixels = self.model.sample(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            num_iter=self.steps,
            cfg=self.guidance,
            cfg_schedule="constant",
            temperature=1.0,
            progress=False,
            image_shape=(64, 64),
        )
        pixels = (127.5 * pixels[0].float() + 128.0).clamp(0, 255).to(torch.uint8)
        return [pixels.permute(1, 2, 0).cpu().numpy()]
