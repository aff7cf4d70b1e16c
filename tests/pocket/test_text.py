import pytest
import torch
from transformers import T5EncoderModel

from geneval_reward.pocket import pocket_suite
from geneval_reward.pocket.build import build_pipeline
from geneval_reward.pocket.prompts import training_specs
from geneval_reward.pocket.text import END, MAX_TOKENS, MAX_WORDS, encode_text, make_tokenizer, vocabulary


def test_every_prompt_of_the_world_is_read_word_by_word() -> None:
    tokenizer = make_tokenizer()
    pools = [pocket_suite(), *training_specs().values()]
    texts = list(dict.fromkeys(spec.prompt for pool in pools for spec in pool))
    for text, ids in zip(texts, tokenizer(texts).input_ids, strict=True):
        assert tokenizer.unk_token_id not in ids, text
        assert len(ids) - 1 == len(text.split()) <= MAX_WORDS
        assert tokenizer.convert_ids_to_tokens(ids) == [*text.split(), END]


def test_case_and_punctuation_do_not_matter_and_other_words_are_unknown() -> None:
    tokenizer = make_tokenizer()
    plain = tokenizer("a photo of a red clock").input_ids
    assert tokenizer("A photo of a (RED)  clock!").input_ids == plain
    assert tokenizer("a photo of a red dog").input_ids == [*plain[:-2], tokenizer.unk_token_id, plain[-1]]
    assert len(vocabulary()) == len(set(vocabulary()))


def test_a_cut_text_keeps_its_end() -> None:
    tokenizer = make_tokenizer()
    ids = tokenizer(" ".join(["clock"] * 20), truncation=True, max_length=MAX_TOKENS).input_ids
    assert len(ids) == MAX_TOKENS
    assert ids[-1] == tokenizer.eos_token_id


def test_padding_changes_nothing_and_order_matters() -> None:
    pipe = build_pipeline(1)
    assert isinstance(pipe.text_encoder, T5EncoderModel)
    assert pipe.text_encoder.config.num_layers >= 6
    words, _, pooled, _ = pipe.encode_prompt(["a red clock", "clock red a", ""])
    assert words.shape == (3, MAX_TOKENS, 64)
    assert pooled.shape == (3, 64)
    assert torch.isfinite(words).all()
    assert (words[0, 4:] == 0).all()
    assert (words[2, 1:] == 0).all()
    assert not torch.allclose(pooled[0], pooled[1])
    ids = pipe.tokenizer(["a red clock"], return_tensors="pt")
    short, short_pooled = encode_text(pipe.text_encoder, ids.input_ids, ids.attention_mask)
    torch.testing.assert_close(short[0], words[0, :4], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(short_pooled[0], pooled[0], rtol=1e-5, atol=1e-5)


def test_building_leaves_global_chance_alone_and_repeats() -> None:
    before = torch.get_rng_state()
    one, two, other = (build_pipeline(seed, layers=1, text_layers=1) for seed in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    states = [pipe.transformer.state_dict()["proj_out.weight"] for pipe in (one, two, other)]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.parametrize("text", ["a photo of a clock", "", "zebra"])
def test_one_text_reads_the_same_alone_and_among_others(text) -> None:
    pipe = build_pipeline(1)
    alone = pipe.encode_prompt(text)[0]
    among = pipe.encode_prompt(["a photo of two vases", text, "a red teddy bear left of a green clock"])[0]
    torch.testing.assert_close(alone[0], among[1], rtol=1e-5, atol=1e-6)
