"""Annotated images: the same batches in every arm, and what is missing is named."""

import pytest
import torch

from geneval_reward.annotate import annotate
from geneval_reward.errors import ResultsError, UsageError
from geneval_reward.pocket.dataset import write_captioned_images
from geneval_reward.train import AnnotatedImages, reward_names
from geneval_reward.train.recipes import load_recipe


@pytest.fixture(scope="module")
def looks():
    """Two rewards that need no detector."""
    file = load_recipe("miro").__file__
    return tuple(f"{name}={file}:{name}" for name in ("colorfulness", "brightness"))


@pytest.fixture(scope="module")
def pocket_data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("annotated")
    write_captioned_images(folder / "data", 24)
    return folder / "data"


def test_rewards_are_named_by_their_columns():
    assert reward_names(["geneval_partial", "calm = mine.py:calm", "mine.py:calm"]) == [
        "geneval_partial",
        "calm",
        "mine.py:calm",
    ]


def test_arms_see_the_same_batches(looks, pocket_data):
    data = [
        AnnotatedImages(str(pocket_data), rewards=rewards, shuffled=shuffled, batch_size=8, seed=1)
        for rewards, shuffled in (((), False), (looks, False), (looks, True))
    ]
    for one in data:
        one.prepare_data()
        one.setup("fit")
    batches = [one.batch(5) for one in data]
    assert len({tuple(batch.prompts) for batch in batches}) == 1
    assert len({batch.seed for batch in batches}) == 1
    assert torch.equal(batches[0].latents, batches[2].latents)
    assert batches[0].levels is None
    assert not torch.equal(batches[1].levels, batches[2].levels)
    assert torch.equal(data[1].levels.sort(0).values, data[2].levels.sort(0).values)


def test_what_is_missing_is_named(looks, pocket_data, tmp_path):
    with pytest.raises(ResultsError, match="expected images, got none"):
        AnnotatedImages(str(tmp_path), rewards=()).setup("fit")
    other = tmp_path / "other"
    write_captioned_images(other, 25, seed=1)
    data = AnnotatedImages(str(other), rewards=looks, annotations=str(tmp_path / "table.parquet"))
    annotate(pocket_data, tmp_path / "table.parquet", looks)
    with pytest.raises(
        UsageError, match=r"expected a row for each sample of .* got none for 1 of 25, such as .*00000024"
    ):
        data.setup("fit")
    with pytest.raises(UsageError, match="images: expected an integer >= 1, got 0"):
        write_captioned_images(tmp_path, 0)
    with pytest.raises(UsageError, match="expected a folder without shards or with those of 24 images and seed 1"):
        write_captioned_images(other, 24, seed=1)
