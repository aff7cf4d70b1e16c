from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from geneval_reward.errors import ImageError, SelfTestError, WeightsError
from geneval_reward.judge import Detections
from geneval_reward.vision.detectors import mask2former
from geneval_reward.vision.detectors.mask2former import Mask2FormerDetector
from geneval_reward.vision.detectors.mask2former_convert import build_model, load_converted
from geneval_reward.vision.images import load_image
from geneval_reward.vision.preprocess import read_image
from geneval_reward.vision.protocols import Detector, Wanted
from geneval_reward.vision.weights import KNOWN_FILES, WeightFile

ALL = Wanted(None, frozenset(range(80)))
Strip = Callable[..., torch.Tensor]


def close(a: Detections, b: Detections) -> None:
    np.testing.assert_allclose(a.confidence, b.confidence, atol=2e-4)
    confident = a.confidence > 0.05
    np.testing.assert_array_equal(a.class_id[confident], b.class_id[confident])
    np.testing.assert_allclose(a.xyxy[confident], b.xyxy[confident], atol=1)


def test_is_a_detector(golden_detector: Mask2FormerDetector) -> None:
    assert isinstance(golden_detector, Detector)
    fingerprint = json.loads(json.dumps(golden_detector.fingerprint()))
    assert fingerprint["precision"] == "fp32"
    assert len(fingerprint["weights_sha256"]) == 64
    assert "unverified" in fingerprint["weights"]
    assert fingerprint["swap_rb"] is False


