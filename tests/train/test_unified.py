import pytest
import torch

from geneval_reward.errors import UsageError
from geneval_reward.judges import grade_answer
from geneval_reward.pocket import pocket_suite
from geneval_reward.pocket.token_words import PAD
from geneval_reward.train import Painted, PocketUnified, check_unified

SPECS = list(pocket_suite())[::25]
PROMPTS = [spec.prompt for spec in SPECS]
SEEDS = list(range(len(SPECS)))


@pytest.fixture(scope="module")
def model():
    return PocketUnified(steps=4)


def test_the_pocket_model_has_every_method(model):
    check_unified(model)


def test_a_missing_method_is_named():
    class Painter:
        network = torch.nn.Linear(1, 1)

        def paint(self, prompts, seeds): ...

        def ask(self, spec): ...

    with pytest.raises(UsageError, match=r"got Painter without answer, answer_log_probs; geneval_reward.train"):
        check_unified(Painter(), ("ask", "paint", "answer", "answer_log_probs"))
    with pytest.raises(UsageError, match="without paint_soft, network"):
        check_unified(object(), ("paint_soft",))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_log_probabilities_are_those_of_the_drawing(guidance):
    model = PocketUnified(steps=4, guidance=guidance)
    painted = model.paint(PROMPTS, SEEDS)
    passes = list(model.token_log_probs(PROMPTS, painted))
    assert len(passes) == 4
    assert torch.equal(sum(drawn.int() for _, drawn in passes), torch.ones_like(painted.tokens, dtype=torch.int))
    found = sum(log_probs.where(drawn, 0.0) for log_probs, drawn in passes)
    assert torch.equal(found.detach(), painted.log_probs)
    assert found.requires_grad


def test_answers_have_the_likelihood_of_their_words(model):
    painted = model.paint(PROMPTS, SEEDS)
    qas = [model.ask(spec) for spec in SPECS]
    questions = [qa.question for qa in qas]
    best = model.answer(painted.tokens, questions)
    log_probs, said = model.answer_log_probs(painted.tokens, questions, best)
    words = model.model.read(best)[:, : said.shape[1]]
    assert torch.equal(said, words != PAD)
    drawn = model.answer(painted.tokens, questions, SEEDS)
    assert drawn == model.answer(painted.tokens, questions, SEEDS)
    others, also = model.answer_log_probs(painted.tokens, questions, drawn)
    # Greedy words are the likeliest at the first place.
    assert (log_probs[:, 0] >= others[:, 0] - 1e-6).all()
    assert also.any()
    # One that ends early is answered as it is alone, whoever else is in the batch.
    assert [model.answer(painted.tokens[n : n + 1], questions[n : n + 1], [n])[0] for n in SEEDS] == drawn


def test_soft_painting_is_the_hard_one_with_a_gradient(model):
    painted = model.paint(PROMPTS, SEEDS)
    soft = model.paint_soft(PROMPTS, SEEDS)
    assert torch.equal(soft.argmax(-1), painted.tokens)
    questions, answers = zip(*((qa.question, qa.answer) for qa in map(model.ask, SPECS)), strict=True)
    log_probs, said = model.answer_log_probs(soft, questions, answers)
    model.network.zero_grad()
    log_probs.where(said, 0.0).sum().backward()
    assert model.network.code_head.grad.abs().sum() > 0
    model.network.zero_grad()


def test_every_training_prompt_has_parts_that_its_answer_earns(model):
    from geneval_reward.pocket.prompts import training_specs

    for pool in training_specs().values():
        for spec in pool[::7]:
            qa = model.ask(spec)
            assert qa.parts
            assert grade_answer(qa, qa.answer).mean == 1.0


def test_pictures_with_nan_are_found_and_rows_can_be_taken(model):
    painted = model.paint(PROMPTS[:3], SEEDS[:3])
    broken = painted.log_probs.clone()
    broken[1, 4] = torch.nan
    painted = Painted(painted.tokens, painted.commits, broken)
    assert painted.finite_rows() == [0, 2]
    assert torch.equal(painted.rows(torch.tensor([2])).tokens, painted.tokens[2:])
