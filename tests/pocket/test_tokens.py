import shutil
import time

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from geneval_reward.callback import score_model
from geneval_reward.errors import UsageError, WeightsError
from geneval_reward.generate import DiffusersGenerator, load_generator, seed_for
from geneval_reward.generate.identity import identify
from geneval_reward.pocket import PocketTokens, load_tokens, pocket_suite
from geneval_reward.pocket.codes import BOOK, LENGTH, LEVELS, MASK, SPANS, encode, running_sum
from geneval_reward.pocket.packaged import read_provenance
from geneval_reward.pocket.questions import is_true, question_of
from geneval_reward.pocket.scene import fulfils
from geneval_reward.pocket.tokens_file import TOKENS_FOLDER, save_tokens
from geneval_reward.pocket.world import sample_scene

PROMPTS = ["a photo of a red clock", "a photo of two vases", "a photo of a giraffe left of a laptop", ""]


@pytest.fixture(scope="module")
def model() -> PocketTokens:
    return load_tokens()


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_weights_are_small_and_load_quickly() -> None:
    started = time.perf_counter()
    model = load_tokens()
    assert time.perf_counter() - started < 1
    assert not model.transformer.training
    assert sum(path.stat().st_size for path in TOKENS_FOLDER.iterdir()) < 5e6
    about = read_provenance(TOKENS_FOLDER)
    assert about["parameters"] == sum(p.numel() for p in model.transformer.parameters())


