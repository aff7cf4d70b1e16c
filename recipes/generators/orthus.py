"""Orthus (7B, 512 px; arXiv 2412.00127, ICML 2025) for `ForeignGenerator`.

Repository  https://github.com/zhijie-group/Orthus at 609d968
Pins        Python 3.11, torch 2.0.1, flash-attn 2.6.3, diffusers 0.31.0, accelerate 1.0.0, numpy 1.26.4, and the fork of
            transformers (4.47.0.dev0 with image generation of Anole) that lies in the repository
Licence     Chameleon research licence by the README; no licence file, and none on the model's card
Weights     SJTU-Deng-Lab/Orthus-7B-instruct on the hub (also -base)

    git clone https://github.com/zhijie-group/Orthus && git -C Orthus checkout 609d968
    uv venv -p 3.11 orthus
    uv pip install -p orthus torch==2.0.1 torchvision==0.15.2 accelerate==1.0.0 diffusers==0.31.0 numpy==1.26.4
    uv pip install -p orthus --no-build-isolation flash-attn==2.6.3 && uv pip install -p orthus -e Orthus/transformers
    geneval-reward generate orthus --generator-python orthus/bin/python --generator-dir Orthus --out samples

Published   GenEval .58 (abstract of the paper). Tasks, settings and evaluation code were not found; the settings here are of
            the repository's inference/t2i_generation.py.
Seeds       Each image token is a diffusion of 100 steps whose noise comes from torch's global generator on the model's
            device, and a batch holds one prompt: one image per call, after all global generators are seeded.
Not known   Which checkpoint was scored. The weights were out of reach here: this file was tested against a stand-in with the
            same signatures, not with the model.
"""

import torch


class Orthus:
    """Autoregressive model whose image tokens are drawn by a small diffusion head."""

    seeding = "global"
    negative_prompt = "Generate an image."  # the text of the branch without a condition

    def __init__(
        self,
        path="SJTU-Deng-Lab/Orthus-7B-instruct",
        guidance=5.0,
        attention="flash_attention_2",
        device="auto",
    ):
        from models.modeling_orthus import OrthusForConditionalGeneration
        from models.processing_orthus import OrthusProcessor

        self.processor = OrthusProcessor.from_pretrained(path)
        self.model = OrthusForConditionalGeneration.from_pretrained(
            path, device_map=device, torch_dtype=torch.bfloat16, attn_implementation=attention
        )
        self.guidance = guidance
        self.settings = {"guidance": guidance, "head_steps": 100, "size": 512, "dtype": "bf16", "attention": attention}

    def generate(self, prompts, seeds):
        (prompt,) = prompts
        inputs = self.processor([prompt, self.negative_prompt], padding=True, return_tensors="pt")
        inputs = inputs.to(self.model.device, dtype=self.model.dtype)
        latents = self.model.generate(
            **inputs, cfg_scale=self.guidance, multimodal_generation_mode="image-only", use_cache=True
        )
        with torch.no_grad():
            pixels = self.processor.postprocess_pixel_values(self.model.decode_image_latents(latents))
        return [pixels[0].permute(1, 2, 0).cpu().numpy()]
