"""Show-o (1.3B, 256 or 512 px; arXiv 2408.12528) for `ForeignGenerator`.

Repository  https://github.com/showlab/Show-o at 45a5a2d
Pins        torch 2.2.1, transformers 4.41.1, diffusers 0.30.1 (200 pins in requirements.txt)
Licence     code Apache-2.0; weights Apache-2.0 (512 px), MIT (256 px)
Weights     showlab/show-o-512x512 or showlab/show-o, showlab/magvitv2, microsoft/phi-1_5 on the hub

    git clone https://github.com/showlab/Show-o && git -C Show-o checkout 45a5a2d
    uv venv -p 3.10 showo && uv pip install -p showo -r Show-o/requirements.txt
    geneval-reward generate show_o --generator-python showo/bin/python --generator-dir Show-o --out samples

Published   GenEval .68 (512 px: .98 .80 .66 .84 .31 .50), .53 (256 px). Others got .674 with 16 steps and guidance 10.
            The evaluation's settings were not published (issue 58). Those here are of the README: guidance 5 and 50 steps
            at 512 px. For 256 px: --set config=configs/showo_demo.yaml --set guidance=1.75 --set steps=16.
Guidance    In this model's own count, (1 + g) with - g without: 5 is 6 elsewhere.
Seeds       One generator per call for all of its rows, so one image per call.
Not known   Which settings gave .68. The weights were out of reach here: this file was tested against a stand-in with the same
            signatures, not with the model.
"""

import torch
from transformers import AutoTokenizer

TOKENS = ("<|soi|>", "<|eoi|>", "<|sov|>", "<|eov|>", "<|t2i|>", "<|mmu|>", "<|t2v|>", "<|v2v|>", "<|lvg|>")


class ShowO:
    """Language model that fills in masked image tokens, the most certain first."""

    seeding = "given"

    def __init__(self, config="configs/showo_demo_512x512.yaml", guidance=5.0, steps=50, device="cuda"):
        from models import MAGVITv2, Showo, get_mask_chedule
        from omegaconf import OmegaConf
        from training.prompting_utils import UniversalPrompting, create_attention_mask_predict_next

        self.config = OmegaConf.load(config)
        names, text = self.config.model.showo, self.config.dataset.preprocessing
        tokenizer = AutoTokenizer.from_pretrained(names.llm_model_path, padding_side="left")
        self.prompting = UniversalPrompting(
            tokenizer, max_text_len=text.max_seq_length, special_tokens=TOKENS, ignore_id=-100, cond_dropout_prob=0.1
        )
        self.decoder = MAGVITv2.from_pretrained(self.config.model.vq_model.vq_model_name).to(device).eval()
        self.model = Showo.from_pretrained(names.pretrained_model_path).to(device).eval()
        self.attention, self.schedule = create_attention_mask_predict_next, get_mask_chedule("cosine")
        self.guidance, self.steps, self.device = guidance, steps, device
        self.settings = {"guidance": guidance, "steps": steps, "size": text.resolution, "dtype": "fp32"}

    @torch.no_grad()
    def generate(self, prompts, seeds):
        (prompt,), (seed,) = prompts, seeds
        shape = (1, self.config.model.showo.num_vq_tokens)
        masked = torch.full(shape, self.model.config.mask_token_id, dtype=torch.long, device=self.device)
        given, null = (self.prompting(([text], masked), "t2i_gen")[0] for text in (prompt, ""))
        ids = {f"{name}_id": int(self.prompting.sptids_dict[f"<|{name}|>"]) for name in ("pad", "soi", "eoi")}
        tokens = self.model.t2i_generate(
            input_ids=given,
            uncond_input_ids=null,
            attention_mask=self.attention(torch.cat([given, null]), rm_pad_in_image=True, **ids),
            guidance_scale=self.guidance,
            temperature=1.0,
            timesteps=self.steps,
            noise_schedule=self.schedule,
            generator=torch.Generator(self.device).manual_seed(seed),
            config=self.config,
        )
        pixels = self.decoder.decode_code(tokens.clamp(0, self.config.model.showo.codebook_size - 1))[0]
        return [((pixels / 2 + 0.5).clamp(0, 1) * 255).permute(1, 2, 0).to(torch.uint8).cpu().numpy()]
