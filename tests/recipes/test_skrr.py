from itertools import combinations

import pytest
import torch

from geneval_reward.errors import UsageError
from geneval_reward.pocket import load_pipeline, pocket_suite
from geneval_reward.surgery.sub_blocks import find_sub_blocks
from geneval_reward.train.recipes import load_recipe
from tests.surgery.tiny import FAMILIES, settings, tiny

PROMPTS = ["a photo of two cars", "a photo of a red bird"]
recipe = load_recipe("skrr")


@pytest.fixture(scope="module")
def pocket():
    pipeline = load_pipeline()
    return pipeline, recipe.Discrepancy(pipeline, "text_encoder", PROMPTS)


def test_beam_search_keeps_the_best_orders():
    """A trap for greedy: 0 is the best alone, and 1 with 2 the best pair."""
    cost = {(0,): 1, (1,): 2, (2,): 3, (0, 1): 9, (0, 2): 8, (1, 2): 4}

    def measure(skip, reuse):
        return cost[tuple(sorted(skip))]

    def two(skip):
        return len(skip) == 2

    assert recipe.beam_search(measure, 3, two, beam=1) == [0, 2]
    assert sorted(recipe.beam_search(measure, 3, two, beam=2)) == [1, 2]


def test_discrepancy_is_the_error_behind_the_projection_plus_the_null_prompt(pocket):
    pipeline, measure = pocket
    assert sorted(measure.names) == ["encoder_hidden_states", "temb"]
    assert measure([]) == 0
    encoder, transformer = pipeline.text_encoder, pipeline.transformer

    def features(texts):
        with torch.no_grad():
            words, _, pooled, _ = pipeline.encode_prompt(texts)
            time = torch.full((len(texts),), 1000.0)
            return transformer.context_embedder(words), transformer.time_text_embed(time, pooled)

    before = [features(texts) for texts in (PROMPTS, [""])]
    state = {name: value.clone() for name, value in encoder.state_dict().items()}
    with torch.no_grad():
        encoder.encoder.block[4].layer[1].DenseReluDense.wo.weight.zero_()
    after = [features(texts) for texts in (PROMPTS, [""])]
    encoder.load_state_dict(state)
    expected = sum(
        float((a - b).square().mean()) for x, y in zip(before, after, strict=True) for a, b in zip(x, y, strict=True)
    )
    assert measure([9]) == pytest.approx(expected, rel=1e-4)


def test_a_batch_is_the_mean_of_its_prompts(pocket):
    pipeline, measure = pocket
    assert recipe.Discrepancy(pipeline, "text_encoder", PROMPTS, batch_size=1)([3]) == pytest.approx(
        measure([3]), rel=1e-4
    )


def test_the_search_finds_the_best_pair_of_the_pocket_encoder(pocket):
    _, measure = pocket
    best = min(combinations(range(12), 2), key=measure)
    found = recipe.beam_search(measure, 12, lambda skip: len(skip) == 2, beam=12)
    assert measure(found) == measure(best)


def test_reuse_tries_the_neighbours_of_the_same_kind():
    class One:
        def __init__(self, kind):
            self.kind = kind

    parts = [One("attention"), One("feed-forward")] * 3
    tried = []

    def measure(skip, reuse):
        tried.append(dict(reuse))
        return 1.0 - 0.5 * (reuse.get(2) == 4) - 0.25 * (reuse.get(3) == 1)

    assert recipe.choose_reuse(measure, parts, [2, 3]) == {2: 4, 3: 1}
    assert tried == [{}, {2: 0}, {2: 4}, {2: 4, 3: 1}, {2: 4, 3: 5}]


def test_plans_reach_their_level_and_undo_leaves_no_trace(pocket):
    pipeline, _ = pocket
    before = {name: value.clone() for name, value in pipeline.text_encoder.state_dict().items()}
    plans = recipe.make_plans(pipeline, PROMPTS, levels=(0.1, 0.2), beam=2, draws=2, log=lambda text: None)
    names = {"skip", "greedy", "truncation", "shortgpt", "random0", "random1", "skrr"}
    assert set(plans) == {f"{name}_{level}" for name in names for level in (10, 20)}
    for name, plan in plans.items():
        level = int(name[-2:]) / 100
        assert level <= plan.sparsity < level + 0.17
        assert plan.discrepancy > 0
        assert len(plan.calibration) == 16
    assert plans["truncation_10"].skip == (11, 10)
    assert plans["skrr_20"].discrepancy <= plans["skip_20"].discrepancy
    after = pipeline.text_encoder.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    with pytest.raises(UsageError, match=r"up to 0\.988, got 0\.99"):
        recipe.make_plans(pipeline, PROMPTS, levels=(0.99,), log=lambda text: None)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_by_the_same_code(family):
    pipeline = tiny(family, layers=1)
    part = {"sd3": "text_encoder_3", "sd35": "text_encoder", "flux": "text_encoder_2"}.get(family, "text_encoder")
    call = settings(family)
    plans = recipe.make_plans(
        pipeline, PROMPTS, part=part, levels=(0.2,), beam=1, draws=1, call=call, log=lambda text: None
    )
    sub_blocks = find_sub_blocks(getattr(pipeline, part))
    assert len(sub_blocks) == 6
    assert len(plans["shortgpt_20"].skip) % 2 == 0
    assert [one.kind for one in sub_blocks] == ["attention", "feed-forward"] * 3
    assert all(plan.sparsity >= 0.2 for plan in plans.values())
    with plans["skrr_20"].apply(pipeline) as applied:
        assert applied.removed_bytes > 0


def test_calibration_is_never_the_suite(tmp_path):
    drawn = recipe.read_calibration(None, "pocket", 200)
    assert len(set(drawn)) == 200
    assert not {spec.prompt for spec in pocket_suite()} & set(drawn)
    file = tmp_path / "captions.txt"
    file.write_text("A long caption of a street.\nA Photo of a bench!\n")
    with pytest.raises(
        UsageError, match="line 2: expected prompts that are not in the suite, got 'a photo of a bench'"
    ):
        recipe.read_calibration(file, "pocket", 10)
    file.write_text("A caption.\nAnother one.\n")
    assert recipe.read_calibration(file, "any", 1) == ["A caption."]
    file.write_text("\n")
    with pytest.raises(UsageError, match="one prompt per line, got none"):
        recipe.read_calibration(file, "any", 1)
    with pytest.raises(UsageError, match="for the model 'sd3', got none"):
        recipe.read_calibration(None, "sd3", 1)
