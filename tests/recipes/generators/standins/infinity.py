"""Infinity@4c27bbb: tools/run_infinity.py and infinity/utils/dynamic_resolution.py."""

# ruff: noqa: N803 - the names are those of the package

import torch
from record import record

MODULES = ("tools.run_infinity", "infinity.utils.dynamic_resolution")
dynamic_resolution_h_w = {1.0: {"1M": {"scales": [(1, 1, 1), (2, 2, 2), (21, 64, 64)], "pixel": (1024, 1024)}}}


def add_common_arguments(parser):
    parser.add_argument("--cfg", type=str, default="3")
    parser.add_argument("--tau", type=float, default=1)
    parser.add_argument("--pn", type=str, required=True, choices=["0.06M", "0.25M", "1M"])
    parser.add_argument("--model_path", type=str, required=True)
    parser.add_argument("--cfg_insertion_layer", type=int, default=0)
    parser.add_argument("--vae_type", type=int, default=1)
    parser.add_argument("--vae_path", type=str, default="")
    parser.add_argument("--add_lvl_embeding_only_first_block", type=int, default=0, choices=[0, 1])
    parser.add_argument("--use_bit_label", type=int, default=1, choices=[0, 1])
    parser.add_argument("--model_type", type=str, default="infinity_2b")
    parser.add_argument("--rope2d_each_sa_layer", type=int, default=1, choices=[0, 1])
    parser.add_argument("--rope2d_normalized_by_hw", type=int, default=2, choices=[0, 1, 2])
    parser.add_argument("--use_scale_schedule_embedding", type=int, default=0, choices=[0, 1])
    parser.add_argument("--text_encoder_ckpt", type=str, default="")
    parser.add_argument("--text_channels", type=int, default=2048)
    parser.add_argument("--apply_spatial_patchify", type=int, default=0, choices=[0, 1])
    parser.add_argument("--checkpoint_type", type=str, default="torch")
    parser.add_argument("--bf16", type=int, default=1, choices=[0, 1])


def load_tokenizer(t5_path=""):
    record("text", path=t5_path)
    return "tokenizer", "encoder"


def load_visual_tokenizer(args):
    record("vae", path=args.vae_path, type=args.vae_type, patchify=args.apply_spatial_patchify)
    return "vae"


def load_transformer(vae, args):
    assert vae == "vae"
    record("load", **{name: value for name, value in sorted(vars(args).items()) if name not in ("cfg", "tau")})
    return "model"


def gen_one_img(
    infinity_test,
    vae,
    text_tokenizer,
    text_encoder,
    prompt,
    cfg_list=(),
    tau_list=(),
    negative_prompt="",
    scale_schedule=None,
    top_k=900,
    top_p=0.97,
    cfg_sc=3,
    cfg_exp_k=0.0,
    cfg_insertion_layer=-5,
    vae_type=0,
    gumbel=0,
    softmax_merge_topk=-1,
    gt_leak=-1,
    gt_ls_Bl=None,
    g_seed=None,
    sampling_per_bits=1,
    enable_positive_prompt=0,
):
    assert (infinity_test, vae, text_tokenizer, text_encoder) == ("model", "vae", "tokenizer", "encoder")
    assert not negative_prompt
    assert scale_schedule == [(1, 1, 1), (1, 2, 2), (1, 64, 64)]
    assert not enable_positive_prompt
    record(
        "sample",
        prompt=prompt,
        seed=g_seed,
        cfg=cfg_list,
        tau=tau_list,
        cfg_sc=cfg_sc,
        top=[top_k, top_p],
        layer=cfg_insertion_layer,
        vae_type=vae_type,
        gt_leak=gt_leak,
    )
    image = torch.randint(0, 256, (16, 16, 3), generator=torch.Generator().manual_seed(g_seed), dtype=torch.uint8)
    image[..., 0] = 0  # blue
    return image
