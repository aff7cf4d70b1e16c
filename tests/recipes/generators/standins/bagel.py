"""Bagel@056b5fd: modeling/bagel/bagel.py, qwen2_navit.py, modeling/qwen2, modeling/autoencoder.py, data/data_utils.py."""

import torch
from record import Config, Tokenizer, Weights, record, text_of

MODULES = (
    "data.data_utils",
    "modeling.bagel",
    "modeling.bagel.qwen2_navit",
    "modeling.autoencoder",
    "modeling.qwen2",
    "safetensors.torch",
)


class FromJson(Config):
    @classmethod
    def from_json_file(cls, path):
        record("json", path=path)
        return cls(num_hidden_layers=3)


class Qwen2Config(FromJson):
    pass


class SiglipVisionConfig(FromJson):
    pass


class Qwen2Tokenizer(Tokenizer):
    pass


def add_special_tokens(tokenizer):
    return tokenizer, {"start_of_image": 1, "end_of_image": 2}, 4


def load_file(path, device=None):
    record("weights", path=path, device=device)
    return {}


def load_ae(local_path):
    record("vae", path=local_path)
    return Vae(), Config(downsample=8, z_channels=16)


class Vae(Weights):
    def decode(self, latent):
        assert latent.dtype == torch.float32
        assert latent.shape == (1, 16, 8, 8)
        return latent[:, :3].clamp(-1, 1)


class NaiveCache:
    def __init__(self, num_layers):
        self.num_layers = num_layers


class BagelConfig(Config):
    def __init__(self, **values):
        record("bagel", **{name: value for name, value in values.items() if isinstance(value, bool | int | str)})
        super().__init__(**values)


class Qwen2ForCausalLM:
    def __init__(self, config):
        assert (config.qk_norm, config.tie_word_embeddings, config.layer_module) == (
            True,
            False,
            "Qwen2MoTDecoderLayer",
        )


class SiglipVisionModel:
    def __init__(self, config):
        assert (config.rope, config.num_hidden_layers) == (False, 2)
        self.vision_model = Config(embeddings=Config(convert_conv2d_to_linear=lambda config: record("linear")))


class Bagel(Weights):
    def __init__(self, language_model, vit_model, config):
        super().__init__()
        assert isinstance(language_model, Qwen2ForCausalLM)
        self.vit_model, self.config = vit_model, config

    def load_state_dict(self, state, strict=True):
        record("state", strict=strict)

    def prepare_prompts(self, curr_kvlens, curr_rope, prompts, tokenizer, new_token_ids):
        assert len(curr_kvlens) == len(curr_rope) == len(prompts)
        ids = [torch.tensor(tokenizer.encode(prompt)) for prompt in prompts]
        lengths = [len(one) + 2 for one in ids]
        names = ("packed_text_position_ids", "text_token_lens", "packed_text_indexes", "packed_key_value_indexes")
        inputs = dict.fromkeys((*names, "key_values_lens"), torch.zeros(1))
        return dict(inputs, packed_text_ids=torch.cat(ids)), lengths, lengths

    def forward_cache_update_text(
        self,
        past_key_values,
        packed_text_ids,
        packed_text_position_ids,
        text_token_lens,
        packed_text_indexes,
        packed_key_value_indexes,
        key_values_lens,
    ):
        assert not torch.is_grad_enabled()
        assert torch.get_autocast_dtype("cpu") == torch.float16
        record("text", prompt=text_of(packed_text_ids), layers=past_key_values.num_layers)
        return Config(text=len(packed_text_ids), num_layers=3)

    def prepare_vae_latent(self, curr_kvlens, curr_rope, image_sizes, new_token_ids):
        assert curr_kvlens == curr_rope != [0]
        (height, width), *others = image_sizes
        assert not others  # guidance is rescaled by a norm over all images of a call
        inputs = dict.fromkeys(LATENT_INPUTS, torch.zeros(1))
        return dict(inputs, packed_init_noises=torch.randn(height // 16 * width // 16, 64))

    def prepare_vae_latent_cfg(self, curr_kvlens, curr_rope, image_sizes):
        assert curr_kvlens == curr_rope == [0]
        names = ("packed_position_ids", "key_values_lens", "packed_query_indexes", "packed_key_value_indexes")
        return {f"cfg_{name}": torch.ones(1) for name in names}

    def generate_image(
        self,
        packed_text_ids,
        packed_text_indexes,
        packed_init_noises,
        packed_vae_position_ids,
        packed_vae_token_indexes,
        packed_seqlens,
        packed_position_ids,
        packed_indexes,
        past_key_values,
        key_values_lens,
        packed_key_value_indexes,
        num_timesteps=24,
        timestep_shift=1.0,
        cfg_renorm_min=0.0,
        cfg_renorm_type="global",
        cfg_interval=(0, 1),
        cfg_text_scale=1.0,
        cfg_text_packed_query_indexes=None,
        cfg_text_packed_position_ids=None,
        cfg_text_past_key_values=None,
        cfg_text_key_values_lens=None,
        cfg_text_packed_key_value_indexes=None,
        cfg_img_scale=1.0,
        cfg_type="parallel",
        enable_taylorseer=False,
    ):
        assert not torch.is_grad_enabled()
        assert not self.training
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
        assert past_key_values.text > 0
        assert isinstance(cfg_text_past_key_values, NaiveCache)
        null = (cfg_text_packed_query_indexes, cfg_text_packed_position_ids, cfg_text_key_values_lens)
        assert all(tensor.item() == 1 for tensor in (*null, cfg_text_packed_key_value_indexes))
        record(
            "sample",
            timesteps=num_timesteps,
            shift=timestep_shift,
            guidance=cfg_text_scale,
            interval=list(cfg_interval),
            renorm=[cfg_renorm_type, cfg_renorm_min],
            image_guidance=cfg_img_scale,
        )
        return (packed_init_noises.clone(),)


LATENT_INPUTS = (
    "packed_text_ids",
    "packed_text_indexes",
    "packed_vae_position_ids",
    "packed_vae_token_indexes",
    "packed_seqlens",
    "packed_position_ids",
    "key_values_lens",
    "packed_indexes",
    "packed_key_value_indexes",
)
