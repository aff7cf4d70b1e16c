"""Janus of `transformers`, tiny and with random weights."""

import pytest
import torch
from torch.nn import functional

from geneval_reward.errors import UsageError
from geneval_reward.prompts import official_suite
from geneval_reward.train import check_unified
from geneval_reward.train.janus import JanusUnified
from geneval_reward.train.tiny import tiny_janus, tiny_sd3

PROMPTS = ["a photo of a dog", "a photo of a red wine glass and a blue bench"]
QUESTIONS = ["what is there?", "what color is the dog"]
ANSWERS = ["a dog", "the dog is red."]


@pytest.fixture(scope="module")
def model():
    return JanusUnified(*tiny_janus(), guidance=2.0, max_words=6)


@pytest.fixture(scope="module")
def painted(model):
    return model.paint(PROMPTS, [1, 2])


def test_it_has_every_method_and_leaves_the_vq_model_alone(model):
    check_unified(model)
    trained = {name for name, p in model.network.named_parameters() if p.requires_grad}
    assert trained
    assert not any("vqmodel" in name for name in trained)


def test_a_picture_does_not_depend_on_its_batch(model, painted):
    alone = model.paint(PROMPTS[1:], [2])
    assert torch.equal(alone.tokens[0], painted.tokens[1])
    torch.testing.assert_close(alone.log_probs[0], painted.log_probs[1])


def test_teacher_forcing_gives_the_distribution_that_was_drawn_from(model, painted):
    """`generate` starts its own pass at every token; the noise of the seeds picks the same tokens from teacher-forced logits."""
    from geneval_reward.generate.token_models import read_janus
    from geneval_reward.generate.tokens import SeededTokens

    logits = model._token_logits(read_janus(model.model, model.processor, PROMPTS), painted.tokens)
    noise = SeededTokens([1, 2])
    again = torch.stack([noise(None, one).argmax(-1) for one in logits.unbind(1)], 1)
    assert torch.equal(again, painted.tokens)
    (log_probs, drawn), *more = model.token_log_probs(PROMPTS, painted)
    assert not more
    assert drawn.all()
    assert torch.equal(log_probs.detach(), painted.log_probs)


def test_pixels_are_those_of_transformers(model, painted):
    shown = model.model.decode_image_tokens(painted.tokens).permute(0, 3, 1, 2) / 2 + 0.5
    expected = (shown.clamp(0, 1) * 255).round().to(torch.uint8)
    found = torch.stack(model.images(painted.tokens))
    assert (found.int() - expected.int()).abs().max() <= 1
    assert found.float().std() > 1


def test_soft_tokens_are_read_as_hard_ones_and_carry_a_gradient_to_the_painter(model, painted):
    soft = model.paint_soft(PROMPTS, [1, 2])
    torch.testing.assert_close(soft, functional.one_hot(painted.tokens, 32).float(), atol=1e-6, rtol=0)
    log_probs, said = model.answer_log_probs(soft, QUESTIONS, ANSWERS)
    hard, _ = model.answer_log_probs(painted.tokens, QUESTIONS, ANSWERS)
    torch.testing.assert_close(log_probs, hard, atol=1e-4, rtol=0)
    assert said.sum(1).tolist() == [3, 6]  # the words, the full stop and the end
    model.network.zero_grad()
    log_probs.where(said, 0.0).sum().backward()
    head = next(p for name, p in model.network.named_parameters() if "generation_head" in name)
    assert head.grad.abs().sum() > 0
    model.network.zero_grad()


def test_another_size_of_the_vision_tower_is_resized_to(model, painted, monkeypatch):
    monkeypatch.setattr(
        model,
        "_pixels",
        lambda tokens, inner=model._pixels: inner(tokens).repeat_interleave(2, 2).repeat_interleave(2, 3),
    )
    large = model.answer_log_probs(painted.tokens, QUESTIONS, ANSWERS)[0]
    monkeypatch.undo()
    torch.testing.assert_close(large, model.answer_log_probs(painted.tokens, QUESTIONS, ANSWERS)[0], atol=0.2, rtol=0.2)


def test_answers_are_drawn_from_seeds_and_depend_on_the_picture(model, painted):
    drawn = model.answer(painted.tokens, QUESTIONS, [1, 2])
    assert drawn == model.answer(painted.tokens, QUESTIONS, [1, 2])
    assert model.answer(painted.tokens[1:], QUESTIONS[1:], [2]) == drawn[1:]
    other = model.answer_log_probs(painted.tokens.flip(0), QUESTIONS, ANSWERS)[0]
    assert not torch.allclose(other, model.answer_log_probs(painted.tokens, QUESTIONS, ANSWERS)[0])


def test_the_greedy_answer_has_the_likeliest_first_word(model, painted):
    best = model.answer(painted.tokens, QUESTIONS)
    others = ["dog", "bench"]
    first, another = (model.answer_log_probs(painted.tokens, QUESTIONS, said)[0][:, 0] for said in (best, others))
    assert (first >= another).all()


def test_questions_have_the_wording_that_was_asked_for():
    model = JanusUnified(*tiny_janus(), wording="unirl")
    assert model.ask(official_suite()[0]).question == "What is the main item in this image?"


def test_wrong_use_is_refused():
    with pytest.raises(UsageError, match="model: expected a JanusForConditionalGeneration, got"):
        JanusUnified(tiny_sd3(), None)
    with pytest.raises(UsageError, match="processor: expected"):
        JanusUnified(tiny_janus()[0])
    with pytest.raises(UsageError, match="guidance > 1"):
        JanusUnified(*tiny_janus(), guidance=1.0)
    model = JanusUnified(*tiny_janus())
    with pytest.raises(UsageError, match=r"answers: expected one question and answer per picture \(1\)"):
        model.answer_log_probs(torch.zeros(1, 64, dtype=torch.long), QUESTIONS, ANSWERS)
