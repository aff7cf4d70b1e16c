import hashlib
import itertools
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from geneval_reward.errors import SelfTestError, WeightsError
from geneval_reward.prompts import CLASS_NAMES
from geneval_reward.vision.detectors import packaged
from geneval_reward.vision.detectors.lite import GRIDS, LiteDetector, anchors, decode, resize_turned
from geneval_reward.vision.photos import PHOTOS, photo
from geneval_reward.vision.protocols import Detector, Wanted

GOLDEN = Path(__file__).parents[2] / "data" / "lite_golden.npz"
ALL = Wanted(None, min_confidence=0.3)


def tensor(name: str) -> torch.Tensor:
    return torch.from_numpy(np.array(photo(name))).permute(2, 0, 1)


@pytest.fixture(scope="module")
def detector() -> LiteDetector:
    return LiteDetector.from_pretrained()


@pytest.fixture(scope="module")
def images() -> list[torch.Tensor]:
    return [tensor(name) for name in PHOTOS]


# --- against the original graph, run by TensorFlow when the weights were converted (tools/convert_lite.py --verify) ---


def tensorflow_order() -> torch.Tensor:
    parts, start = [], 0
    for grid, per_cell in zip(GRIDS, (3, 6, 6, 6, 6, 6), strict=True):
        cells = torch.arange(start, start + grid * grid * per_cell).reshape(-1, per_cell)
        parts.append(cells.flip(0).flatten())
        start += cells.numel()
    return torch.cat(parts)


def golden_image(name: str) -> torch.Tensor:
    if name in PHOTOS:
        return tensor(name)
    index = np.arange(211 * 517 * 3, dtype=np.uint32)
    noise = ((index * np.uint32(2654435761)) >> np.uint32(11)).astype(np.uint8).reshape(211, 517, 3)
    return torch.from_numpy(noise).permute(2, 0, 1)


@pytest.mark.parametrize("name", ["noise_211x517", "chelsea", "coffee"])
def test_equals_the_original_graph(detector, name):
    golden = np.load(GOLDEN)
    rows = tensorflow_order()[torch.from_numpy(golden["rows"])]
    pixels = resize_turned([golden_image(name)])
    np.testing.assert_allclose(
        pixels[0].permute(1, 2, 0).flip(0, 1)[::23, ::23].numpy(), golden[f"{name}/pixels"], atol=1e-6
    )
    with torch.inference_mode():
        codes, logits = detector.net(pixels)
    boxes = decode(codes[0], anchors())[rows][:, [1, 0, 3, 2]].numpy()
    codes, logits = codes[0, rows].numpy(), logits[0, rows].numpy()
    # The original graph with our float16-rounded weights in it: the same network, to float noise.
    np.testing.assert_allclose(codes, golden[f"{name}/float16/codes"], atol=1e-4)
    np.testing.assert_allclose(logits, golden[f"{name}/float16/logits"], atol=1e-4)
    np.testing.assert_allclose(boxes, golden[f"{name}/float16/boxes"].clip(0, 1), atol=1e-4)
    # The original graph with its own weights: what the rounding to float16 costs.
    sigmoid = [1 / (1 + np.exp(-values)) for values in (logits, golden[f"{name}/float32/logits"])]
    np.testing.assert_allclose(*sigmoid, atol=0.01)
    np.testing.assert_allclose(boxes, golden[f"{name}/float32/boxes"].clip(0, 1), atol=0.01)


# --- as a detector ---


def test_is_a_detector(detector):
    assert isinstance(detector, Detector)
    assert detector.name == "lite"
    assert detector.fingerprint()["precision"] == "fp32"


@pytest.mark.parametrize("name", PHOTOS)
def test_sees_what_the_photographs_show(detector, name):
    [found] = detector.detect([tensor(name)], [ALL])
    truth, false = PHOTOS[name].record, PHOTOS[name].false_record
    for clause in truth["include"]:
        assert found.class_names.count(clause["class"]) == clause["count"]
    assert any(found.class_names.count(clause["class"]) < clause["count"] for clause in false["include"])


def test_self_test_passes(detector):
    detector.self_test()


def test_self_test_names_what_it_expected_and_got():
    broken = LiteDetector.from_pretrained()
    for head in broken.master.classes:
        head.predict.bias += 1
    broken.to("cpu")
    with pytest.raises(SelfTestError, match=r"expected one cat .* got .*cat"):
        broken.self_test()


@pytest.mark.parametrize("threads", [1, 2])
def test_result_is_the_same_in_every_batch(detector, images, threads):
    batch = [*images, *images[::-1], images[2]]
    wanted = [Wanted(None, min_confidence=0.05)] * len(batch)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = detector.detect(batch, wanted)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    alone = [detector.detect([image], wanted[:1])[0] for image in images]
    for image, one, found in zip(batch, [*alone, *alone[::-1], alone[2]], together, strict=True):
        np.testing.assert_array_equal(one.xyxy, found.xyxy)
        np.testing.assert_array_equal(one.confidence, found.confidence)
        np.testing.assert_array_equal(one.class_id, found.class_id)
        assert found.image_size == (image.shape[2], image.shape[1])


