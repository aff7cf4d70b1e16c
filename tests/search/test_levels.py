import pytest
import torch

pytest.importorskip("transformers")

from geneval_reward.errors import UsageError
from geneval_reward.search import load_steps, named_plan, search


@pytest.fixture(scope="module")
def steps():
    return load_steps("pocket-tokens", device="cpu")


def run(steps, seeds):
    state = steps.start("a photo of a clock", seeds)
    for step in range(steps.n_steps):
        state = steps.advance(state, step)
    return state


def test_a_candidate_depends_on_its_own_seed_and_not_on_the_batch(steps) -> None:
    together, alone = run(steps, [3, 4, 5]), run(steps, [4])
    assert torch.equal(together.model.codes[1], alone.model.codes[0])
    assert len({tuple(row) for row in together.model.codes.tolist()}) == 3


def test_gathered_candidates_go_on_as_before_and_copies_differ(steps) -> None:
    state = steps.start("a photo of a clock", [3, 4])
    for step in range(2):
        state = steps.advance(state, step)
    before = state.model.codes.clone()
    went_on = steps.take(state, [1, 1, 1], [4, 4, 99])
    for step in range(2, steps.n_steps):
        went_on = steps.advance(went_on, step)
    codes = went_on.model.codes
    assert torch.equal(codes[0], run(steps, [3, 4]).model.codes[1])
    assert torch.equal(codes[0], codes[1])
    assert not torch.equal(codes[0], codes[2])
    assert torch.equal(codes[2, :2], codes[0, :2])  # what was painted before stays
    assert torch.equal(state.model.codes, before)


def test_the_last_preview_is_the_image(steps) -> None:
    state = run(steps, [1])
    assert steps.preview(state)[0].tobytes() == steps.images(state)[0].tobytes()
    assert steps.features(state).shape == (1, 100)
    assert sum(steps.cost(step, 3) for step in range(6)) == pytest.approx(3)


@pytest.mark.parametrize("method", ["tts-var", "fk"])
def test_a_whole_search_by_the_same_code_as_a_flow(steps, method, make_reward) -> None:
    plan = named_plan(method, 1 if method == "tts-var" else 3, 6)
    found = search(steps, plan, make_reward(), prompt="a photo of two clocks")
    assert found.image.size == (256, 256)
    assert found.cost.passes == pytest.approx(plan.passes(steps))


def test_options_of_other_models_are_refused() -> None:
    with pytest.raises(UsageError, match="sampler: expected it to be left out for 'pocket-tokens'"):
        load_steps("pocket-tokens", sampler="cps")
    with pytest.raises(UsageError, match="guidance: expected a number"):
        load_steps("pocket-tokens", guidance=0.5)
