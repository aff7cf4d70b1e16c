"""Infinity (2B, 1024 px; arXiv 2412.04431) for `ForeignGenerator`.

Repository  https://github.com/FoundationVision/Infinity at 4c27bbb
Pins        torch 2.5.1, timm 0.9.6, flash_attn (compulsory), transformers free (requirements.txt)
Licence     MIT (code; the README says the same of the models)
Weights     infinity_2b_reg.pth and infinity_vae_d32reg.pth of FoundationVision/infinity, google/flan-t5-xl on the hub

    git clone https://github.com/FoundationVision/Infinity && git -C Infinity checkout 4c27bbb
    uv venv -p 3.10 infinity && uv pip install -p infinity -r Infinity/requirements.txt
    geneval-reward generate infinity --generator-python infinity/bin/python --generator-dir Infinity --out samples

Published   GenEval .69, and .73 with prompts rewritten by GPT-4o, which scripts/eval.sh does unless told otherwise.
            Others got .683 (.994 .770 .622 .846 .268 .598; issue 16), and .726 rewritten (issue 42). The 8B: .79 rewritten.
            Settings here are of scripts/eval.sh: guidance 4, tau 1. The demo uses guidance 3 and tau .5.
Seeds       One per call and image. The evaluation does not use it: it seeds 0 before every prompt, so all share four noises.
Not known   The rewritten prompts; the settings of the 8B, which needs other weights and arguments. The weights were out of
            reach here: this file was tested against a stand-in with the same signatures, not with the model.
"""

import argparse

import torch


class Infinity:
    """Next-scale model of bits over 13 scales."""

    seeding = "given"

    def __init__(
        self,
        path="weights/infinity_2b_reg.pth",
        vae="weights/infinity_vae_d32reg.pth",
        text_encoder="weights/flan-t5-xl",
        guidance=4.0,
        tau=1.0,
    ):
        from infinity.utils.dynamic_resolution import dynamic_resolution_h_w

        from tools import run_infinity

        parser = argparse.ArgumentParser()
        run_infinity.add_common_arguments(parser)
        flags = {"pn": "1M", "model_type": "infinity_2b", "model_path": path, "vae_path": vae, "vae_type": 32}
        flags.update(text_encoder_ckpt=text_encoder, text_channels=2048, use_bit_label=1)
        flags.update(rope2d_each_sa_layer=1, rope2d_normalized_by_hw=2, add_lvl_embeding_only_first_block=1)
        args = parser.parse_args([f"--{name}={value}" for name, value in flags.items()])
        tokenizer, encoder = run_infinity.load_tokenizer(t5_path=text_encoder)
        decoder = run_infinity.load_visual_tokenizer(args)
        model = run_infinity.load_transformer(decoder, args)
        self.parts = (model, decoder, tokenizer, encoder)
        self.scales = [(1, height, width) for _, height, width in dynamic_resolution_h_w[1.0]["1M"]["scales"]]
        self.sample, self.guidance, self.tau = run_infinity.gen_one_img, guidance, tau
        self.settings = {"guidance": guidance, "tau": tau, "top_k": 900, "top_p": 0.97, "size": 1024, "dtype": "bf16"}

    @torch.no_grad()
    def generate(self, prompts, seeds):
        (prompt,), (seed,) = prompts, seeds
        image = self.sample(
            *self.parts,
            prompt,
            g_seed=seed,
            cfg_list=self.guidance,
            tau_list=self.tau,
            cfg_sc=3,
            scale_schedule=self.scales,
            top_k=900,
            top_p=0.97,
            cfg_insertion_layer=[0],
            vae_type=32,
            gt_leak=0,
        )
        return [image.flip(-1).cpu().numpy()]  # from blue, green, red
