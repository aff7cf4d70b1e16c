"""Images of any generator into folders: checked before the first is written."""

import numpy as np
import pytest
from PIL import Image

from geneval_reward.errors import UsageError
from geneval_reward.generate import plan_images, write_images
from geneval_reward.prompts import official_suite

SPECS = official_suite()[:3]


class Painter:
    """A generator that gives whatever it is told to."""

    def __init__(self, paint) -> None:
        self.paint = paint

    def generate(self, prompts, seeds):
        return self.paint(prompts)


def test_arrays_are_images_too(tmp_path) -> None:
    jobs = plan_images(tmp_path, SPECS, 1, 0)
    (batch,) = write_images(Painter(lambda prompts: np.full((len(prompts), 4, 6, 3), 7, np.uint8)), jobs)
    assert batch.jobs == tuple(jobs)
    for job in jobs:
        with Image.open(job.path) as image:
            assert (image.size, image.getpixel((0, 0))) == ((6, 4), (7, 7, 7))


@pytest.mark.parametrize(
    ("paint", "message"),
    [
        (lambda prompts: [Image.new("RGB", (4, 4))] * 2, r"Painter\.generate: expected 3 images, .* got 2"),
        (lambda prompts: [Image.new("RGB", (4, 4))] * 4, r"Painter\.generate: expected 3 images, .* got 4"),
        (lambda prompts: [Image.new("RGB", (4, 4))] * 2 + [np.zeros(3)], r"Painter\.generate: images\[2\]: expected"),
        (lambda prompts: None, r"Painter\.generate: expected a list of images, got NoneType"),
    ],
)
def test_nothing_of_a_bad_batch_is_written(tmp_path, paint, message) -> None:
    with pytest.raises(ValueError, match=message):
        list(write_images(Painter(paint), plan_images(tmp_path, SPECS, 1, 0)))
    assert not list(tmp_path.rglob("*.png"))


def test_images_of_another_record_text_or_seed_are_not_taken_for_these(tmp_path) -> None:
    jobs = plan_images(tmp_path, SPECS, 1, 0)
    plan_images(tmp_path, SPECS[::-1], 1, 3)  # there are no images yet
    plan_images(tmp_path, SPECS, 1, 0)
    list(write_images(Painter(lambda prompts: np.zeros((len(prompts), 4, 6, 3), np.uint8)), jobs))
    assert len(plan_images(tmp_path, SPECS, 2, 0)) == 6
    with pytest.raises(UsageError, match=r"got some of another record, .*choose another folder"):
        plan_images(tmp_path, SPECS[::-1], 1, 0)
    with pytest.raises(UsageError, match="got some of another text or seed; choose another folder"):
        plan_images(tmp_path, SPECS, 1, 5)
    with pytest.raises(UsageError, match="got some of another text or seed"):
        plan_images(tmp_path, SPECS, 1, 0, rewrites={SPECS[0]: "a bench at dawn"})
