"""Janus and Emu3 of `transformers`, tiny and with random weights, with their own processors over a tokenizer of words."""

import json

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    Emu3Config,
    Emu3ForConditionalGeneration,
    Emu3ImageProcessor,
    Emu3Processor,
    PreTrainedTokenizerFast,
)
from transformers.generation.logits_process import LogitsProcessor, LogitsProcessorList

from geneval_reward.errors import ImageError, UsageError
from geneval_reward.generate import TokenGenerator, load_generator
from geneval_reward.train.tiny import tiny_janus

WORDS = ["a", "photo", "of", "dog", "bench", "two", "red", "clocks", "blurry", "User", "Assistant", ":", "*", "2", "3"]
PROMPTS = ["a photo of two red clocks", "a dog", "a photo of a bench", "clocks"]
SEEDS = [11, 12, 13, 14]
LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
}


def make_tokenizer(special, **names):
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=special[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(), pre_tokenizers.Digits(individual_digits=True)]
    )
    tokenizer.add_special_tokens(special)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=special[0], pad_token=special[0], **names)


def enlarged(model, part=None):
    """As initialised, every token is as likely as any other, and the picture is flat."""
    for parameter in (part or model).parameters():
        parameter.data.mul_(3.0)
    return model.eval()


@pytest.fixture(scope="module")
def janus():
    return tiny_janus(words=WORDS)


