"""Official wordings are put under the right cause."""

import pytest

from geneval_reward.study.report.reasons import CAUSES, causes, group_failures


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("expected dog>=1, found 0", ("missing", "dog")),
        ("expected hair drier>=3, found 2", ("too_few", "3 → 2")),
        ("expected dog==2, found 3", ("too_many", "2 → 3")),
        ("expected dog<3, found 5", ("too_many", "2 → 5")),
        ("expected red dog>=1, found 0 red; and 1 blue", ("color", "red → blue")),
        ("expected red dog>=2, found 1 red; and 1 red, 1 white", ("color", "red → white")),
        ("expected red dog>=1, found 0 red; and 1 of no named colour", ("color", "red → of no named colour")),
        ("expected cat left of target, found right of target", ("position", "left of → right of")),
        ("expected cat above target, found left of and below target", ("position", "above → left of and below")),
        # The benchmark's own empty set leaves two spaces.
        ("expected cat above target, found  target", ("position", "above → neither side")),
        ("no target for cat to be above", ("no_target", "cat")),
        ("le chien manque", ("other", "le chien manque")),
    ],
)
def test_each_wording(line, cause):
    assert causes(line) == [cause]


def test_every_reason_that_the_judge_gives_is_understood(rows):
    failed = [row for run in rows for row in run if not row.correct]
    found = {key for row in failed for key, _ in causes(row.reason)}
    assert found <= {cause.key for cause in CAUSES} - {"other"}
    assert {"missing", "color", "position"} <= found


def test_groups_count_an_image_once_per_cause():
    reasons = [
        "expected dog>=1, found 0\nexpected cat>=1, found 0\nno target for cat to be above",
        "",
        "",
        "expected dog>=1, found 0",
    ]
    groups = group_failures(reasons, [False, True, False, False], ["position", "colors", "colors", "two_object"])
    assert [(group.cause.key, group.rows) for group in groups] == [
        ("missing", (0, 3)),
        ("no_target", (0,)),
        ("other", (2,)),
    ]
    assert groups[0].tags == {"two_object": 1, "position": 1}
    assert groups[0].details == (("dog", 2), ("cat", 1))
    assert groups[2].details == (("no reason given", 1),)
