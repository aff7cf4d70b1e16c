"""Show-o@45a5a2d: models/modeling_showo.py, models/modeling_magvitv2.py, training/prompting_utils.py; OmegaConf."""

import torch
from record import Config, Tokenizer, Weights, record, text_of

MODULES = ("models", "training.prompting_utils", "omegaconf", "transformers")
MASK = 58497


class AutoTokenizer(Tokenizer):
    pass


class OmegaConf:
    @staticmethod
    def load(path):
        record("config", path=path)
        names = Config(llm_model_path="phi", pretrained_model_path="showo", num_vq_tokens=16, codebook_size=8192)
        return Config(
            model=Config(vq_model=Config(vq_model_name="magvit"), showo=names),
            dataset=Config(preprocessing=Config(max_seq_length=128, resolution=512)),
        )


class UniversalPrompting:
    def __init__(
        self,
        text_tokenizer,
        special_tokens=(),
        max_text_len=8000,
        max_seq_len=377,
        ignore_id=-100,
        cond_dropout_prob=0.1,
    ):
        assert isinstance(text_tokenizer, AutoTokenizer)
        assert len(special_tokens) == 9
        record("prompting", max_text_len=max_text_len)
        self.sptids_dict = {f"<|{name}|>": torch.tensor([index]) for index, name in enumerate(("pad", "soi", "eoi"), 1)}

    def __call__(self, input, task, padding=True, config=None):
        texts, image = input
        assert task == "t2i_gen"
        assert len(texts) == len(image)
        assert image.dtype == torch.long
        assert (image == MASK).all()
        rows = [[ord(letter) for letter in text.rjust(40)] for text in texts]
        ids = torch.cat([torch.tensor(rows), image, image[:, :1]], dim=1)
        return ids, torch.ones_like(ids)


def create_attention_mask_predict_next(
    sequence, pad_id=128256, soi_id=128257, eoi_id=128258, rm_pad_in_image=False, return_inverse_mask=True
):
    record("mask", ids=[pad_id, soi_id, eoi_id], rm_pad_in_image=rm_pad_in_image)
    return torch.zeros(len(sequence), 1, sequence.shape[1], sequence.shape[1])


def get_mask_chedule(method, **schedule_kwargs):
    record("schedule", method=method)
    return method


class MAGVITv2(Weights):
    @classmethod
    def from_pretrained(cls, path):
        record("decoder", path=path)
        return cls()

    def decode_code(self, codebook_indices, shape=None):
        assert not self.training
        return (codebook_indices.reshape(1, 1, 4, 4).repeat(1, 3, 4, 4) / 8191.0) * 2 - 1


class Showo(Weights):
    config = Config(mask_token_id=MASK)

    @classmethod
    def from_pretrained(cls, path):
        record("load", path=path)
        return cls()

    def t2i_generate(
        self,
        input_ids=None,
        uncond_input_ids=None,
        attention_mask=None,
        temperature=1.0,
        timesteps=18,
        guidance_scale=0,
        noise_schedule=None,
        generator=None,
        config=None,
        **kwargs,
    ):
        assert not kwargs
        assert not self.training
        assert not torch.is_grad_enabled()
        assert attention_mask.shape[0] == len(input_ids) + len(uncond_input_ids) == 2
        count = config.model.showo.num_vq_tokens
        texts = [text_of(row[: -count - 1]).strip() for row in (input_ids[0], uncond_input_ids[0])]
        record(
            "sample",
            texts=texts,
            steps=timesteps,
            guidance=guidance_scale,
            temperature=temperature,
            schedule=noise_schedule,
            device=str(generator.device),
        )
        return torch.randint(0, 8192, (1, count), generator=generator)
