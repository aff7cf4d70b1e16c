"""The batched post-processing against the plain one, and each shortcut against none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from geneval_reward.judge import Detections, judge
from geneval_reward.prompts import CLASS_NAMES, PromptSpec
from geneval_reward.vision.detectors.mask2former_postprocess import measure, postprocess
from geneval_reward.vision.preprocess import Geometry
from geneval_reward.vision.protocols import Wanted

ALL = Wanted(None, frozenset(range(80)))


def plain(class_logits: torch.Tensor, mask_logits: torch.Tensor, sizes: Geometry) -> Detections:
    """mmdet's steps for one image, one detection after the other, nothing left out."""
    probabilities = class_logits.softmax(-1)[:, :80]
    flat = probabilities.flatten()
    rows = []
    masks = []
    for index in flat.argsort(descending=True)[:100].tolist():
        query, label = divmod(index, 80)
        logits = mask_logits[query][None, None]
        logits = functional.interpolate(logits, size=sizes.padded, mode="bilinear", align_corners=False)
        logits = logits[..., : sizes.resized[0], : sizes.resized[1]]
        logits = functional.interpolate(logits, size=sizes.original, mode="bilinear", align_corners=False)[0, 0]
        mask = logits > 0
        score = flat[index] * (logits.sigmoid() * mask.float()).sum() / (mask.float().sum() + 1e-6)
        box = (0, 0, 0, 0)
        if mask.any():
            ys, xs = (axis.numpy() for axis in torch.where(mask))
            box = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        rows.append((*box, float(score), label))
        masks.append(mask.numpy())
    order = sorted(range(len(rows)), key=lambda row: (-rows[row][4], rows[row][5]))
    table = np.array([rows[row] for row in order], np.float64)
    size = (sizes.original[1], sizes.original[0])
    stack = np.stack([masks[row] for row in order])
    return Detections(table[:, :4], table[:, 4], table[:, 5], size, stack)


def scene(seed: int, images: int = 2, queries: int = 8, grid: tuple[int, int] = (8, 12)) -> tuple[torch.Tensor, ...]:
    """Logits of blobs: some queries empty, some confident, some with several likely classes."""
    g = torch.Generator().manual_seed(seed)
    classes = torch.randn(images, queries, 81, generator=g)
    few = torch.randint(0, 6, (images, queries, 3), generator=g)
    classes.scatter_add_(2, few, 12 * torch.rand(images, queries, 3, generator=g))
    masks = torch.randn(images, queries, *grid, generator=g)
    masks = functional.interpolate(
        functional.avg_pool2d(masks, 3, 1, 1), size=grid, mode="bilinear", align_corners=False
    )
    masks = 8 * masks + 3 * torch.randn(images, queries, 1, 1, generator=g)
    masks[torch.rand(images, queries, generator=g) < 0.2] = -5.0
    return classes, masks


SIZES = [Geometry((20, 31), (28, 44), (32, 48)), Geometry((40, 17), (30, 47), (32, 48))]


def same(a: Detections, b: Detections, masks: bool = True) -> None:
    np.testing.assert_array_equal(a.class_id, b.class_id)
    np.testing.assert_array_equal(a.xyxy, b.xyxy)
    # Vector and scalar kernels round sigmoid differently, and which pixel meets which depends on the batch: one ulp.
    np.testing.assert_allclose(a.confidence, b.confidence, rtol=2.5e-7)
    if masks:
        assert a.mask is not None
        assert b.mask is not None
        np.testing.assert_array_equal(a.mask, b.mask)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_equals_the_plain_steps(seed: int) -> None:
    classes, masks = scene(seed)
    found = postprocess(classes, masks, SIZES, [ALL, ALL])
    for index, sizes in enumerate(SIZES):
        expected = plain(classes[index], masks[index], sizes)
        assert len(found[index]) == 100
        np.testing.assert_array_equal(found[index].class_id, expected.class_id)
        np.testing.assert_array_equal(found[index].xyxy, expected.xyxy)
        np.testing.assert_allclose(found[index].confidence, expected.confidence, rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(found[index].mask, expected.mask)


wanted = st.builds(
    Wanted,
    class_ids=st.one_of(st.none(), st.frozensets(st.integers(0, 7), max_size=4)),
    min_confidence=st.sampled_from([0.0, 0.05, 0.3, 0.6, 0.9]),
)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), requests=st.tuples(wanted, wanted), masked=st.frozensets(st.integers(0, 7)))
def test_what_is_left_out_was_not_asked(seed: int, requests: tuple[Wanted, Wanted], masked: frozenset[int]) -> None:
    """Each row that is asked is there, as without a shortcut, and no other row is."""
    classes, masks = scene(seed)
    whole = postprocess(classes, masks, SIZES, [ALL, ALL])
    part = postprocess(classes, masks, SIZES, [replace(request, masked_class_ids=masked) for request in requests])
    for request, everything, found in zip(requests, whole, part, strict=True):
        keep = everything.confidence > request.min_confidence
        if request.class_ids is None and request.min_confidence == 0.0:
            keep[:] = True
        if request.class_ids is not None:
            keep &= np.isin(everything.class_id, list(request.class_ids))
        expected = everything[keep]
        same(found, expected, masks=False)
        if not masked:
            assert found.mask is None
            continue
        assert found.mask is not None
        shown = np.isin(found.class_id, list(masked))
        np.testing.assert_array_equal(found.mask[shown], expected.mask[shown])  # type: ignore[index]
        assert not found.mask[~shown].any()


