import hashlib
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from geneval_reward.errors import SelfTestError, WeightsError
from geneval_reward.prompts import CLASS_NAMES
from geneval_reward.vision.detectors import packaged
from geneval_reward.vision.detectors.nanodet import (
    SIDE,
    NanoDet,
    NanoDetDetector,
    centres,
    decode,
    letterbox,
    scale_for,
)
from geneval_reward.vision.photos import PHOTOS, photo
from geneval_reward.vision.protocols import Detector, Wanted

GOLDEN = Path(__file__).parents[2] / "data" / "nanodet_golden.npz"
MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])  # red, green, blue


def tensor(name):
    return torch.from_numpy(np.array(photo(name).convert("RGB"))).permute(2, 0, 1)


@pytest.fixture(scope="module")
def detector():
    return NanoDetDetector.from_pretrained()


# --- against the original graph, run by TensorFlow.js (tools/convert_nanodet.py --verify) ---


@pytest.mark.parametrize("name", ["noise_211x517", "chelsea", "coffee"])
def test_equals_the_original_graph(detector, name):
    golden = np.load(GOLDEN)
    if name in PHOTOS:
        image = tensor(name)
    else:
        index = np.arange(211 * 517 * 3, dtype=np.uint32)
        noise = ((index * np.uint32(2654435761)) >> np.uint32(11)).astype(np.uint8).reshape(211, 517, 3)
        image = torch.from_numpy(noise).permute(2, 0, 1)
    with torch.inference_mode():
        distances, logits = detector.net(letterbox([image]))
    np.testing.assert_allclose(distances[0, golden["rows"]].numpy(), golden[f"{name}/distances"], atol=1e-4)
    np.testing.assert_allclose(logits[0, golden["rows"]].sigmoid().numpy(), golden[f"{name}/scores"], atol=1e-5)
    assert golden[f"{name}/scores"].max() > 0.01  # something was compared


# --- input and boxes ---


@pytest.mark.parametrize("shape", [(1, 1), (7, 31), (500, 333)])
def test_letterbox_is_the_originals_warp(shape):
    """Against the definition of a warp with the original's matrix and a black border, at every eleventh pixel."""
    height, width = shape
    image = np.random.default_rng(0).integers(0, 256, (3, *shape), dtype=np.uint8)
    ours = letterbox([torch.from_numpy(image)])[0].flip(0).permute(1, 2, 0).numpy() * STD + MEAN
    scale = SIDE / max(shape)

    def read(y, x):
        return image[:, y, x].astype(float) if 0 <= y < height and 0 <= x < width else np.zeros(3)

    for y in range(0, SIDE, 11):
        for x in range(0, SIDE, 11):
            sy, sx = (y - SIDE / 2) / scale + height / 2, (x - SIDE / 2) / scale + width / 2
            y0, x0 = int(np.floor(sy)), int(np.floor(sx))
            dy, dx = sy - y0, sx - x0
            top = read(y0, x0) * (1 - dx) + read(y0, x0 + 1) * dx
            bottom = read(y0 + 1, x0) * (1 - dx) + read(y0 + 1, x0 + 1) * dx
            np.testing.assert_allclose(ours[y, x], top * (1 - dy) + bottom * dy, atol=2e-3)


def test_images_of_several_sizes_are_boxed_as_each_alone():
    rng = np.random.default_rng(1)
    images = [torch.from_numpy(rng.integers(0, 256, (3, h, w), dtype=np.uint8)) for h, w in ((64, 64), (300, 9))]
    together = letterbox(images)
    for image, row in zip(images, together, strict=True):
        assert torch.equal(letterbox([image])[0], row)


def test_a_sure_distance_gives_its_box():
    at = centres()
    assert at.shape == (3549, 3)
    assert at[0].tolist() == [4, 4, 8]
    assert at[-1].tolist() == [400, 400, 32]
    logits = torch.full((1, 4, 11), -50.0)
    for side, distance in enumerate((1, 2, 3, 4)):
        logits[0, side, distance] = 50.0
    box = decode(logits.flatten(1), at[-1:])
    torch.testing.assert_close(box, torch.tensor([[400 - 32.0, 400 - 64, 400 + 96, 400 + 128]]))