def test_reports_only_what_is_asked(detector, images):
    everything = detector.detect(images, [Wanted(None, min_confidence=0.1)] * 4)
    cat, cup = CLASS_NAMES.index("cat"), CLASS_NAMES.index("cup")
    asked = [frozenset({cat}), frozenset({cup, cat}), frozenset(), frozenset({cat})]
    some = detector.detect(images, [Wanted(classes, min_confidence=0.1) for classes in asked])
    assert some[1].class_names[0] == "cup"
    for full, part, classes in zip(everything, some, asked, strict=True):
        keep = np.isin(full.class_id, list(classes))
        np.testing.assert_array_equal(full.confidence[keep], part.confidence)
        np.testing.assert_array_equal(full.xyxy[keep], part.xyxy)


def test_limits_of_confidence_number_and_overlap(detector, images):
    [many] = detector.detect(images[:1], [Wanted(None)])
    assert len(many) == detector.max_detections
    assert (np.diff(many.confidence) <= 0).all()
    inside = [0, 0, *many.image_size] - many.xyxy
    assert (inside[:, :2] <= 0).all()
    assert (inside[:, 2:] >= 0).all()
    for class_id in set(many.class_id.tolist()):
        boxes = torch.from_numpy(many.xyxy[many.class_id == class_id])
        overlap = box_iou(boxes, boxes)
        overlap.fill_diagonal_(0)
        assert overlap.max() <= detector.nms_iou + 1e-4
    [few] = detector.detect(images[:1], [Wanted(None, min_confidence=float(many.confidence[3]))])
    assert len(few) == 3


@pytest.mark.parametrize("shape", [(1, 1), (1, 900), (6000, 3)])
def test_any_size_of_image(detector, shape):
    [found] = detector.detect([torch.zeros(3, *shape, dtype=torch.uint8)], [ALL])
    assert found.image_size == (shape[1], shape[0])


def test_nothing_in_nothing_out(detector):
    assert detector.detect([], []) == []


def test_outer_autocast_changes_nothing(detector, images):
    [plain] = detector.detect(images[:1], [ALL])
    with torch.autocast("cpu", torch.bfloat16):
        [inside] = detector.detect(images[:1], [ALL])
    np.testing.assert_array_equal(plain.confidence, inside.confidence)
    np.testing.assert_array_equal(plain.xyxy, inside.xyxy)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precisions_on_the_cpu(precision):
    detector = LiteDetector.from_pretrained(precision=precision)
    assert detector.precision == precision
    detector.self_test()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("precision", ["auto", "fp32", "tf32", "fp16", "bf16"])
def test_self_test_on_cuda(precision):
    LiteDetector.from_pretrained("cuda", precision).self_test()


# --- wrong use ---


def test_bad_arguments_are_named(detector, images):
    with pytest.raises(ValueError, match=r"images\[1\]: expected a uint8 tensor \(3, H, W\), got torch.float32"):
        detector.detect([images[0], images[0].float()], [ALL] * 2)
    with pytest.raises(ValueError, match="expected one entry per image"):
        detector.detect(images, [ALL])
    with pytest.raises(ValueError, match="tf32"):
        LiteDetector.from_pretrained(precision="tf32")
    with pytest.raises(ValueError, match="precision"):
        LiteDetector.from_pretrained(precision="half")


def test_damaged_weights_are_refused(monkeypatch):
    found = packaged.provenance("lite") | {"sha256": "0" * 64}
    monkeypatch.setattr(packaged, "provenance", lambda name: found)
    with pytest.raises(WeightsError, match="expected sha256 000"):
        LiteDetector.from_pretrained()


# --- what is packaged ---


def test_weights_and_provenance_are_packaged():
    folder = files("geneval_reward") / "data" / "lite"
    provenance = packaged.provenance("lite")
    blob = (folder / provenance["file"]).read_bytes()
    assert hashlib.sha256(blob).hexdigest() == provenance["sha256"]
    assert len(blob) < 10e6
    assert "Apache License" in (folder / "LICENSE.txt").read_text()


def test_coco_ids_skip_the_unused_ones():
    assert len(LiteDetector.columns) == 80
    # Well-known ids of the COCO annotation files.
    known = {1: "person", 13: "stop sign", 17: "cat", 47: "cup", 67: "dining table", 90: "toothbrush"}
    for coco_id, name in known.items():
        assert CLASS_NAMES[LiteDetector.columns.tolist().index(coco_id)] == name
    assert all(a < b for a, b in itertools.pairwise(LiteDetector.columns))