def test_path_and_array_give_the_same_answer(golden_detector: Mask2FormerDetector, tmp_path: Path) -> None:
    """A red and a blue picture, from a file and from an array: the channel order is the file's."""
    red = np.zeros((12, 400, 3), np.uint8)
    red[:, 100:300, 0] = 255
    blue = np.ascontiguousarray(red[..., ::-1])
    answers = {}
    for name, rgb in (("red", red), ("blue", blue)):
        path = tmp_path / f"{name}.png"
        cv2.imwrite(str(path), rgb[..., ::-1])
        for source in (read_image(path), load_image(path), torch.from_numpy(rgb).permute(2, 0, 1)):
            (batch,) = golden_detector.prepare([source])
            middle = batch.pixels[0][:, 20, batch.geometries[0].resized[1] // 2]
            assert middle.tolist() == ([255, 0, 0] if name == "red" else [0, 0, 255])
            (found,) = golden_detector.detect([source], [ALL])
            answers.setdefault(name, found)
            np.testing.assert_array_equal(found.confidence, answers[name].confidence)
            np.testing.assert_array_equal(found.xyxy, answers[name].xyxy)
    assert not np.array_equal(answers["red"].confidence, answers["blue"].confidence)


def test_swap_rb_is_what_the_public_rewards_see(
    golden_detector: Mask2FormerDetector, checkpoint_2x: Path, strip: Strip
) -> None:
    weights = load_converted(checkpoint_2x)
    swapped = Mask2FormerDetector(build_model(weights), weights_sha256="0", weights_status="test", swap_rb=True)
    image = strip(1)
    (a,), (b,) = swapped.detect([image], [ALL]), golden_detector.detect([image.flip(0)], [ALL])
    np.testing.assert_array_equal(a.confidence, b.confidence)
    assert swapped.fingerprint()["swap_rb"] is True


@pytest.mark.slow
@pytest.mark.parametrize("forward_images", [None, 64])
def test_mixed_sizes_give_what_single_images_give(
    golden_detector: Mask2FormerDetector, strip: Strip, monkeypatch: pytest.MonkeyPatch, forward_images: int | None
) -> None:
    monkeypatch.setattr(golden_detector, "_forward_images", forward_images)
    images = [strip(0), strip(1, 12, 300), strip(2, 800, 24), strip(3), strip(4, 380, 12)]
    together = golden_detector.detect(images, [ALL] * len(images))
    for image, found in zip(images, together, strict=True):
        assert found.image_size == (image.shape[2], image.shape[1])
        (alone,) = golden_detector.detect([image], [ALL])
        close(found, alone)


def test_forwards_are_cut_by_area(golden_detector: Mask2FormerDetector, strip: Strip, monkeypatch: Any) -> None:
    monkeypatch.setattr(golden_detector, "_forward_images", 2)
    batches = golden_detector.prepare([strip(i, 64, 64) for i in range(5)])
    assert [len(batch.pixels) for batch in batches] == [2, 2, 1]
    batches = golden_detector.prepare([strip(i, 96, 64) for i in range(5)])  # 1216 x 800 counts for more than one
    assert [len(batch.pixels) for batch in batches] == [1] * 5


def test_nothing_asked_costs_nothing(
    golden_detector: Mask2FormerDetector, strip: Strip, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    forward = golden_detector.forward
    monkeypatch.setattr(golden_detector, "forward", lambda batch: (calls.append(len(batch.places)), forward(batch))[1])
    nothing = Wanted(frozenset())
    a, b = golden_detector.detect([strip(0), strip(1)], [nothing, Wanted(None)])
    assert len(a) == 0
    assert a.image_size == (400, 12)
    assert len(b) > 0
    assert calls == [1]
    assert golden_detector.detect([], []) == []


def test_bad_input(golden_detector: Mask2FormerDetector, strip: Strip) -> None:
    with pytest.raises(ValueError, match="one request for each of 1 images, got 0"):
        golden_detector.detect([strip(0)], [])
    with pytest.raises(ImageError, match="uint8"):
        golden_detector.detect([strip(0).float()], [ALL])


def test_no_gradients_and_own_precision(golden_detector: Mask2FormerDetector, strip: Strip) -> None:
    image = strip(5)
    (plain,) = golden_detector.detect([image], [ALL])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (inside,) = golden_detector.detect([image], [ALL])
    np.testing.assert_array_equal(plain.confidence, inside.confidence)
    with torch.inference_mode():
        (inside,) = golden_detector.detect([image], [ALL])
    np.testing.assert_array_equal(plain.confidence, inside.confidence)
    (batch,) = golden_detector.prepare([image])
    with torch.enable_grad():
        class_logits, mask_logits = golden_detector.forward(batch)
    assert not class_logits.requires_grad
    assert not mask_logits.requires_grad


@pytest.mark.parametrize(("precision", "bound"), [("bf16", 0.2), ("fp16", 0.05)])
def test_half_precision_is_close_and_finite(
    golden_detector: Mask2FormerDetector, checkpoint_2x: Path, strip: Strip, precision: str, bound: float
) -> None:
    weights = load_converted(checkpoint_2x)
    half = Mask2FormerDetector(build_model(weights), weights_sha256="0", weights_status="test", precision=precision)
    assert half.fingerprint()["precision"] == precision
    (batch,) = golden_detector.prepare([strip(6)])
    expected, got = golden_detector.forward(batch)[1], half.forward(batch)[1]
    assert torch.isfinite(got).all()
    flips = ((expected > 0) != (got > 0)).float().mean().item()
    assert 0 < flips < bound


def test_threads_change_nothing(
    golden_detector: Mask2FormerDetector, strip: Strip, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [strip(i) for i in range(4)]
    answers = []
    for workers in (1, 3):
        monkeypatch.setattr(golden_detector, "_workers", workers)
        answers.append([pixels for batch in golden_detector.prepare(images) for pixels in batch.pixels])
    assert all(torch.equal(a, b) for a, b in zip(*answers, strict=True))


class TestLoading:
    @pytest.fixture(autouse=True)
    def _forget_warnings(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(mask2former, "_warned", set())

    @pytest.fixture
    def published(self, checkpoint_2x: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Let the small checkpoint pass for a published one."""
        digest = load_converted(checkpoint_2x).source_sha256
        file = WeightFile("k", "a", f"https://host/model-{digest[:8]}.pth", digest[:8], None, "V")
        monkeypatch.setitem(KNOWN_FILES, "k", file)
        return

    def test_unverified_weights_warn_once(self, checkpoint_2x: Path) -> None:
        with pytest.warns(UserWarning, match="unverified weights.*self-test is skipped"):
            Mask2FormerDetector.from_pretrained(checkpoint_2x, device="cpu")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            Mask2FormerDetector.from_pretrained(checkpoint_2x, device="cpu")

    def test_broken_weights_are_refused(self, checkpoint_2x: Path, published: None) -> None:
        """Random weights under a published hash: what broken kernels look like."""
        with pytest.raises(SelfTestError, match="expected a cat in the packaged photograph 'chelsea'"):
            Mask2FormerDetector.from_pretrained(checkpoint_2x, device="cpu")

    def test_working_weights_pass(self, checkpoint_2x: Path, published: None, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = []

        def detect(self: object, images: list[torch.Tensor], wanted: list[Wanted]) -> list[Detections]:
            seen.append((images[0].shape, wanted[0].class_ids))
            row = Detections(np.ones((1, 4)), np.array([0.95]), np.array([15]), (451, 300))
            return [row]

        monkeypatch.setattr(Mask2FormerDetector, "detect", detect)
        detector = Mask2FormerDetector.from_pretrained(checkpoint_2x, device="cpu")
        assert seen == [((3, 300, 451), frozenset({15}))]
        assert detector.fingerprint()["weights"] == "published"

    def test_variable_names_the_checkpoint(self, checkpoint_2x: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GENEVAL_REWARD_MASK2FORMER", str(checkpoint_2x))
        with pytest.warns(UserWarning, match=checkpoint_2x.name):
            Mask2FormerDetector.from_pretrained(device="cpu")

    def test_without_weights_one_sentence_says_what_to_do(self) -> None:
        with pytest.raises(WeightsError, match=r"743b7d99\.pth.*put it at .*GENEVAL_REWARD_MASK2FORMER"):
            Mask2FormerDetector.from_pretrained(device="cpu", allow_download=False)

    def test_other_numbers_of_classes_are_refused(self, checkpoint_2x: Path) -> None:
        model = build_model(load_converted(checkpoint_2x))
        model.config.num_labels = 133
        with pytest.raises(WeightsError, match="expected 80 classes"):
            Mask2FormerDetector(model, weights_sha256="0", weights_status="test")

    def test_bad_options(self, checkpoint_2x: Path) -> None:
        model = build_model(load_converted(checkpoint_2x))
        with pytest.raises(ValueError, match="forward_images"):
            Mask2FormerDetector(model, weights_sha256="0", weights_status="test", forward_images=0)
        with pytest.raises(ValueError, match="precision"):
            Mask2FormerDetector(model, weights_sha256="0", weights_status="test", precision="int8")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_agrees_with_cpu(golden_detector: Mask2FormerDetector, checkpoint_2x: Path, strip: Strip) -> None:
    weights = load_converted(checkpoint_2x)
    gpu = Mask2FormerDetector(
        build_model(weights), weights_sha256="0", weights_status="t", device="cuda", precision="fp32"
    )
    image = strip(7)
    (a,), (b,) = gpu.detect([image.cuda()], [ALL]), golden_detector.detect([image], [ALL])
    np.testing.assert_allclose(a.confidence, b.confidence, atol=1e-2)
    assert (
        Mask2FormerDetector(build_model(weights), weights_sha256="0", weights_status="t", device="cuda").precision
        == "fp16"
    )
