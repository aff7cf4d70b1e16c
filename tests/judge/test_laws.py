import pickle
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from geneval_reward.judge import Detections, Rules, Verdict, judge
from geneval_reward.prompts import CLASS_IDS, COLORS, TAGS, Exclude, Include, Position, PromptSpec

# Few classes, so that clauses and boxes meet; box corners on whole pixels of a 64 x 64 image.
NAMES = ("dog", "cat", "cup", "person")
SIDE = 64


@st.composite
def specs(draw: st.DrawFn) -> PromptSpec:
    include = []
    for index in range(draw(st.integers(1, 3))):
        positions: list[Position] = []
        if index and draw(st.booleans()):
            relation = st.sampled_from(("left of", "right of", "above", "below"))
            positions = draw(st.lists(st.builds(Position, relation, st.integers(0, index - 1)), min_size=1, max_size=2))
        color = draw(st.sampled_from((None, None, "red", "blue", "white")))
        count = draw(st.sampled_from((1, 1, 1, 2, 3)))
        include.append(Include(draw(st.sampled_from(NAMES)), count, color, tuple(positions)))
    exclude = draw(st.lists(st.builds(Exclude, st.sampled_from(NAMES), st.integers(1, 4)), max_size=1))
    return PromptSpec(draw(st.sampled_from(TAGS)), tuple(include), tuple(exclude), "x")


@st.composite
def detections(draw: st.DrawFn, *, ties: bool = False, min_size: int = 0, max_size: int = 8) -> Detections:
    n = draw(st.integers(min_size, max_size))
    # hypothesis chooses what clauses look at; corners and colours come from one seed, which keeps drawing quick.
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    corners = np.sort(random.integers(0, SIDE + 1, (n, 2, 2)), axis=1).reshape(n, 4)
    # Confidences in twentieths, so that many lie near thresholds; distinct unless ties are asked for.
    confidence = np.array(draw(st.lists(st.integers(0, 20), min_size=n, max_size=n)), np.float32) / 20
    if not ties:
        confidence = (confidence * np.float32(0.98) + np.arange(n, dtype=np.float32) / 1024).clip(0, 1)
    color = random.choice(np.float32([0, 0, 0, 1, 3, 27, 100]), (n, 10))
    color /= np.maximum(color.sum(1) + random.choice(np.float32([0, 0, 20]), n), 1)[:, None]
    classes = draw(st.lists(st.sampled_from([CLASS_IDS[name] for name in NAMES]), min_size=n, max_size=n))
    return Detections(corners, confidence, np.array(classes, np.int64), (SIDE, SIDE), color=color)


rules = st.builds(
    Rules,
    confidence=st.sampled_from((0.0, 0.3, 0.5, 1.0)),
    counting_confidence=st.sampled_from((0.6, 0.9)),
    max_objects=st.sampled_from((1, 3, 16)),
    max_overlap=st.sampled_from((1.0, 1.0, 0.3)),
    position=st.sampled_from((0.0, 0.1, 0.3)),
)


def said(verdict: Verdict) -> tuple[Any, ...]:
    return verdict.credits(), verdict.findings, verdict.strict_findings, verdict.kept, verdict.objects()


def concatenate(first: Detections, second: Detections) -> Detections:
    assert first.color is not None
    assert second.color is not None
    return Detections(
        np.concatenate((first.xyxy, second.xyxy)),
        np.concatenate((first.confidence, second.confidence)),
        np.concatenate((first.class_id, second.class_id)),
        first.image_size,
        color=np.concatenate((first.color, second.color)),
    )


@given(specs(), detections(), rules)
@settings(max_examples=200)
def test_credits_stay_in_range_and_agree_with_the_verdicts(spec: PromptSpec, seen: Detections, rule: Rules) -> None:
    verdict = judge(spec, seen, rule)
    assert 0 <= verdict.partial <= 1
    assert 0 <= verdict.dense <= 1
    assert verdict.flow_grpo <= 1
    assert (verdict.partial == 1) == verdict.strict
    if verdict.dense == 1:
        assert verdict.correct
    assert verdict.correct == (verdict.reason == "")
    assert verdict.strict == (verdict.strict_reason == "")
    assert all(finding.passed is not None or not finding.reason for finding in verdict.findings)


@st.composite
def perfect(draw: st.DrawFn) -> tuple[PromptSpec, Detections, Rules]:
    """A record and a scene made for it, so that full marks are common; then one thing may be spoiled."""
    classes = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True))
    include, rows = [], []
    for index, name in enumerate(classes):
        count, color = draw(st.integers(1, 2)), draw(st.sampled_from((None, "red", "blue")))
        positions = (Position(draw(st.sampled_from(("left of", "right of", "above"))), index - 1),) if index else ()
        include.append(Include(name, count, color, positions if draw(st.booleans()) else ()))
        x = draw(st.integers(0, 56))
        for place in range(count):
            confidence = draw(st.sampled_from((1.0, 0.97, 0.7, 0.2))) - 0.001 * place
            shade = draw(st.sampled_from((color or "red", color or "red", "green")))
            probability = draw(st.sampled_from((1.0, 0.9, 0.5, 0.34)))
            rows.append((name, (x, 5 * place, x + 6, 5 * place + 5), confidence, shade, probability))
    color = np.zeros((len(rows), 10), np.float32)
    for row, (_, _, _, shade, probability) in enumerate(rows):
        color[row] = (1 - probability) / 9
        color[row, COLORS.index(shade)] = probability
    seen = Detections(
        np.array([row[1] for row in rows], np.float32),
        np.array([row[2] for row in rows], np.float32),
        np.array([CLASS_IDS[row[0]] for row in rows]),
        (SIDE, SIDE),
        color=color,
    )
    return PromptSpec(draw(st.sampled_from(TAGS)), tuple(include), (), "x"), seen, draw(rules)