def test_boxes_come_back_to_the_images_own_pixels():
    """A cell in the middle of the letterbox is the middle of any image."""
    middle = int(((centres()[:, :2] - SIDE / 2).abs().sum(1)).argmin())
    logits = torch.full((1, 44), -50.0, dtype=torch.float64).view(1, 4, 11)
    logits[:, :, 2] = 50.0  # two strides to every side
    stride, at = centres()[middle, 2].item(), centres()[middle, :2].double()
    for height, width in ((416, 416), (100, 300)):
        box = NanoDetDetector.boxes(logits.flatten(1), torch.tensor([middle]), height, width)[0]
        pixels = box * torch.tensor([width, height, width, height])
        half = 2 * stride / scale_for(height, width)
        centre = (at - SIDE / 2) / scale_for(height, width) + torch.tensor([width, height]) / 2
        expected = torch.cat((centre - half, centre + half)).clamp(min=0)
        expected = torch.minimum(expected, torch.tensor([width, height, width, height]).double())
        torch.testing.assert_close(pixels, expected)


# --- as a detector ---


def test_is_a_detector(detector):
    assert isinstance(detector, Detector)
    assert detector.name == "nanodet"
    assert detector.fingerprint()["model"] == "nanodet_g_416_coco"
    detector.self_test()


@pytest.mark.parametrize("name", ["chelsea", "astronaut", "grace_hopper"])
def test_sees_what_the_photographs_show(detector, name):
    [found] = detector.detect([tensor(name)], [Wanted(None, min_confidence=0.5)])
    for clause in PHOTOS[name].record["include"]:
        assert found.class_names.count(clause["class"]) == clause["count"]


def test_another_network_is_noticed():
    broken = NanoDetDetector.from_pretrained()
    broken.master.heads[2].predict.bias -= 1
    broken.to("cpu")
    with pytest.raises(SelfTestError, match=r"nanodet detector .* expected one person"):
        broken.self_test()


def test_result_is_the_same_in_every_batch(detector):
    images = [tensor(name) for name in PHOTOS]
    wanted = [Wanted(None, min_confidence=0.05)] * 4
    together = detector.detect(images, wanted)
    for image, found in zip(images, together, strict=True):
        [alone] = detector.detect([image], wanted[:1])
        np.testing.assert_array_equal(alone.xyxy, found.xyxy)
        np.testing.assert_array_equal(alone.confidence, found.confidence)


def test_reports_only_what_is_asked(detector):
    cat, cup = CLASS_NAMES.index("cat"), CLASS_NAMES.index("cup")
    images = [tensor("chelsea")] * 3
    asked = [Wanted(frozenset(classes), min_confidence=0.1) for classes in ({cat}, {cup}, set())]
    one, other, nothing = detector.detect(images, asked)
    assert set(one.class_names) == {"cat"}
    assert set(other.class_names) <= {"cup"}
    assert len(nothing) == 0


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precisions_on_the_cpu(precision):
    NanoDetDetector.from_pretrained(precision=precision).self_test()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("precision", ["auto", "fp32", "tf32", "fp16", "bf16"])
def test_self_test_on_cuda(precision):
    NanoDetDetector.from_pretrained("cuda", precision).self_test()


# --- what is packaged ---


def test_damaged_weights_are_refused(monkeypatch):
    found = packaged.provenance("nanodet") | {"sha256": "0" * 64}
    monkeypatch.setattr(packaged, "provenance", lambda name: found)
    with pytest.raises(WeightsError, match="expected sha256 000"):
        NanoDetDetector.from_pretrained()


def test_weights_and_licences_are_packaged():
    folder = files("geneval_reward") / "data" / "nanodet"
    provenance = packaged.provenance("nanodet")
    blob = (folder / provenance["file"]).read_bytes()
    assert hashlib.sha256(blob).hexdigest() == provenance["sha256"]
    assert len(blob) < 8e6
    licences = (folder / "LICENSE.txt").read_text()
    assert "Apache License" in licences
    assert "MIT License" in licences
    assert provenance["parameters"] == sum(p.numel() for p in NanoDet().parameters())
