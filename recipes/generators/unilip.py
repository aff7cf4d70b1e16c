"""UniLIP (1B and 3B, 448 px; arXiv 2507.23278, ICLR 2026) for `ForeignGenerator`.

Repository  https://github.com/nnnth/UniLIP at 299817d
Pins        Python 3.11, torch 2.6.0 (cu118), transformers 4.52.1, diffusers 0.32.2, flash_attn 2.6.2 (requirements.txt)
Licence     the README says Apache-2.0; there is no licence file, and the models' cards name none
Weights     kanashi6/UniLIP-3B or UniLIP-1B on the hub; the scheduler is that of Efficient-Large-Model/Sana_1600M (or 600M)

    git clone https://github.com/nnnth/UniLIP && git -C UniLIP checkout 299817d
    uv venv -p 3.11 unilip && uv pip install -p unilip -r UniLIP/requirements.txt && uv pip install -p unilip -e UniLIP
    geneval-reward generate unilip --generator-python unilip/bin/python --generator-dir UniLIP --out samples \\
        --set path=/models/UniLIP-3B

Published   GenEval .88 (1B), .90 (3B), no tasks. Others got .76 with the 3B (issue 14). The second stage of training uses
            BLIP3o-60k, which holds prompts of GenEval's templates.
Settings    20 steps of DPMSolverMultistep and guidance 4.5, whatever the repository's command line asks for: its --steps and
            --scale reach nothing. Decoded at 512 px, then resized to 448.
Seeds       A generator per image. The repository's evaluation seeds 42 before every prompt: all prompts share four noises.
Not known   What explains .76; the authors answer that the version of transformers matters. The weights were out of reach
            here: this file was tested against a stand-in with the same signatures, not with the model.
"""

import torch


class UniLIP:
    """Language model whose query tokens condition a SANA diffusion transformer."""

    seeding = "given"
    template = "<|im_start|>user\nGenerate an image: {prompt}<|im_end|>\n<|im_start|>assistant\n<img>"
    negative_prompt = "<|im_start|>user\nGenerate an image.<|im_end|>\n<|im_start|>assistant\n<img>"
    trained_on_template = True

    def __init__(self, path, guidance=4.5):
        from unilip.model.builder import load_pretrained_model_general
        from unilip.utils import disable_torch_init

        disable_torch_init()
        loaded = load_pretrained_model_general("UniLIP_InternVLForCausalLM", path)  # bf16, always on cuda:0
        self.tokenizer, self.model, _ = loaded
        self.guidance = guidance
        self.settings = {"guidance": guidance, "steps": 20, "size": 448, "dtype": "bf16"}

    def generate(self, prompts, seeds):
        (prompt,), (seed,) = prompts, seeds
        # The repository's pipeline calls this too, but does not hand on the guidance.
        pixels = self.model.generate_image(
            text=[self.template.format(prompt=prompt), self.negative_prompt],
            tokenizer=self.tokenizer,
            generator=torch.Generator(device=self.model.device).manual_seed(seed),
            guidance_scale=self.guidance,
        )
        return [(pixels * 255).round().astype("uint8")]
