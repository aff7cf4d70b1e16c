import pytest

from geneval_reward.errors import UsageError
from geneval_reward.pocket import load_pipeline, pocket_suite
from geneval_reward.surgery.scores import FixedNoise
from geneval_reward.testing import FakeDetector, scorer_for


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline()


def test_images_depend_on_prompt_and_repeat_and_not_on_the_batch(pipeline):
    specs = pocket_suite()[100:104] * 2
    one, other = (FixedNoise(specs, batch_size=size, num_inference_steps=2) for size in (3, 8))
    assert one(pipeline) == other(pipeline)
    assert len(set(one.seeds)) == 8
    assert FixedNoise(specs[:4][::-1]).seeds == one.seeds[:4][::-1]
    whole = other.images(pipeline, slice(0, 8), "latent")
    assert not (whole[0] == whole[4]).all()


def test_the_digest_tells_scores_apart():
    specs = pocket_suite()[:4]
    plain = FixedNoise(specs, num_inference_steps=8)
    assert plain.digest == FixedNoise(specs, num_inference_steps=8).digest
    others = [
        FixedNoise(specs[:3], num_inference_steps=8),
        FixedNoise(specs, num_inference_steps=4),
        FixedNoise(specs, seed=1),
    ]
    assert len({plain.digest, *(other.digest for other in others)}) == 4


def test_differences_are_of_the_task_means():
    specs = [*pocket_suite()[:4], *pocket_suite()[40:42]]
    score = FixedNoise(specs)
    dense, cut = [1.0, 1.0, 1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0, 1.0, 1.0]
    assert score.mean(dense) == 0.875
    assert score.compare(dense, cut).overall.value == score.mean(cut) - score.mean(dense) == -0.25


def test_a_scorer_judges_pictures(pipeline):
    scorer = scorer_for(FakeDetector({"bicycle": [[10, 10, 90, 90, 0.9]]}))
    score = FixedNoise(pocket_suite()[:2], scorer, num_inference_steps=1)
    assert score(pipeline) == [1.0, 0.0]  # a bicycle, an airplane
    assert score.name == "fake"
    with pytest.raises(UsageError, match="scorer: expected a Scorer or 'truth', got 'cake'"):
        FixedNoise([], "cake")
