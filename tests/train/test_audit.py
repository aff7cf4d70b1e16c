import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from geneval_reward import GenEvalScorer
from geneval_reward.pocket.artwork import background, compose
from geneval_reward.prompts import PromptSpec, official_suite
from geneval_reward.testing import FakeDetector, scorer_for
from geneval_reward.train.audit import AuditCallback, audit, audit_policy, leave_out_classes, mirrored

SUITE = official_suite()
DATA = Path(__file__).parents[1] / "data"


def image(level):
    return torch.full((3, 32, 64), level, dtype=torch.uint8)


def test_mirroring_exchanges_left_and_right_and_nothing_else():
    for spec in SUITE:
        twin = mirrored(spec)
        assert mirrored(twin) == spec
        sideways = any(place.relation in ("left of", "right of") for item in spec.include for place in item.positions)
        assert (twin != spec) == sideways


def test_a_judge_that_sees_objects_agrees_with_itself_on_other_views():
    """The detector reads a white block's place, so that mirroring moves it."""
    left, right = image(40), image(40)
    left[:, 8:24, 4:24] = 255
    right[:, 8:24, 40:60] = 255

    def find(picture):
        rows = (picture[0] > 128).nonzero()
        (y1, x1), (y2, x2) = rows.amin(0).tolist(), rows.amax(0).tolist()
        middle = picture.shape[2] / 2
        return {"cup": [[x1, y1, x2, y2, 0.9]], "cow": [[middle - 2, y1, middle + 2, y2, 0.9]]}

    judge = scorer_for(FakeDetector(find))
    spec = PromptSpec.parse(
        {
            "tag": "position",
            "include": [
                {"class": "cow", "count": 1},
                {"class": "cup", "count": 1, "position": ["left of", 0]},
            ],
        }
    )
    verdicts = judge.score([left, right], [spec, spec])
    assert [verdict.correct for verdict in verdicts] == [True, False]
    report = audit([left, right], [spec, spec], verdicts, judge)
    assert report.score == report.audit == 0.5
    assert report.gap == 0.0
    assert report.views == ("mirrored", "scaled 0.75")


def test_a_policy_that_fools_one_judge_shows_as_a_gap():
    spec = SUITE[0]
    fooled = scorer_for(FakeDetector({"bench": [[1, 1, 9, 9, 0.9]]}))
    sober = scorer_for(FakeDetector({}))
    images = [image(10), image(200)]
    report = audit(images, [spec, spec], fooled.score(images, [spec, spec]), sober)
    assert report.gap == 1.0
    assert report.confirmed == 0.0
    assert report.log_dict()["geneval/audit_gap"] == 1.0
    assert report.brightness == pytest.approx(105 / 255)
    assert report.diversity == pytest.approx(190 / 255)


def test_one_image_a_prompt_has_no_diversity():
    spec, judge = SUITE[0], scorer_for(FakeDetector({}))
    report = audit([image(0)], [spec], judge.score([image(0)], [spec]), judge)
    assert math.isnan(report.diversity)


def test_wrong_use_is_refused():
    spec, judge = SUITE[0], scorer_for(FakeDetector({}))
    verdicts = judge.score([image(0)], [spec])
    with pytest.raises(ValueError, match="as many images"):
        audit([image(0)], [spec, spec], verdicts, judge)
    with pytest.raises(ValueError, match="one view"):
        audit([image(0)], [spec], verdicts, judge, flip=False, scales=())


class Painter:
    """A module whose images are all of one grey."""

    def __init__(self, level):
        self.level = level

    def generate(self, prompts, seeds):
        return [image(self.level) for _ in prompts]


def test_another_judge_sees_the_images_as_they_are_and_the_same_one_other_views():
    sees = scorer_for(FakeDetector({"bench": [[1, 1, 9, 9, 0.9]]}))
    spec = PromptSpec.parse({"tag": "single_object", "include": [{"class": "bench", "count": 1}]})
    other = scorer_for(FakeDetector({"bench": [[1, 1, 9, 9, 0.9]]}))
    assert audit_policy(Painter(9), sees, other, [spec]).views == ("as they are",)
    assert audit_policy(Painter(9), sees, sees, [spec]).views == ("mirrored", "scaled 0.75")


def test_confirmed_is_a_share_of_what_the_first_judge_passes():
    """The second judge misses half of the good images; confirmed says so whatever the score is."""
    bright = scorer_for(FakeDetector(lambda picture: {"bench": [[1, 1, 9, 9, 0.9]]} if picture.max() > 50 else {}))
    brighter = scorer_for(FakeDetector(lambda picture: {"bench": [[1, 1, 9, 9, 0.9]]} if picture.max() > 150 else {}))
    spec = PromptSpec.parse({"tag": "single_object", "include": [{"class": "bench", "count": 1}]})
    for dark in (0, 2, 6):
        images = [image(100), image(200)] + [image(0)] * dark
        specs = [spec] * len(images)
        report = audit(images, specs, bright.score(images, specs), brighter, scales=(1.0,), flip=False)
        assert report.score == 2 / (2 + dark)
        assert report.confirmed == 0.5
    report = audit([image(0)], [spec], bright.score([image(0)], [spec]), brighter, scales=(1.0,), flip=False)
    assert math.isnan(report.confirmed)


def test_classes_that_the_second_judge_cannot_see_are_left_out():
    left = leave_out_classes(SUITE, ["bench", "teddy bear"])
    assert len(left) < len(SUITE)
    assert not any({"bench", "teddy bear"} & set(spec.class_names) for spec in left)
    assert AuditCallback(prompts=SUITE, leave_out=["bench"]).specs == leave_out_classes(SUITE, ["bench"])[:64]
    with pytest.raises(ValueError, match=r"leave_out: expected class names .* got 'sofa'"):
        leave_out_classes(SUITE, ["sofa"])
    with pytest.raises(ValueError, match="leave_out: expected prompts without bench, got none"):
        leave_out_classes([SUITE[0]], ["bench"])


def test_the_rewarding_backend_is_no_second_judge():
    assert AuditCallback().second == "nanodet"
    with pytest.raises(ValueError, match="second: expected another backend than judge, got 'lite' for both"):
        AuditCallback("lite", "lite")


def test_the_second_detector_sees_through_what_fools_the_first():
    """An image on which `benchmarks/audit_patch.py` optimised noise until `lite` sees a bicycle, beside a drawn bicycle."""
    first, second = (GenEvalScorer.from_pretrained(name, device="cpu") for name in ("lite", "nanodet"))
    spec = PromptSpec.parse({"tag": "single_object", "include": [{"class": "bicycle", "count": 1}]})
    hacked = Image.open(DATA / "audit_patch.png")
    drawn = compose(background(256, 0), [("bicycle", None, (70, 70, 182, 182))])
    reports = {}
    for name, picture in {"hacked": hacked, "drawn": drawn}.items():
        verdicts = first.score([picture], [spec])
        reports[name] = audit([picture], [spec], verdicts, second, scales=(1.0,), flip=False)
    assert reports["hacked"].score == reports["drawn"].score == 1.0
    assert (reports["hacked"].confirmed, reports["drawn"].confirmed) == (0.0, 1.0)
    assert reports["hacked"].gap > reports["drawn"].gap
