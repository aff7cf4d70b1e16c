"""TokenFlow (7B text-to-image, 256 px; arXiv 2412.03069) for `ForeignGenerator`.

Repository  https://github.com/ByteFlow-AI/TokenFlow at 9812da0
Pins        torch 2.1.2, transformers 4.43.4, accelerate 0.31.0, deepspeed 0.12.6, einops 0.6.1 (t2i/requirements.txt)
Licence     code Apache-2.0; none found for the weights, whose base is Llama-2-7B
Weights     ByteFlow-AI/TokenFlow-t2i, and tokenflow_clipb_32k_enhanced.pt of ByteFlow-AI/TokenFlow on the hub

    git clone https://github.com/ByteFlow-AI/TokenFlow && git -C TokenFlow checkout 9812da0
    uv venv -p 3.10 tokenflow && uv pip install -p tokenflow -r TokenFlow/t2i/requirements.txt
    geneval-reward generate tokenflow --generator-python tokenflow/bin/python --generator-dir TokenFlow/t2i --out samples \\
        --set tokenizer=/models/tokenflow_clipb_32k_enhanced.pt

Published   GenEval .55 (.95 .60 .41 .81 .16 .24, whose mean is .528), and .63 with rewritten prompts on a site of results.
            Neither the evaluation's code nor its settings are public; those here are of the repository's run_t2i.sh.
Seeds       One generator per call, so one image per call. The repository's script drops its own --g_seed.
Not known   Whether the published runs used `loop` 1. The weights were out of reach here: this file was tested against a
            stand-in with the same signatures, not with the model.
"""

import torch
import transformers

# Top-k and top-p of each pass over a scale, by the number of passes.
PASSES = {1: ([600], [0.6]), 2: ([1200, 1], [0.8, 0]), 3: ([1200, 100, 1], [0.8, 0.8, 0])}


class TokenFlow:
    """Next-scale token model; guidance grows linearly from 0 at the first scale to `guidance` at the last."""

    seeding = "given"
    negative_prompt = (
        "lowres, bad anatomy, bad hands, text, error, missing fingers, extra digit, fewer digits, cropped, worst quality, "
        "low quality, normal quality, jpeg artifacts, signature, watermark, username, blurry."
    )

    def __init__(
        self,
        path="ByteFlow-AI/TokenFlow-t2i",
        tokenizer="../pretrained_ckpts/tokenflow_clipb_32k_enhanced.pt",
        guidance=7.5,
        loop=1,
        device="cuda",
    ):
        from llava_t2i.dataset.process import crop_and_encode_text_and_img
        from llava_t2i.model import LlavaLlamaForCausalLM

        if device == "cuda":
            torch.set_default_tensor_type("torch.cuda.FloatTensor")  # the model makes its masks without naming a device
        model = LlavaLlamaForCausalLM.from_pretrained(path, attn_implementation="eager", mm_vision_tower=tokenizer)
        self.model = model.eval().to(torch.bfloat16).to(device)
        self.model.get_vision_tower().to(torch.bfloat16)
        self.model.config.mm_vision_vq_type = str(self.model.config.mm_vision_vq_type)
        self.model.config.use_cache = False
        length = self.model.config.tokenizer_model_max_length
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(
            path, model_max_length=length, padding_side="right", use_fast=False
        )
        self.model.reinit_image_token_start_end(self.tokenizer)
        self.encode = crop_and_encode_text_and_img
        self.guidance, (self.top_k, self.top_p) = guidance, PASSES[loop]
        self.settings = {"guidance": guidance, "top_k": self.top_k, "top_p": self.top_p, "size": 256, "dtype": "bf16"}

    def generate(self, prompts, seeds):
        (prompt,), (seed,) = prompts, seeds
        texts = (prompt, self.negative_prompt)
        codes = [self.encode(self.tokenizer, text, image=None, max_text_token_num=128)[0] for text in texts]
        with torch.inference_mode():
            images = self.model.autoregressive_infer_cfg(
                B=1, prefix_text_codes=codes, cfg=self.guidance, topk_list=self.top_k, topp_list=self.top_p, g_seed=seed
            )
        return [images[0].numpy()]