def test_damaged_and_foreign_weights_are_refused(model, tmp_path) -> None:
    shutil.copytree(TOKENS_FOLDER, tmp_path / "bad")
    (tmp_path / "bad" / "model.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match="expected sha256"):
        load_tokens(folder=tmp_path / "bad")
    with pytest.raises(WeightsError, match="expected the packaged model"):
        load_tokens(folder=tmp_path / "none")
    other = load_tokens()
    other.transformer.word_head = torch.nn.Linear(96, 3, bias=False)
    save_tokens(other, tmp_path / "other")
    with pytest.raises(WeightsError, match="expected weights of this version"):
        load_tokens(folder=tmp_path / "other")
    save_tokens(model, tmp_path / "same", about="a copy")
    again = load_tokens(folder=tmp_path / "same")
    assert torch.equal(again.transformer.code_head, model.transformer.code_head)


@pytest.mark.parametrize("decoding", ["masked", "levels"])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_batch_gives_what_each_prompt_alone_gives(model, decoding, guidance) -> None:
    options = {"num_inference_steps": 5, "guidance_scale": guidance, "decoding": decoding}
    seeds = [seed_for(0, prompt, 0) for prompt in PROMPTS]
    whole = DiffusersGenerator(model, batch_size=4, **options).generate(PROMPTS, seeds)
    alone = DiffusersGenerator(model, batch_size=1, **options).generate(PROMPTS[::-1], seeds[::-1])[::-1]
    assert [image.tobytes() for image in whole] == [image.tobytes() for image in alone]
    assert len({image.tobytes() for image in whole}) == 4


def test_seeds_decide(model) -> None:
    one, same, other = (model.paint(PROMPTS, generators(*range(s, s + 4)), steps=4).codes for s in (0, 0, 9))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert len({tuple(row.tolist()) for row in model.paint(PROMPTS[:1] * 8, generators(*range(8))).codes}) > 1


@pytest.mark.parametrize("steps", [1, 2, 4, 16, 18, 30])
def test_masked_decoding_follows_the_cosine_schedule(model, steps) -> None:
    painted = model.paint(PROMPTS, generators(1, 2, 3, 4), steps=steps)
    assert 0 <= painted.codes.min() <= painted.codes.max() < BOOK
    unknown = LENGTH
    for step in range(1, min(steps, LENGTH) + 1):
        assert ((painted.seen(step) == MASK).sum(1) == unknown).all()
        wanted = int(LENGTH * np.cos(np.pi * step / steps / 2)) if step < steps else 0
        unknown = max(min(wanted, unknown - 1), 0)
    assert unknown == 0
    assert painted.commits.min() == 1


def test_greedy_painting_needs_no_luck(model) -> None:
    options = {"steps": 6, "temperature": 0.0, "choice_noise": 0.0}
    one, two = (model.paint(PROMPTS, generators(*range(s, s + 4)), **options).codes for s in (0, 9))
    assert torch.equal(one, two)
    nearly = model.paint(PROMPTS, generators(1, 2, 3, 4), steps=6, top_k=1, choice_noise=0.0).codes
    assert torch.equal(one, nearly)


def test_commits_give_the_log_probabilities(model) -> None:
    """A painting can be scored afterwards: with one step, the codes are drawn from the logits of the empty canvas."""
    painted = model.paint(PROMPTS[:1] * 400, generators(*range(400)), steps=1)
    logits = model.logits(model.read(PROMPTS[:1]), painted.seen(1)[:1])
    expected = logits.softmax(-1)[0, 0]
    drawn = one_hot(painted.codes[:, 0], BOOK).float().mean(0)
    assert (expected - drawn).abs().max() < 0.1
    assert (expected * drawn).sum().sqrt() > 0.1
    found = logits.log_softmax(-1).expand(400, -1, -1).gather(2, painted.codes[..., None])[..., 0]
    torch.testing.assert_close(found, painted.log_probs)


def test_logits_take_codes_and_weights_over_them(model) -> None:
    text = model.read(PROMPTS)
    codes = model.paint(PROMPTS, generators(1, 2, 3, 4), steps=3).codes
    codes[:, 5:] = MASK
    hard = model.logits(text, codes, 2.0)
    weights = one_hot(codes, BOOK + 1).float().requires_grad_()
    soft = model.logits(text, weights, 2.0)
    assert hard.shape == (4, LENGTH, BOOK)
    torch.testing.assert_close(hard, soft)
    soft.square().sum().backward()
    assert weights.grad.abs().sum() > 0


def test_text_is_read_in_front_only(model) -> None:
    """Causal text: what stands behind a word changes nothing before it; and the words do change the codes."""
    text = model.read(["a photo of a red clock", "a photo of a red vase"])
    states = model.transformer(text, torch.full((2, LENGTH), MASK))
    torch.testing.assert_close(states[0, :5], states[1, :5])
    assert not torch.allclose(states[0, 12:], states[1, 12:], atol=1e-3)


@pytest.mark.parametrize("through", ["last", "all"])
def test_soft_painting_is_painting_with_gradient(model, through) -> None:
    hard = model.paint(PROMPTS, generators(1, 2, 3, 4), steps=4, guidance=1.5)
    soft = model.paint_soft(PROMPTS, generators(1, 2, 3, 4), steps=4, guidance=1.5, through=through)
    assert soft.shape == (4, LENGTH, BOOK)
    assert torch.equal(soft.argmax(-1), hard.codes)
    torch.testing.assert_close(soft.detach(), one_hot(hard.codes, BOOK).float())
    logits, said = model.answer_logits(soft, ["what is the main item"] * 4, ["clock"] * 4)
    model.transformer.zero_grad()
    reach = torch.autograd.grad(cross_entropy(logits.mT, said, ignore_index=0), [soft, model.transformer.code_head])
    assert reach[0].abs().sum() > 0
    assert reach[1].abs().sum() > 0


def test_levels_can_be_previewed_copied_and_seeded_anew(model) -> None:
    state = model.start(PROMPTS, generators(1, 2, 3, 4), guidance=2.0)
    assert all(not scene.items for scene in model.scenes(state.codes))
    for level in range(LEVELS):
        state = model.advance(state)
        assert state.level == level + 1
        known = state.codes != MASK
        assert known[:, : SPANS[level].stop].all()
        assert not known[:, SPANS[level].stop :].any()
        assert torch.equal(running_sum(state.codes), running_sum(state.codes, level + 1))
        assert [image.size for image in model.preview(state)] == [(256, 256)] * 4
        if level == 1:
            copies = state.take([2, 2, 0], generators(5, 6, 7))
            twins = state.take([2, 2, 0], generators(5, 5, 7))
    assert [a.tobytes() for a in model.preview(state)] == [a.tobytes() for a in model.images(state.codes)]
    assert torch.equal(copies.text, state.text[[2, 2, 0]])
    for _ in range(4):
        copies, twins = model.advance(copies), model.advance(twins)
    assert torch.equal(copies.codes[:, :2], state.codes[[2, 2, 0], :2])
    assert not torch.equal(copies.codes[0], copies.codes[1])
    assert torch.equal(twins.codes[0], twins.codes[1])
    with pytest.raises(UsageError, match="state: expected fewer than 6 painted levels, got 6"):
        model.advance(state)
    with pytest.raises(UsageError, match="generators: expected 2, one each, got 1"):
        state.take([0, 1], generators(1))


def test_answers_depend_on_codes_alone_and_on_no_neighbour(model) -> None:
    rng = np.random.default_rng(3)
    specs = [pocket_suite()[k] for k in (2, 20, 40, 60, 100, 180)]
    codes = encode([sample_scene(spec, rng) for spec in specs])
    questions = [question_of(spec)[0] for spec in specs]
    together = model.answer(codes, questions)
    assert together == [model.answer(codes[k : k + 1], questions[k : k + 1])[0] for k in range(6)]
    assert model.answer(one_hot(codes, BOOK).float(), questions) == together
    logits, said = model.answer_logits(codes, questions, together)
    assert logits.shape == (6, 11, len(model.words))
    words = [" ".join(model.words[k] for k in row if k > 1) for row in logits.argmax(-1).where(said > 0, 0).tolist()]
    assert words == together
    drawn = [model.answer(codes, questions, generators(*range(k, k + 6)), temperature=2.0) for k in (0, 0, 50)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_unknown_and_too_many_words_are_named(model) -> None:
    with pytest.warns(UserWarning, match="expected words of the pocket model's vocabulary, got 'dragon', 'seven'"):
        model.paint(["a photo of a dragon and seven clocks"], generators(0), steps=1)
    with pytest.warns(UserWarning, match=r"prompts\[0\]: expected at most 11 words, got 12; the rest is cut: 'vase'"):
        model.read(["a photo of a red clock and a blue teddy and vase"])
    assert torch.equal(model.read(["A photo, of a (red) Clock!"]), model.read(["a photo of a red clock"]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.paint(["a"], []), "generators: expected 1, one each, got 0"),
        (lambda m: m.paint(["a"], generators(0), steps=0), "steps: expected an integer >= 1, got 0"),
        (lambda m: m.paint(["a"], generators(0), temperature=-1.0), "temperature: expected a number >= 0"),
        (lambda m: m.paint(["a"], generators(0), top_k=-1), "top_k: expected an integer >= 0"),
        (lambda m: m("a", decoding="spiral"), "decoding: expected masked or levels, got 'spiral'"),
        (lambda m: m("a", output_type="gif"), "output_type: expected pil, np or latent"),
        (lambda m: m.images(torch.zeros(1, 4, dtype=torch.int64)), "codes: expected integers of shape"),
        (lambda m: m.answer(torch.zeros(1, 18, dtype=torch.int64), []), "questions: expected 1, one each, got 0"),
    ],
)
def test_wrong_arguments(model, call, message) -> None:
    with pytest.raises(UsageError, match=message):
        call(model)


def test_prompts_are_texts(model) -> None:
    with pytest.raises(TypeError, match="prompts: expected a list of strings"):
        model.paint("a clock", generators(0))
    with pytest.raises(TypeError, match=r"prompts\[0\]: expected a string, got int"):
        model.paint([3], generators(0))


def test_is_a_generator_by_its_name() -> None:
    generator = load_generator(
        "pocket-tokens", device="cpu", num_inference_steps=2, guidance_scale=2.0, decoding="levels"
    )
    assert generator.batch_size == 64
    (image,) = generator.generate(["a photo of a clock"], [3])
    assert image.size == (256, 256)
    assert len(identify("pocket-tokens")) == 64
    assert identify("pocket-tokens") != identify("pocket")
    with pytest.raises(ValueError, match="height: expected an argument that PocketTokens takes"):
        load_generator("pocket-tokens", device="cpu", height=512)


@pytest.mark.slow
def test_the_callback_scores_it(model) -> None:
    generator = DiffusersGenerator(model, batch_size=64, num_inference_steps=16, guidance_scale=3.0)
    record = score_model(generator.generate, pocket_suite()[:8], modules=model.components.values())
    assert record.metrics["geneval/overall"] > 0.4


def share_right(model, specs, **options) -> float:
    seeds = [seed_for(0, spec.prompt, index) for index, spec in enumerate(specs)]
    codes = model([spec.prompt for spec in specs], generator=generators(*seeds), output_type="latent", **options).images
    return float(np.mean([fulfils(scene, spec) for scene, spec in zip(model.scenes(codes), specs, strict=True)]))


@pytest.mark.slow
def test_more_steps_and_guidance_help(model) -> None:
    specs = list(pocket_suite())
    two, many = (share_right(model, specs, num_inference_steps=steps) for steps in (2, 16))
    assert two + 0.06 < many
    plain, guided = (share_right(model, specs, decoding="levels", guidance_scale=scale) for scale in (1.0, 3.0))
    assert plain + 0.05 < guided


@pytest.mark.slow
def test_the_reader_is_neither_blind_nor_an_oracle(model) -> None:
    rng = np.random.default_rng(5)
    specs = list(pocket_suite())
    scenes = [sample_scene(spec, rng) for spec in specs]
    questions = [question_of(spec)[0] for spec in specs]
    answers = model.answer(encode(scenes), questions)
    right = [is_true(q, a, s) for q, a, s in zip(questions, answers, scenes, strict=True)]
    assert 0.45 < np.mean(right) < 0.8
