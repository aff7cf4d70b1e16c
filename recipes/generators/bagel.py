"""BAGEL (7B of 14B weights active, 1024 px; arXiv 2505.14683) for `ForeignGenerator`.

Repository  https://github.com/ByteDance-Seed/Bagel at 056b5fd
Pins        Python 3.10, torch 2.5.1, transformers 4.49.0, flash_attn 2.5.8 (requirements.txt)
Licence     Apache-2.0 (README)
Weights     ByteDance-Seed/BAGEL-7B-MoT on the hub, as a folder

    git clone https://github.com/ByteDance-Seed/Bagel && git -C Bagel checkout 056b5fd
    uv venv -p 3.10 bagel && uv pip install -p bagel -r Bagel/requirements.txt
    uv pip install -p bagel --no-build-isolation flash_attn==2.5.8
    geneval-reward generate bagel --generator-python bagel/bin/python --generator-dir Bagel --out samples \\
        --set path=/models/BAGEL-7B-MoT

Published   GenEval .82, and .88 with the rewritten prompts that scripts/eval/run_geneval.sh feeds. Others got .78 and .86
            (issue 123), .80 (issue 109). The authors: fp32 on H-series GPUs, no thinking, no fixed seed. Settings of that script.
Seeds       The noise is replaced by one draw per seed. Guidance is rescaled by a norm over the whole batch, so images of one
            call depend on each other: one image per call.
Not known   What explains .78. The evaluation also crops black borders, which is not done here. The weights were out of reach
            here: this file was tested against a stand-in with the same signatures, not with the model.
"""

import os

import torch


class Bagel:
    """Language model that denoises latents with a cache of the prompt; Euler steps of a shifted flow."""

    seeding = "given"

    def __init__(self, path, guidance=4.0, steps=50, size=1024, device="cuda"):
        from data.data_utils import add_special_tokens
        from modeling import bagel
        from modeling.autoencoder import load_ae
        from modeling.bagel.qwen2_navit import NaiveCache
        from modeling.qwen2 import Qwen2Tokenizer
        from safetensors.torch import load_file

        text = bagel.Qwen2Config.from_json_file(os.path.join(path, "llm_config.json"))
        text.qk_norm, text.tie_word_embeddings, text.layer_module = True, False, "Qwen2MoTDecoderLayer"
        vision = bagel.SiglipVisionConfig.from_json_file(os.path.join(path, "vit_config.json"))
        vision.rope, vision.num_hidden_layers = False, vision.num_hidden_layers - 1
        vae, vae_config = load_ae(local_path=os.path.join(path, "ae.safetensors"))
        flags = {"visual_gen": True, "visual_und": True, "latent_patch_size": 2, "max_latent_size": 64}
        flags.update(vit_max_num_patch_per_side=70, connector_act="gelu_pytorch_tanh")
        config = bagel.BagelConfig(llm_config=text, vit_config=vision, vae_config=vae_config, **flags)
        model = bagel.Bagel(bagel.Qwen2ForCausalLM(text), bagel.SiglipVisionModel(vision), config)
        model.vit_model.vision_model.embeddings.convert_conv2d_to_linear(vision)
        model.load_state_dict(load_file(os.path.join(path, "ema.safetensors"), device="cpu"), strict=False)
        self.model, self.vae = model.to(device).eval(), vae.to(device).eval()
        self.tokenizer, self.tokens, _ = add_special_tokens(Qwen2Tokenizer.from_pretrained(path))
        self.new_cache = lambda: NaiveCache(text.num_hidden_layers)
        self.guidance, self.steps, self.size, self.device = guidance, steps, size, torch.device(device)
        self.settings = {"guidance": guidance, "timesteps": steps, "shift": 3.0, "size": size, "dtype": "fp32"}

    @torch.no_grad()
    def generate(self, prompts, seeds):
        (seed,), sizes, kind = seeds, [(self.size, self.size)], self.device.type
        inputs, lengths, places = self.model.prepare_prompts([0], [0], prompts, self.tokenizer, self.tokens)
        with torch.autocast(kind, dtype=torch.float16):
            cache = self.model.forward_cache_update_text(self.new_cache(), **self.move(inputs))
        inputs = self.model.prepare_vae_latent(lengths, places, sizes, self.tokens)
        noise = torch.randn(inputs["packed_init_noises"].shape, generator=torch.Generator().manual_seed(seed))
        inputs = self.move(dict(inputs, packed_init_noises=noise))
        null = self.move(self.model.prepare_vae_latent_cfg([0], [0], sizes))
        null = {name.replace("cfg_", "cfg_text_", 1): tensor for name, tensor in null.items()}
        flow = {"num_timesteps": self.steps, "timestep_shift": 3.0, "cfg_interval": [0, 1.0], "cfg_renorm_min": 0.0}
        flow.update(cfg_text_scale=self.guidance, cfg_text_past_key_values=self.new_cache())
        with torch.autocast(kind, dtype=torch.bfloat16):
            latent = self.model.generate_image(past_key_values=cache, **flow, **null, **inputs)[0]
        # Patches of 2 x 2 latents with 16 channels, in reading order.
        side = self.size // 16
        latent = latent.reshape(1, side, side, 2, 2, 16).permute(0, 5, 1, 3, 2, 4).reshape(1, 16, 2 * side, 2 * side)
        pixels = (self.vae.decode(latent.float())[0] / 2 + 0.5).clamp(0, 1) * 255
        return [pixels.permute(1, 2, 0).to(torch.uint8).cpu().numpy()]

    def move(self, inputs):
        return {name: value.to(self.device) if torch.is_tensor(value) else value for name, value in inputs.items()}