@given(perfect())
@settings(max_examples=200)
def test_full_dense_credit_means_officially_right(case: tuple[PromptSpec, Detections, Rules]) -> None:
    verdict = judge(*case)
    assert verdict.correct or verdict.dense < 1
    assert verdict.strict == (verdict.partial == 1)
    assert verdict.correct or not verdict.strict


@given(specs(), detections(), rules, detections(max_size=3))
def test_an_unrelated_box_changes_nothing(spec: PromptSpec, seen: Detections, rule: Rules, more: Detections) -> None:
    other = replace(more, class_id=np.full(len(more), CLASS_IDS["zebra"]))
    before, after = judge(spec, seen, rule), judge(spec, concatenate(other, seen), rule)
    assert before.credits() == after.credits()
    assert before.findings == after.findings
    assert {name: count for name, count in after.kept.items() if name != "zebra"} == before.kept


@given(specs(), detections(ties=True), rules, st.randoms(use_true_random=False))
def test_order_of_detections_changes_nothing(spec: PromptSpec, seen: Detections, rule: Rules, random: Any) -> None:
    order = list(range(len(seen)))
    random.shuffle(order)
    assert said(judge(spec, seen, rule)) == said(judge(spec, seen[np.array(order, np.int64)], rule))


OPPOSITE = {"left of": "right of", "right of": "left of", "above": "above", "below": "below"}
TURNED = {"left of": "above", "right of": "below", "above": "left of", "below": "right of"}


def renamed(spec: PromptSpec, names: dict[str, str]) -> PromptSpec:
    include = [
        replace(item, positions=tuple(Position(names[p.relation], p.target) for p in item.positions))
        for item in spec.include
    ]
    return replace(spec, include=tuple(include))


@given(specs(), detections(), rules)
def test_a_mirrored_image_swaps_left_and_right(spec: PromptSpec, seen: Detections, rule: Rules) -> None:
    x1, y1, x2, y2 = seen.xyxy.T
    mirrored = replace(seen, xyxy=np.stack((SIDE - x2, y1, SIDE - x1, y2), axis=1))
    before, after = judge(spec, seen, rule), judge(renamed(spec, OPPOSITE), mirrored, rule)
    assert before.credits() == after.credits()
    assert [finding.passed for finding in before.findings] == [finding.passed for finding in after.findings]


@given(specs(), detections(), rules)
def test_a_transposed_image_swaps_left_and_above(spec: PromptSpec, seen: Detections, rule: Rules) -> None:
    turned = replace(seen, xyxy=seen.xyxy[:, [1, 0, 3, 2]])
    before, after = judge(spec, seen, rule), judge(renamed(spec, TURNED), turned, rule)
    assert before.credits() == after.credits()


@given(st.sampled_from(TAGS), detections(min_size=1), rules, st.integers(0, 7), st.floats(0, 1, width=32))
def test_a_surer_detector_never_lowers_dense(tag: str, seen: Detections, rule: Rules, row: int, share: float) -> None:
    row %= len(seen)
    spec = PromptSpec(tag, (Include(seen.class_names[row], 1),), (), "x")
    confidence = seen.confidence.copy()
    confidence[row] += np.float32(share) * (1 - confidence[row])
    assert judge(spec, replace(seen, confidence=confidence), rule).dense >= judge(spec, seen, rule).dense


@given(specs(), detections(), rules, rules)
def test_rejudging_is_judging_with_other_rules(spec: PromptSpec, seen: Detections, first: Rules, second: Rules) -> None:
    assert said(judge(spec, seen, first).rejudge(second)) == said(judge(spec, seen, second))
    assert said(judge(spec, seen, first).rejudge(second.to_dict())) == said(judge(spec, seen, second))


@given(specs(), detections(), rules)
def test_a_verdict_survives_the_way_to_another_process(spec: PromptSpec, seen: Detections, rule: Rules) -> None:
    verdict = judge(spec, seen, rule)
    plain = pickle.dumps(verdict)
    expected = said(verdict)
    again = pickle.loads(pickle.dumps(verdict))
    assert said(again) == expected
    assert (again.spec, again.rules) == (spec, rule)
    np.testing.assert_array_equal(again.detections.color, seen.color)
    # What was derived meanwhile does not travel.
    assert len(pickle.dumps(verdict)) == len(plain)


@given(specs(), detections(), rules)
def test_masks_neither_matter_nor_stay(spec: PromptSpec, seen: Detections, rule: Rules) -> None:
    masked = replace(seen, mask=np.ones((len(seen), SIDE, SIDE), bool))
    verdict = judge(spec, masked, rule)
    assert verdict.detections.mask is None
    assert masked.mask is not None
    assert said(verdict) == said(judge(spec, seen, rule))