@pytest.fixture(scope="module")
def emu3():
    special = ["<pad>", "<s>", "</s>", "<boi>", "<eoi>", "<|image token|>", "<|extra_201|>", "<|extra_200|>", "<image>"]
    visual = [f"<|visual token {number:06d}|>" for number in range(32)]
    names = {
        "image_token": "<image>",
        "boi_token": "<boi>",
        "eoi_token": "<eoi>",
        "image_wrapper_token": "<|image token|>",
        "eof_token": "<|extra_201|>",
    }
    tokenizer = make_tokenizer([*special, *visual], bos_token="<s>", eos_token="</s>", extra_special_tokens=names)
    processor = Emu3Processor(Emu3ImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3), tokenizer)
    config = Emu3Config(
        vq_config={
            "codebook_size": 32,
            "embed_dim": 4,
            "latent_channels": 4,
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
            "hidden_size": 32,
            "attn_resolutions": [],
        },
        text_config={**LLAMA, "vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
        vocabulary_map={name: tokenizer.convert_tokens_to_ids(name) for name in ["<image>", "<|extra_200|>", *visual]},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Emu3ForConditionalGeneration(config)
        enlarged(model, model.model.text_model)
        model.model.vqmodel.quantize.embedding.weight.data.normal_()
    return model, processor


SMALL = {"ratio": "4:3", "image_area": 12 * 64}  # three rows of four tokens


@pytest.fixture(params=["janus", "emu3"])
def make(request):
    model, processor = request.getfixturevalue(request.param)
    size = SMALL if request.param == "emu3" else {}
    return lambda **options: TokenGenerator(model, processor, **{"guidance": 2.0} | size | options)


def test_a_batch_gives_what_each_prompt_alone_gives(make) -> None:
    whole = make().generate(PROMPTS, SEEDS)
    alone = [make(batch_size=1).generate([prompt], [seed])[0] for prompt, seed in zip(PROMPTS, SEEDS, strict=True)]
    for image, one in zip(whole, alone, strict=True):
        difference = [abs(a - b) for a, b in zip(image.tobytes(), one.tobytes(), strict=True)]
        assert max(difference) <= 1, "the rounding of a batch may change a grey level, not a token"
    assert len({image.tobytes() for image in whole}) == 4


def test_seeds_hold_and_count(make) -> None:
    generator = make()
    torch.manual_seed(1)
    first = generator.generate(PROMPTS[:2], [7, 8])
    torch.manual_seed(2)
    again = generator.generate(PROMPTS[:2], [7, 8])
    other = generator.generate(PROMPTS[:2], [7, 9])
    assert [image.tobytes() for image in first] == [image.tobytes() for image in again]
    assert first[0].tobytes() == other[0].tobytes()
    assert first[1].tobytes() != other[1].tobytes()


def test_settings_reach_the_sampling(make) -> None:
    images = {
        name: make(**options).generate(PROMPTS[:1], [7])[0].tobytes()
        for name, options in {
            "plain": {},
            "guidance": {"guidance": 6.0},
            "temperature": {"temperature": 3.0},
            "template": {"template": "a red {prompt}"},
            "greedy": {"top_k": 1},
        }.items()
    }
    assert len(set(images.values())) == 5
    assert images["greedy"] == make(top_k=1).generate(PROMPTS[:1], [8])[0].tobytes(), "of one token nothing is drawn"


def test_guidance_comes_before_the_noise_in_janus(janus) -> None:
    model, processor = janus
    chats = processor.apply_chat_template(
        [[{"role": "user", "content": [{"type": "text", "text": PROMPTS[0]}]}]], add_generation_prompt=True
    )
    inputs = processor(text=chats, generation_mode="image", padding=True, return_tensors="pt")
    tokens = model.generate(**inputs, generation_mode="image", do_sample=False, guidance_scale=2.0)
    pixels = (model.decode_image_tokens(tokens)[0] / 2 + 0.5).clamp(0, 1)
    (image,) = TokenGenerator(model, processor, guidance=2.0, top_k=1).generate(PROMPTS[:1], [0])
    assert image.tobytes() == (pixels * 255).round().to(torch.uint8).numpy().tobytes()


def test_guidance_and_layout_come_before_the_noise_in_emu3(emu3, monkeypatch) -> None:
    model, processor = emu3
    seen = []

    class Watch(LogitsProcessor):
        def __call__(self, input_ids, scores):
            seen.append(scores.clone())
            return scores

    generate = model.generate

    def watched(logits_processor, **arguments):
        tokens = generate(
            logits_processor=LogitsProcessorList([*logits_processor[:-1], Watch(), logits_processor[-1]]), **arguments
        )
        seen.append(tokens[0, arguments["input_ids"].shape[1] :])
        return tokens

    monkeypatch.setattr(model, "generate", watched)
    TokenGenerator(model, processor, guidance=2.0, **SMALL).generate(PROMPTS[:1], [3])
    *scores, tokens = seen
    names = processor.tokenizer.convert_ids_to_tokens(tokens.tolist())
    kinds = ["v" if name.startswith("<|visual") else name for name in names]
    assert kinds == ["v", "v", "v", "v", "<|extra_200|>"] * 3 + ["<|extra_201|>", "<eoi>", "</s>"]
    assert [int(one.isfinite().sum()) for one in scores] == [32, 32, 32, 32, 1] * 3 + [1, 1, 1]
    # The first scores are those of guidance: log-probabilities of a negative and the prompt, twice their difference.
    options = {"return_tensors": "pt", "return_for_image_generation": True, **SMALL}
    logits = [
        torch.log_softmax(
            model(
                **{name: value for name, value in processor(text=[text], **options).items() if name != "image_sizes"}
            ).logits[:, -1],
            -1,
        )
        for text in (PROMPTS[0], "")
    ]
    guided = logits[1] + 2.0 * (logits[0] - logits[1])
    assert torch.allclose(scores[0][scores[0].isfinite()], guided[scores[0].isfinite()], atol=1e-4)


def test_a_negative_prompt_counts_and_is_noted(emu3) -> None:
    plain, negative = (TokenGenerator(*emu3, guidance=4.0, negative_prompt=text, **SMALL) for text in (None, "blurry"))
    assert plain.generate(PROMPTS[:1], [3])[0].tobytes() != negative.generate(PROMPTS[:1], [3])[0].tobytes()
    assert negative.notes.to_dict() == {"negative_prompt": "blurry"}
    assert plain.generate(PROMPTS[:1], [3])[0].size == (4 * 2, 3 * 2)


def test_defaults_are_those_of_the_authors(janus, emu3) -> None:
    assert [(one.guidance, one.top_k) for one in (TokenGenerator(*janus), TokenGenerator(*emu3))] == [(5, 0), (3, 2048)]


def test_nan_is_no_black_picture(janus, monkeypatch) -> None:
    model, processor = janus
    decode = model.decode_image_tokens
    monkeypatch.setattr(model, "decode_image_tokens", lambda tokens: decode(tokens) * float("nan"))
    with pytest.raises(ImageError, match=r"expected finite pixels, got NaN or infinity \(prompt 'a dog', seed 5\)"):
        TokenGenerator(model, processor).generate(["a dog"], [5])


def test_a_saved_model_is_loaded_by_its_folder(janus, tmp_path) -> None:
    model, processor = janus
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    generator = load_generator(str(tmp_path), device="cpu", batch_size=3, guidance_scale=2.0)
    assert generator.batch_size == 3
    expected = TokenGenerator(model, processor, guidance=2.0).generate(PROMPTS[:1], [3])
    assert generator.generate(PROMPTS[:1], [3])[0].tobytes() == expected[0].tobytes()
    with pytest.raises(UsageError, match="steps: expected an argument of TokenGenerator"):
        load_generator(str(tmp_path), device="cpu", steps=3)
    with pytest.raises(UsageError, match="lora: expected it to be left out"):
        load_generator(str(tmp_path), device="cpu", lora="x")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UsageError, match="model: expected 'pocket', 'pocket-tokens', the folder"):
        load_generator(str(tmp_path), device="cpu")


def test_wrong_arguments(janus, emu3) -> None:
    for model, options, message in [
        (janus, {"guidance": 1.0}, "guidance: expected a number > 1, got 1.0"),
        (janus, {"template": "no place"}, "template: expected text with {prompt} in it"),
        (janus, {"negative_prompt": "blurry"}, "negative_prompt: expected it to be left out for Janus"),
        (emu3, {"temperature": 0.0}, "temperature: expected a number > 0"),
        (emu3, {"batch_size": 0}, "batch_size: expected an integer >= 1"),
        ((torch.nn.Linear(2, 2), None), {}, "model: expected one of janus, emu3, got 'Linear'"),
    ]:
        with pytest.raises(UsageError, match=message):
            TokenGenerator(*model, **options)
