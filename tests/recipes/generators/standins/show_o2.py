"""Show-o2 (showlab/Show-o@45a5a2d, folder show-o2): models, models/misc.py, transport, utils.py; OmegaConf."""

# ruff: noqa: N801 - the names are those of the package

import numpy as np
import torch
from record import Config, Tokenizer, Weights, record, text_of

MODULES = ("models", "models.misc", "transport", "utils", "omegaconf")
path_to_llm_name = {"qwen": "qwen2_5"}


class OmegaConf:
    @staticmethod
    def load(path):
        record("config", path=path)
        names = Config(
            llm_model_path="qwen",
            pretrained_model_path="showo2",
            llm_vocab_size=None,
            add_time_embeds=True,
            image_latent_dim=16,
            patch_size=2,
        )
        size = Config(
            max_seq_length=128,
            resolution=432,
            num_t2i_image_tokens=4,
            num_video_tokens=9,
            num_mmu_image_tokens=4,
            latent_height=2,
            latent_width=3,
        )
        flow = Config(
            path_type="Linear",
            prediction="velocity",
            loss_weight=None,
            train_eps=None,
            sample_eps=None,
            snr_type="lognorm",
            sampling_method="euler",
            guidance_scale=5.0,
            num_inference_steps=50,
            atol=1e-6,
            rtol=1e-3,
            reverse=False,
            do_shift=True,
            time_shifting_factor=3.0,
        )
        vae = Config(type="wan21", pretrained_model_path="Wan2.1_VAE.pth")
        return Config(model=Config(showo=names, vae_model=vae), dataset=Config(preprocessing=size), transport=flow)


def get_text_tokenizer(model_path, add_showo_tokens=True, return_showo_token_ids=False, llm_name="qwen2_5"):
    assert add_showo_tokens
    assert return_showo_token_ids
    record("tokenizer", path=model_path, llm_name=llm_name)
    return Tokenizer(), {}


def get_hyper_params(config, text_tokenizer, showo_token_ids, is_video=False, is_hq=False):
    names, size = config.model.showo, config.dataset.preprocessing
    assert names.llm_vocab_size == len(text_tokenizer)
    assert size.num_video_tokens == 10
    count, length = size.num_t2i_image_tokens, size.max_seq_length
    numbers = (count, 4, 10, length, length - count - 4, names.image_latent_dim, names.patch_size)
    ids = (0, 1, 2, 3, 4, 5, 6, 7, 8)  # pad, bos, eos, boi, eoi, bov, eov, image, video
    return (*numbers, size.latent_width, size.latent_height, *ids, config.transport.guidance_scale)


def prepare_gen_input(
    prompts, text_tokenizer, num_image_tokens, bos_id, eos_id, boi_id, eoi_id, pad_id, img_pad_id, max_text_len, device
):
    assert (bos_id, eos_id, boi_id, eoi_id, pad_id, img_pad_id) == (1, 2, 3, 4, 0, 7)
    record("encode", images=num_image_tokens, texts=max_text_len)

    def rows(texts):
        return torch.tensor([text_tokenizer.encode(text.ljust(max_text_len)) for text in texts])

    places = torch.tensor([[[len(text) + 2, num_image_tokens]] for text in prompts])
    null = torch.tensor([[[2, num_image_tokens]] for _ in prompts])
    return rows(prompts), rows([""] * len(prompts)), places, null


def omni_attn_mask(modalities):
    def mask(batch, head, query, key):
        return query >= key

    mask.rows = len(modalities)
    return mask


class WanVAE:
    def __init__(self, z_dim=16, vae_pth="", dtype=torch.float, device="cuda"):
        record("vae", path=vae_pth, dtype=str(dtype), device=device)

    def batch_decode(self, zs):
        assert zs.shape[1:] == (16, 1, 4, 6)
        return zs[:, :3].float().clamp(-1, 1)


def denorm(images):
    images = torch.clamp((images + 1.0) / 2.0, min=0.0, max=1.0).to(torch.float32) * 255.0
    return images.permute(0, 2, 3, 1).cpu().numpy().astype(np.uint8)


class Showo2Qwen2_5(Weights):
    @classmethod
    def from_pretrained(cls, path, use_safetensors=True):
        record("load", path=path, use_safetensors=use_safetensors)
        return cls()

    def t2i_generate(
        self,
        image_latents=None,
        t=None,
        text_tokens=None,
        attention_mask=None,
        modality_positions=None,
        first_frame_as_cond=False,
        only_denoise_last_image=False,
        max_seq_len=None,
        guidance_scale=0.0,
        **kwargs,
    ):
        assert not self.training
        assert self.where == ["cpu", "torch.bfloat16"]
        assert kwargs == {"output_hidden_states": True}
        assert not torch.is_grad_enabled()
        assert len(image_latents) == len(text_tokens) == len(modality_positions) == attention_mask.shape[0]
        assert attention_mask.shape[-1] == max_seq_len
        texts = [text_of(row).strip() for row in text_tokens]
        record("sample", texts=texts, guidance=guidance_scale, dtype=str(image_latents.dtype))
        return image_latents


def create_transport(
    path_type="Linear",
    prediction="velocity",
    loss_weight=None,
    train_eps=None,
    sample_eps=None,
    snr_type="uniform",
    do_shift=True,
    seq_len=1024,
):
    record("transport", path=path_type, prediction=prediction, snr=snr_type, shift=do_shift, length=seq_len)
    return "transport"


class Sampler:
    def __init__(self, transport):
        assert transport == "transport"

    def sample_ode(
        self,
        *,
        sampling_method="dopri5",
        num_steps=50,
        atol=1e-6,
        rtol=1e-3,
        reverse=False,
        do_shift=False,
        time_shifting_factor=None,
    ):
        record("ode", method=sampling_method, steps=num_steps, factor=time_shifting_factor, reverse=reverse)

        def sample(x, model, **model_kwargs):
            return [x, model(x, torch.zeros(len(x)), **model_kwargs)]

        return sample
