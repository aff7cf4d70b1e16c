import math

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from geneval_reward.judge.geometry import component, iou, offset_direction, relations


def plain_relations(a: list[float], b: list[float], t: float) -> tuple[set[str], float]:
    """The published rule in scalars and doubles, with the distance from the nearest decision."""
    ox, oy = (a[0] + a[2] - b[0] - b[2]) / 2, (a[1] + a[3] - b[1] - b[3]) / 2
    rx = math.copysign(max(abs(ox) - t * (abs(a[2] - a[0]) + abs(b[2] - b[0])), 0), ox)
    ry = math.copysign(max(abs(oy) - t * (abs(a[3] - a[1]) + abs(b[3] - b[1])), 0), oy)
    nearest = max(abs(rx), abs(ry)) - 1e-3
    if nearest < 0:
        return set(), -nearest
    norm = math.hypot(ox, oy)
    dx, dy = rx / norm, ry / norm
    found = {name for name, value in (("left of", -dx), ("right of", dx), ("above", -dy), ("below", dy)) if value > 0.5}
    return found, min(nearest, abs(abs(dx) - 0.5), abs(abs(dy) - 0.5))


coordinate = st.floats(0, 1024, width=32)
box = st.tuples(coordinate, coordinate, coordinate, coordinate).map(list)


@given(box, box, st.sampled_from((0.0, 0.1, 0.3)))
@example([0, 0, 10, 10], [0, 0, 10, 10], 0.1)
@example([0, 0, 10, 10], [2, 0, 12, 10], 0.1)
@example([0, 0, 10, 10], [100, 100, 110, 110], 0.1)
def test_position_rule_is_the_published_one(a: list[float], b: list[float], t: float) -> None:
    expected, margin = plain_relations(a, b, t)
    assume(margin > 1e-3)
    direction = offset_direction(np.float32(a), np.float32(b), t)
    found = relations(direction)
    assert set(found) == expected
    assert found == sorted(found, key=["left of", "right of", "above", "below"].index)
    assert math.hypot(*direction) <= 1 + 1e-6


def test_position_rule_on_many_random_pairs() -> None:
    boxes = np.random.default_rng(0).uniform(0, 512, (3000, 2, 4)).astype(np.float32)
    compared = 0
    seen: set[frozenset[str]] = set()
    for a, b in boxes:
        expected, margin = plain_relations(a.tolist(), b.tolist(), 0.1)
        if margin > 1e-4:
            assert set(relations(offset_direction(a, b, 0.1))) == expected
            seen.add(frozenset(expected))
            compared += 1
    assert compared > 2900
    assert len(seen) == 9  # none, four single ones, four diagonals


@given(box, box, st.sampled_from(("left of", "right of", "above", "below")))
def test_component_is_negated_the_other_way_round(a: list[float], b: list[float], relation: str) -> None:
    there = component(offset_direction(np.float32(a), np.float32(b), 0.1), relation)
    back = component(offset_direction(np.float32(b), np.float32(a), 0.1), relation)
    assert there == pytest.approx(-back, abs=1e-6)
    assert -1 - 1e-6 <= there <= 1 + 1e-6


def test_within_the_dead_zone_there_is_no_relation() -> None:
    still = np.float32([0, 0, 10, 10])
    # Widths 10 and 10, t = 0.1: an offset of 2 is swallowed, a little more leaves a rest too short for its norm.
    assert offset_direction(np.float32([2, 0, 12, 10]), still, 0.1) == (0.0, 0.0)
    assert offset_direction(np.float32([3, 0, 13, 10]), still, 0.1)[0] == pytest.approx(1 / 3)
    assert relations(offset_direction(np.float32([3, 0, 13, 10]), still, 0.1)) == []
    assert relations(offset_direction(np.float32([5, 0, 15, 10]), still, 0.1)) == ["right of"]


def plain_iou(a: list[float], b: list[float]) -> float:
    def area(x1: float, y1: float, x2: float, y2: float) -> float:
        return max(x2 - x1 + 1, 0) * max(y2 - y1 + 1, 0)

    shared = area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    return shared / (area(*a) + area(*b) - shared)


@st.composite
def ordered_box(draw: st.DrawFn) -> list[float]:
    x, y = (sorted((draw(coordinate), draw(coordinate))) for _ in range(2))
    return [x[0], y[0], x[1], y[1]]


@given(ordered_box(), st.lists(ordered_box(), min_size=1, max_size=4))
def test_iou_is_the_plain_one(a: list[float], others: list[list[float]]) -> None:
    found = iou(np.float32(a), np.float32(others))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [plain_iou(a, b) for b in others], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(iou(np.float32(a), np.float32([a])), 1, rtol=1e-6)


def test_iou_of_nothing() -> None:
    assert iou(np.float32([0, 0, 9, 9]), np.zeros((0, 4), np.float32)).shape == (0,)
    # Boxes turned inside out have no area at all.
    assert iou(np.float32([9, 9, 0, 0]), np.float32([[9, 9, 0, 0]])).tolist() == [0]
