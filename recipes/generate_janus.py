"""GenEval images from an autoregressive model: Janus in `transformers`, one seed per image.

    python recipes/generate_janus.py --tiny --out samples --subset 1/tag         # random weights, seconds, no download
    geneval-reward generate recipes/generate_janus.py:janus_pro_1b --out samples  # Janus-Pro-1B, a GPU
    geneval-reward score samples --backend paper

What is particular to such models is in `paint`: guidance and sampling are two logits processors, in this order, and decoding
is greedy. `transformers`' own sampling draws from one global generator, so that an image made in a batch of eight would be
another than one made alone; `SeededTokens` draws every row from its own seed. Emu3, Chameleon and other models with image
tokens need another prompt format and decoder, and nothing else.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable
from typing import Any

import torch

from geneval_reward.generate import CallableGenerator, SeededTokens

Encode = Callable[[list[str]], dict[str, torch.Tensor]]


def janus_generator(
    model: Any, encode: Encode, *, guidance: float = 5.0, temperature: float = 1.0, batch_size: int = 8
) -> CallableGenerator:
    """Janus as a generator.

    Args:
        model: A `JanusForConditionalGeneration`.
        encode: Prompts to `input_ids` and `attention_mask`, padded on the left, each ending in "begin of image".
        guidance: Classifier-free guidance, > 1; 5 is the model's own.
        temperature: Temperature of the sampling, > 0.
        batch_size: Most images a call.
    """
    from transformers import LogitsProcessorList
    from transformers.generation import ClassifierFreeGuidanceLogitsProcessor

    @torch.inference_mode()
    def paint(prompts: list[str], seeds: list[int]) -> torch.Tensor:
        inputs = {name: tensor.to(model.device) for name, tensor in encode(prompts).items()}
        processors = LogitsProcessorList(
            [ClassifierFreeGuidanceLogitsProcessor(guidance), SeededTokens(seeds, temperature=temperature)]
        )
        # guidance_scale=1: ours stands in the list already, where the noise comes after it.
        tokens = model.generate(
            **inputs, generation_mode="image", do_sample=False, guidance_scale=1.0, logits_processor=processors
        )
        # (B, H, W, 3) in [-1, 1], as the model's own image processor undoes it (mean and deviation .5).
        return (model.decode_image_tokens(tokens).float() / 2 + 0.5).clamp(0, 1)

    return CallableGenerator(paint, batch_size=batch_size)


def janus_pro_1b(
    name: str = "deepseek-community/Janus-Pro-1B", guidance: float = 5.0, temperature: float = 1.0
) -> CallableGenerator:
    """The released model, from a folder or a model hub. A sweep can set its arguments."""
    from transformers import AutoProcessor, JanusForConditionalGeneration

    device = "cuda" if torch.cuda.is_available() else "cpu"
    processor = AutoProcessor.from_pretrained(name)
    model = JanusForConditionalGeneration.from_pretrained(name, dtype=torch.bfloat16).to(device).eval()

    def encode(prompts: list[str]) -> dict[str, torch.Tensor]:
        chats = [[{"role": "user", "content": [{"type": "text", "text": prompt}]}] for prompt in prompts]
        texts = processor.apply_chat_template(chats, add_generation_prompt=True)
        found = processor(text=texts, generation_mode="image", padding=True, return_tensors="pt")
        return {name: found[name] for name in ("input_ids", "attention_mask")}

    return janus_generator(model, encode, guidance=guidance, temperature=temperature)


PAD, BOS, BOI, IMAGE, WORDS = 0, 1, 2, 3, 64


def tiny_janus(seed: int = 0, guidance: float = 2.0, temperature: float = 1.0) -> CallableGenerator:
    """The same classes with a few thousand random weights: pictures of 16 px that show nothing, for tests and dry runs."""
    from transformers import (
        JanusConfig,
        JanusForConditionalGeneration,
        JanusVisionConfig,
        JanusVQVAEConfig,
        LlamaConfig,
    )

    side = 8
    config = JanusConfig(
        text_config=LlamaConfig(
            vocab_size=WORDS,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=256,
            pad_token_id=PAD,
            bos_token_id=BOS,
        ),
        vision_config=JanusVisionConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=16,
            patch_size=2,
            projection_dim=32,
            num_image_tokens=side * side,
        ),
        vq_config=JanusVQVAEConfig(
            embed_dim=8,
            num_embeddings=32,
            latent_channels=8,
            base_channels=32,
            channel_multiplier=[1, 1],
            num_res_blocks=1,
            num_patches=side,
            projection_dim=32,
            image_token_embed_dim=32,
        ),
        image_token_id=IMAGE,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = JanusForConditionalGeneration(config).eval()
        # As initialised, every token is as likely as any other and the picture is flat.
        for parameter in model.parameters():
            parameter.data.mul_(3.0)
    model.generation_config.generation_kwargs = {"boi_token_id": BOI}
    model.generation_config.pad_token_id, model.generation_config.bos_token_id = PAD, BOS

    return janus_generator(model, _encode_words, guidance=guidance, temperature=temperature)


def _encode_words(prompts: list[str]) -> dict[str, torch.Tensor]:
    """A word is a number by its hash; padded on the left."""
    rows = [
        [BOS, *(4 + hashlib.sha256(word.encode()).digest()[0] % (WORDS - 4) for word in prompt.split()), BOI]
        for prompt in prompts
    ]
    width = max(map(len, rows))
    ids = torch.tensor([[PAD] * (width - len(row)) + row for row in rows])
    return {"input_ids": ids, "attention_mask": (ids != PAD).long()}


def main() -> None:
    """Hand over to `geneval-reward generate`."""
    import subprocess
    import sys

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--tiny", action="store_true", help="random weights instead of Janus-Pro-1B")
    parser.add_argument("--out", required=True)
    options, rest = parser.parse_known_args()
    source = f"{__file__}:{'tiny_janus' if options.tiny else 'janus_pro_1b'}"
    command = [sys.executable, "-m", "geneval_reward", "generate", source, "--out", options.out, *rest]
    raise SystemExit(subprocess.run(command, check=False).returncode)


if __name__ == "__main__":
    main()
