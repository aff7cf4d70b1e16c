"""Show-o2 (1.5B and 7B, 432 px; arXiv 2506.15564) for `ForeignGenerator`.

Repository  https://github.com/showlab/Show-o at 45a5a2d, folder show-o2
Pins        torch 2.5.1, transformers 4.47.0, diffusers 0.31.0, torchdiffeq, flash-attn (build_env.sh)
Licence     code Apache-2.0; that of the weights was not looked up
Weights     showlab/show-o2-1.5B or -7B and Qwen2.5-1.5B-Instruct or -7B-Instruct on the hub; Wan2.1_VAE.pth in the folder show-o2

    git clone https://github.com/showlab/Show-o && git -C Show-o checkout 45a5a2d
    uv venv -p 3.10 showo2   # then every line of show-o2/build_env.sh with `uv pip install -p showo2`
    geneval-reward generate show_o2 --generator-python showo2/bin/python --generator-dir Show-o/show-o2 --out samples

Published   GenEval .73 (1.5B: .99 .86 .55 .86 .46 .63), .76 (7B). The released evaluation/sample_geneval.sh feeds rewritten
            prompts (110 words on average); the figures are probably of those. Settings here are of that script.
Seeds       The noise is made before sampling, which draws no more: one seed per image, in batches too.
Not known   The score on the prompts as they are. The weights were out of reach here: this file was tested against a stand-in
            with the same signatures, not with the model.
"""

import torch


class ShowO2:
    """Language model with a flow head, integrated by Euler steps."""

    seeding, batch_size = "given", 4

    def __init__(self, config="configs/showo2_1.5b_demo_432x432.yaml", guidance=7.5, steps=100, device="cuda"):
        from models import Showo2Qwen2_5, WanVAE, omni_attn_mask
        from models.misc import get_text_tokenizer, prepare_gen_input
        from omegaconf import OmegaConf
        from torch.nn.attention.flex_attention import create_block_mask
        from transport import Sampler, create_transport
        from utils import denorm, get_hyper_params, path_to_llm_name

        config = OmegaConf.load(config)
        names, flow, size = config.model.showo, config.transport, config.dataset.preprocessing
        llm = names.llm_model_path
        tokenizer, ids = get_text_tokenizer(llm, True, return_showo_token_ids=True, llm_name=path_to_llm_name[llm])
        names.llm_vocab_size = len(tokenizer)
        self.vae = WanVAE(vae_pth=config.model.vae_model.pretrained_model_path, dtype=torch.bfloat16, device=device)
        model = Showo2Qwen2_5.from_pretrained(names.pretrained_model_path, use_safetensors=False)
        self.model = model.to(device).to(torch.bfloat16).eval()
        for name in ("num_t2i_image_tokens", "num_video_tokens") if names.add_time_embeds else ():
            size[name] += 1  # the time embedding stands before the image tokens
        (count, _, _, self.length, text, depth, patch, width, height, pad, bos, eos, boi, eoi, _, _, image, _, _) = (
            get_hyper_params(config, tokenizer, ids)
        )
        self.shape = (depth, height * patch, width * patch)
        self.encode = lambda prompts: prepare_gen_input(
            prompts, tokenizer, count, bos, eos, boi, eoi, pad, image, text, device
        )
        keys = ("path_type", "prediction", "loss_weight", "train_eps", "sample_eps", "snr_type", "do_shift")
        sampler = Sampler(create_transport(seq_len=count, **{key: flow[key] for key in keys}))
        keys = ("sampling_method", "atol", "rtol", "reverse", "time_shifting_factor")
        self.sample = sampler.sample_ode(num_steps=steps, **{key: flow[key] for key in keys})
        self.masks, self.block_mask, self.to_pixels = omni_attn_mask, create_block_mask, denorm
        self.guidance, self.device = guidance, device
        self.settings = {"guidance": guidance, "steps": steps, "size": size.resolution, "dtype": "bf16"}

    @torch.no_grad()
    def generate(self, prompts, seeds):
        noise = [torch.randn(self.shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        noise = torch.stack(noise).to(torch.bfloat16).to(self.device)
        tokens, null_tokens, places, null_places = self.encode(list(prompts))
        places = torch.cat([places, null_places])
        mask = self.block_mask(self.masks(places), 2 * len(seeds), None, self.length, self.length, device=self.device)
        latents = self.sample(
            torch.cat([noise, noise]),
            self.model.t2i_generate,
            text_tokens=torch.cat([tokens, null_tokens]),
            attention_mask=mask,
            modality_positions=places,
            output_hidden_states=True,
            max_seq_len=self.length,
            guidance_scale=self.guidance,
        )[-1]
        return list(self.to_pixels(self.vae.batch_decode(latents.chunk(2)[0].unsqueeze(2)).squeeze(2)))
