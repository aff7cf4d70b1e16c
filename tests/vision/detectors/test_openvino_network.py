"""Networks under OpenVINO: the answers of PyTorch, and clear words where it cannot run."""

import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from geneval_reward.errors import DependencyError, UsageError
from geneval_reward.prompts import PromptSpec
from geneval_reward.scorer import GenEvalScorer, fingerprint_id
from geneval_reward.vision.detectors.lite import LiteDetector
from geneval_reward.vision.detectors.mask2former import Mask2FormerDetector
from geneval_reward.vision.detectors.nanodet import NanoDetDetector
from geneval_reward.vision.photos import PHOTOS, photo
from geneval_reward.vision.preprocess import read_image
from geneval_reward.vision.protocols import Wanted

# Not `importorskip`, which would import it before the package keeps it from sending usage data.
needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="the extra openvino is not installed")


@pytest.fixture(scope="module")
def images():
    return [torch.from_numpy(np.array(photo(name))).permute(2, 0, 1) for name in PHOTOS]


@pytest.fixture(scope="module")
def lite():
    return LiteDetector.from_pretrained(runtime="openvino")


def assert_same_objects(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.class_names == theirs.class_names
        np.testing.assert_allclose(ours.confidence, theirs.confidence, atol=1e-5)
        np.testing.assert_allclose(ours.xyxy, theirs.xyxy, atol=2e-3)


@needs_openvino
def test_lite_finds_what_pytorch_finds(lite, images):
    wanted = [Wanted(None, min_confidence=0.05)] * len(images)
    lite.self_test()
    assert_same_objects(lite.detect(images, wanted), LiteDetector.from_pretrained().detect(images, wanted))


@needs_openvino
@pytest.mark.slow
def test_nanodet_finds_what_pytorch_finds(images):
    wanted = [Wanted(None, min_confidence=0.05)] * len(images)
    detector = NanoDetDetector.from_pretrained(runtime="openvino")
    assert_same_objects(detector.detect(images, wanted), NanoDetDetector.from_pretrained().detect(images, wanted))


@needs_openvino
def test_an_image_is_the_same_alone_in_a_batch_and_in_threads(lite, images):
    pixels = lite.pixels(images, torch.device("cpu"))
    together = lite.net(pixels)
    with ThreadPoolExecutor(4) as pool:
        for index, alone in enumerate(pool.map(lite.net, pixels.split(1))):
            assert all(torch.equal(one[0], all_[index]) for one, all_ in zip(alone, together, strict=True))


@needs_openvino
def test_verdicts_and_the_fingerprint(lite):
    plain = GenEvalScorer.from_pretrained("lite", device="cpu")
    scorer = GenEvalScorer(lite, plain.verifier, rules=plain.rules)
    shots = [(name, record) for name, shot in PHOTOS.items() for record in (shot.record, shot.false_record)]
    pictures, specs = [photo(name) for name, _ in shots], [PromptSpec.parse(record) for _, record in shots]
    verdicts = [[(v.correct, v.reason) for v in s.score(pictures, specs)] for s in (plain, scorer)]
    assert verdicts[0] == verdicts[1]
    assert {correct for correct, _ in verdicts[0]} == {True, False}
    assert "runtime" not in plain.fingerprint()["detector"]
    assert scorer.fingerprint()["detector"]["runtime"].startswith("openvino 20")
    assert fingerprint_id(plain) != fingerprint_id(scorer)


@needs_openvino
def test_sends_no_usage_data(lite):
    assert sys.modules["openvino_telemetry"] is None


@needs_openvino
@pytest.mark.slow
def test_paper_finds_what_pytorch_finds(golden_detector, checkpoint_2x, golden_dir, monkeypatch):
    wanted = [Wanted(None, frozenset(range(80)), 0.02)]
    image = read_image(golden_dir / "3_96x96.png")
    monkeypatch.setattr("geneval_reward.vision.detectors.mask2former.warnings.warn", lambda *_, **__: None)
    detector = Mask2FormerDetector.from_pretrained(checkpoint_2x, device="cpu", runtime="openvino")
    [expected] = golden_detector.detect([image], wanted)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):  # as a scorer and a training may call it
        [found] = detector.detect([image], wanted)
    assert_same_objects([found], [expected])
    assert len(found) > 5
    assert (found.mask != expected.mask).mean() < 1e-4
    assert detector.fingerprint()["runtime"].startswith("openvino 20")


# --- where it cannot run ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": "tensorrt"}, "runtime: expected one of torch, openvino, got 'tensorrt'"),
        ({"runtime": "openvino", "device": "cuda"}, "device: expected 'cpu' with runtime='openvino', got 'cuda'"),
        ({"runtime": "openvino", "precision": "fp16"}, "precision: expected one of fp32, bf16 with runtime='openvino'"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(UsageError, match=message):
        LiteDetector.from_pretrained(**options)


def test_a_missing_runtime_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(DependencyError, match=r"runtime: expected the package openvino.*geneval-reward\[openvino\]"):
        GenEvalScorer.from_pretrained("lite", device="cpu", runtime="openvino")


def test_compiled_sampling_is_of_pytorch(checkpoint_2x):
    with pytest.raises(UsageError, match="compiled: expected False with runtime='openvino'"):
        Mask2FormerDetector.from_pretrained(checkpoint_2x, device="cpu", compiled=True, runtime="openvino")