def spec(tag: str, names: tuple[str, ...], count: int, relation: str) -> PromptSpec:
    include: list[dict[str, object]] = [{"class": names[0], "count": count}]
    record: dict[str, object] = {"tag": tag, "include": include}
    if tag == "counting":
        record["exclude"] = [{"class": names[0], "count": count + 1}]
    if tag in ("two_object", "position"):
        include.append({"class": names[1], "count": 1})
    if tag == "position":
        include[1]["position"] = [relation, 0]
    return PromptSpec.parse(record)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    tag=st.sampled_from(["single_object", "two_object", "counting", "position"]),
    pick=st.permutations(range(6)),
    count=st.integers(2, 4),
    relation=st.sampled_from(["left of", "right of", "above", "below"]),
)
def test_verdicts_do_not_change(seed: int, tag: str, pick: list[int], count: int, relation: str) -> None:
    names = (CLASS_NAMES[pick[0]], CLASS_NAMES[pick[1]])
    asked = spec(tag, names, count if tag == "counting" else 1, relation)
    threshold = 0.9 if tag == "counting" else 0.3
    classes, masks = scene(seed, images=1)
    (everything,) = postprocess(classes, masks, SIZES[:1], [ALL])
    ids = frozenset(CLASS_NAMES.index(name) for name in asked.class_names)
    (found,) = postprocess(classes, masks, SIZES[:1], [Wanted(ids, frozenset(), threshold)])
    with_shortcuts, without = judge(asked, found), judge(asked, everything)
    assert with_shortcuts.correct == without.correct
    assert with_shortcuts.reason == without.reason
    assert with_shortcuts.strict == without.strict
    assert with_shortcuts.flow_grpo == without.flow_grpo


@pytest.mark.parametrize("chunk_bytes", [1, 40_000, 1 << 30])
def test_chunks_change_nothing(chunk_bytes: int) -> None:
    classes, masks = scene(3)
    whole = postprocess(classes, masks, SIZES, [ALL, ALL])
    for a, b in zip(postprocess(classes, masks, SIZES, [ALL, ALL], chunk_bytes=chunk_bytes), whole, strict=True):
        same(a, b)


def test_batch_is_what_single_images_give() -> None:
    classes, masks = scene(4, images=4)
    sizes = [SIZES[0], SIZES[1], SIZES[0], SIZES[1]]
    together = postprocess(classes, masks, sizes, [ALL] * 4)
    for index in range(4):
        one = slice(index, index + 1)
        (alone,) = postprocess(classes[one], masks[one], sizes[one], [ALL])
        same(together[index], alone)


def test_half_logits_are_measured_in_float32() -> None:
    classes, masks = scene(5)
    half = postprocess(classes.half(), masks.half(), SIZES, [ALL, ALL])
    single = postprocess(classes.half().float(), masks.half().float(), SIZES, [ALL, ALL])
    for a, b in zip(half, single, strict=True):
        same(a, b)


def test_nothing_there_and_nothing_asked() -> None:
    classes = torch.zeros(1, 4, 81)
    classes[..., 80] = 20.0
    masks = torch.full((1, 4, 8, 12), -1.0)
    asked = Wanted(frozenset({1}), frozenset({1}), 0.05)
    (found,) = postprocess(classes, masks, SIZES[:1], [asked])
    assert len(found) == 0
    assert found.mask is not None
    assert found.mask.shape == (0, 20, 31)
    assert found.image_size == (31, 20)


def test_mask_score_is_at_most_one() -> None:
    score, box, binary = measure(torch.full((1, 8, 12), 50.0), Geometry((64, 64), (28, 44), (32, 48)))
    assert score.item() == pytest.approx(1.0)
    assert score.item() <= 1.0
    assert box.tolist() == [[0, 0, 64, 64]]
    assert binary.all()


def test_one_query_may_carry_several_classes() -> None:
    classes = torch.full((1, 1, 81), -20.0)
    classes[0, 0, 3] = classes[0, 0, 7] = 5.0
    (found,) = postprocess(classes, torch.ones(1, 1, 8, 12), SIZES[:1], [Wanted(None, frozenset({7}), 0.3)])
    assert found.class_id.tolist() == [3, 7]
    assert found.xyxy[0].tolist() == found.xyxy[1].tolist() == [0, 0, 31, 20]
    assert found.mask is not None
    assert not found.mask[0].any()
    assert found.mask[1].all()
