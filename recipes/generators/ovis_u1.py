"""Ovis-U1 (3B, 1024 px; arXiv 2506.23044) for `ForeignGenerator`.

Repository  https://github.com/AIDC-AI/Ovis-U1 at dccf5eb
Pins        Python 3.10, torch 2.4.0, transformers 4.51.3, diffusers 0.31.0, numpy 1.24.3 (requirements.txt)
Licence     Apache-2.0
Weights     AIDC-AI/Ovis-U1-3B on the hub, whose code is run from there (trust_remote_code)

    git clone https://github.com/AIDC-AI/Ovis-U1 && git -C Ovis-U1 checkout dccf5eb
    uv venv -p 3.10 ovis && uv pip install -p ovis -r Ovis-U1/requirements.txt && uv pip install -p ovis -e Ovis-U1
    geneval-reward generate ovis_u1 --generator-python ovis/bin/python --generator-dir Ovis-U1 --out samples

Published   GenEval .89 (.98 .98 .90 .92 .79 .75), without a word on rewriting; no evaluation code. The settings here are the
            defaults of the repository's test_txt_to_img.py.
Seeds       One per image, as an argument of the sampler. The repository's script drops its own --seed: always 42.
Not known   The settings of the evaluation; how the model's code on the hub uses the seed, and on which device. The weights
            were out of reach here: this file was tested against a stand-in with the same signatures, not with the model.
"""

import torch
from transformers import AutoModelForCausalLM


class OvisU1:
    """Language model that conditions a diffusion transformer; a white picture is its visual input."""

    seeding = "given"
    # The repository's function puts both in place itself.
    template = (
        "<image>\nDescribe the image by detailing the color, shape, size, texture, quantity, text, and spatial "
        "relationships of the objects:{prompt}"
    )
    negative_prompt = "<image>\nGenerate an image."

    def __init__(self, path="AIDC-AI/Ovis-U1-3B", guidance=5.0, steps=50, size=1024, device="cuda"):
        from test_txt_to_img import pipe_t2i  # of the repository

        model = AutoModelForCausalLM.from_pretrained(path, torch_dtype=torch.bfloat16, trust_remote_code=True)
        self.model = model.eval().to(device).to(torch.bfloat16)
        self.sample = pipe_t2i
        self.options = {"height": size, "width": size, "steps": steps, "cfg": guidance}
        self.settings = {"guidance": guidance, "image_guidance": 0, "steps": steps, "size": size, "dtype": "bf16"}

    def generate(self, prompts, seeds):
        (prompt,), (seed,) = prompts, seeds
        return self.sample(self.model, prompt, seed=seed, **self.options)
