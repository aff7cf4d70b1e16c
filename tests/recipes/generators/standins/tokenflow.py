"""TokenFlow@9812da0: t2i/llava_t2i/dataset/process.py and model/language_model/llava_llama.py."""

# ruff: noqa: N803 - the names are those of the package

import torch
from record import Config, Tokenizer, Weights, record, text_of

MODULES = ("llava_t2i.dataset.process", "llava_t2i.model", "transformers")


class AutoTokenizer(Tokenizer):
    pass


def crop_and_encode_text_and_img(tokenizer, text, image, max_text_token_num):
    assert image is None
    assert len(text) > 0
    record("encode", text=text, max_text_token_num=max_text_token_num)
    return torch.tensor(tokenizer.encode(text)), len(text) + 1


class LlavaLlamaForCausalLM(Weights):
    @classmethod
    def from_pretrained(cls, path, attn_implementation="sdpa", mm_vision_tower=None):
        record("load", path=path, attn_implementation=attn_implementation, mm_vision_tower=mm_vision_tower)
        model = cls()
        model.config = Config(mm_vision_vq_type=7, use_cache=True, tokenizer_model_max_length=1024)
        model.tower = Weights()
        return model

    def get_vision_tower(self):
        return self.tower

    def reinit_image_token_start_end(self, tokenizer):
        self.tokenizer = tokenizer

    def autoregressive_infer_cfg(
        self, B, prefix_text_codes=None, g_seed=None, cfg=1.5, topk_list=(600,), topp_list=(0.6,)
    ):
        assert torch.is_inference_mode_enabled()
        assert not self.training
        assert self.where == ["torch.bfloat16", "cpu"]
        assert self.tower.where == ["torch.bfloat16"]
        assert isinstance(self.tokenizer, AutoTokenizer)
        assert self.config.mm_vision_vq_type == "7"
        assert self.config.use_cache is False
        assert len(prefix_text_codes) == 2 * B
        texts = [text_of(codes) for codes in prefix_text_codes]
        record("sample", texts=texts, seed=g_seed, cfg=cfg, topk=list(topk_list), topp=list(topp_list))
        noise = torch.Generator().manual_seed(g_seed)
        return torch.randint(0, 256, (B, 16, 16, 3), generator=noise, dtype=torch.uint8)
