"""`LiteDetector`: SSDLite MobileNetV2 with its weights inside the package.

Loads in a fraction of a second, without a network, and judges photographs and simple scenes on a laptop's CPU. It is
a small detector (about 22 mAP on COCO as published, where the benchmark's Mask2Former has far more); published numbers
come from the `paper` backend. docs/lite_detector.md says what it sees and what it misses.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load as load_safetensors
from torch import Tensor
from torchvision.ops import batched_nms

from geneval_reward.errors import SelfTestError, UsageError, WeightsError
from geneval_reward.judge.detections import Detections
from geneval_reward.prompts.vocabulary import CLASS_NAMES
from geneval_reward.vision.detectors.onednn import fuse
from geneval_reward.vision.detectors.ssdlite import LABELS, SSDLite, anchors, decode, resize_turned
from geneval_reward.vision.detectors.workers import run_parts, workers
from geneval_reward.vision.photos import photo
from geneval_reward.vision.precision import precision_scope, resolve_precision
from geneval_reward.vision.protocols import Wanted

MAX_DETECTIONS = 100
"""Most objects of one image, as in the Object Detection API's configuration of this model."""

NMS_IOU = 0.6
"""Boxes of one class that overlap more are one object; also that configuration's."""

_CPU_BATCH = 8  # images of one forward on a CPU; more are no faster and take more memory
_CANDIDATES = 4096  # per image before suppression; only min_confidence near 0 comes close
_WEIGHTS = "ssdlite_mobilenet_v2_coco.safetensors"
_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

# COCO category ids run to 90 with these ten left out; the other 80, in order, are the classes 0..79.
_UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
_COCO_IDS = [index for index in range(1, 91) if index not in _UNUSED_IDS]
assert len(_COCO_IDS) == len(CLASS_NAMES)
_CLASS_IDS = torch.full((LABELS,), -1)
_CLASS_IDS[_COCO_IDS] = torch.arange(len(CLASS_NAMES))


class LiteDetector:
    """The `lite` backend's detector; see `geneval_reward.vision.protocols.Detector`.

    On a CPU in fp32 an image's result is the same to the last bit in whatever batch it comes, elsewhere up to the noise
    of its precision. Precision stays what was asked for under any outer `torch.autocast`.

    Example:
        >>> import numpy as np, torch
        >>> from geneval_reward.vision.photos import photo
        >>> detector = LiteDetector.from_pretrained()
        >>> image = torch.from_numpy(np.array(photo("chelsea"))).permute(2, 0, 1)
        >>> [found] = detector.detect([image], [Wanted(None, min_confidence=0.3)])
        >>> found.class_names
        ['cat']
    """

    name = "lite"

    def __init__(
        self, net: SSDLite, *, weights_sha256: str, device: torch.device | str = "cpu", precision: str = "auto"
    ) -> None:
        """Wraps a loaded network; `from_pretrained` does the reading."""
        self._master = net.to("cpu", torch.float32).eval().requires_grad_(False)
        self._sha256 = weights_sha256
        self._asked = precision
        self._anchors = anchors()
        self.to(device)

    @classmethod
    def from_pretrained(cls, device: torch.device | str = "cpu", precision: str = "auto") -> LiteDetector:
        """Loads the packaged weights.

        Args:
            device: Where to run.
            precision: `"auto"` is fp32 on a CPU and fp16 on CUDA. `"tf32"` is for CUDA only.

        Raises:
            WeightsError: The packaged file is missing or damaged.
            ValueError: The precision is unknown or not for this device.
        """
        state, sha256 = _read_weights()
        with torch.device("meta"):
            net = SSDLite()
        net.load_state_dict(state, assign=True)
        return cls(net, weights_sha256=sha256, device=device, precision=precision)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._device

    @property
    def precision(self) -> str:
        """What is computed in: `fp32`, `tf32`, `fp16` or `bf16`."""
        return self._precision

    def to(self, device: torch.device | str) -> LiteDetector:
        """Moves the weights, choosing the precision anew if it is `"auto"`; returns self."""
        device = torch.device(device)
        precision = resolve_precision(self._asked, device)
        net = fuse(self._master, _CPU_BATCH) if device.type == "cpu" and precision == "fp32" else None
        if net is None:
            net = copy.deepcopy(self._master).to(device, _DTYPES[precision]).to(memory_format=torch.channels_last)
        self._net = net
        self._device, self._precision = device, precision
        return self

    def fingerprint(self) -> dict[str, Any]:
        """What decides the answers."""
        return {
            "name": self.name,
            "model": "ssdlite_mobilenet_v2_coco",
            "weights_sha256": self._sha256,
            "precision": self._precision,
            "nms_iou": NMS_IOU,
            "max_detections": MAX_DETECTIONS,
        }

    def detect(self, images: Sequence[Tensor], wanted: Sequence[Wanted]) -> list[Detections]:
        """Finds objects; see `geneval_reward.vision.protocols.Detector.detect`."""
        if len(images) != len(wanted):
            raise UsageError(f"wanted: expected one entry per image ({len(images)}), got {len(wanted)}")
        if not images:
            return []
        for index, image in enumerate(images):
            if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8 or image.numel() == 0:
                raise UsageError(
                    f"images[{index}]: expected a uint8 tensor (3, H, W), got {image.dtype} {tuple(image.shape)}; "
                    "convert it to RGB"
                )
        if self._device.type != "cpu":
            return self._detect(images, wanted)
        step = min(_CPU_BATCH, math.ceil(len(images) / workers()))
        spans = [slice(start, start + step) for start in range(0, len(images), step)]
        parts = run_parts(lambda span: self._detect(images[span], wanted[span]), spans)
        return [found for part in parts for found in part]

    def _detect(self, images: Sequence[Tensor], wanted: Sequence[Wanted]) -> list[Detections]:
        # Half precision is in the weights themselves, so autocast is off either way: casting a hundred small weights in
        # every forward would take longer than the convolutions.
        scope = "tf32" if self._precision == "tf32" else "fp32"
        with torch.inference_mode(), precision_scope(scope, self._device):
            pixels = resize_turned(images, self._device).to(_DTYPES[self._precision])
            codes, logits = self._net(pixels)
            return self._select(codes.float(), logits.float(), images, wanted)

    def self_test(self) -> None:
        """Finds the cat of a packaged photograph, with the figures that this network is known to give.

        Raises:
            SelfTestError: The class, confidence or box is another.
        """
        expected = _SELF_TEST
        image = torch.from_numpy(np.array(photo(expected["photo"]))).permute(2, 0, 1)
        [found] = self.detect([image], [Wanted(None, min_confidence=0.3)])
        confidence_within, pixels_within = _TOLERANCE[self._precision]
        got = [
            (name, round(float(score), 4), [round(float(side), 1) for side in box.tolist()])
            for name, score, box in zip(found.class_names, found.confidence, found.xyxy, strict=True)
        ]
        right = len(got) == 1 and (
            got[0][0] == expected["class"]
            and abs(float(found.confidence[0]) - expected["confidence"]) <= confidence_within
            and float(np.abs(found.xyxy[0] - expected["xyxy"]).max()) <= pixels_within
        )
        if not right:
            raise SelfTestError(
                f"lite detector on {self._device} in {self._precision}: expected one {expected['class']} of confidence "
                f"{expected['confidence']} (within {confidence_within}) at {expected['xyxy']} (within {pixels_within} "
                f"pixels), got {got or 'nothing'}; the weights, torch or the device compute wrongly: try device='cpu' "
                "and precision='fp32'"
            )

    def _select(
        self, codes: Tensor, logits: Tensor, images: Sequence[Tensor], wanted: Sequence[Wanted]
    ) -> list[Detections]:
        """From the outputs of all anchors to the objects asked for."""
        least = torch.full((len(images), 1, LABELS), math.inf)
        for index, want in enumerate(wanted):
            p = min(max(want.min_confidence, 0.0), 1.0)
            logit = -math.inf if p == 0 else math.inf if p == 1 else math.log(p / (1 - p))
            classes = range(len(CLASS_NAMES)) if want.class_ids is None else want.class_ids
            least[index, 0, [_COCO_IDS[class_id] for class_id in classes]] = logit
        rows, anchor, label = (logits > least.to(self._device)).nonzero(as_tuple=True)
        # The rest on the CPU and in double: the candidates are few, and neither the device nor an image's neighbours
        # (by the vector lane that a value falls into) may change a digit or the order of equals.
        chosen, codes = logits[rows, anchor, label].cpu().double(), codes[rows, anchor].cpu().double()
        rows, anchor, class_id = rows.cpu(), anchor.cpu(), _CLASS_IDS[label.cpu()]
        ends = torch.bincount(rows, minlength=len(images)).cumsum(0).tolist()
        spans = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
        return [
            _suppress(decode(codes[span], self._anchors[anchor[span]]), chosen[span], class_id[span], image)
            for span, image in zip(spans, images, strict=True)
        ]


def _suppress(boxes: Tensor, logits: Tensor, class_id: Tensor, image: Tensor) -> Detections:
    """One image's candidates, boxes in [0, 1], to its objects."""
    height, width = image.shape[1:]
    scores, order = logits.sigmoid().float().sort(descending=True, stable=True)
    boxes, class_id = boxes[order].float(), class_id[order]
    solid = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    solid[_CANDIDATES:] = False
    boxes, scores, class_id = boxes[solid], scores[solid], class_id[solid]
    kept = batched_nms(boxes, scores, class_id, NMS_IOU)[:MAX_DETECTIONS]
    xyxy = boxes[kept] * torch.tensor([width, height, width, height], dtype=torch.float32)
    return Detections(xyxy.numpy(), scores[kept].numpy(), class_id[kept].numpy(), (width, height))


@lru_cache(maxsize=1)
def _provenance() -> dict[str, Any]:
    value: dict[str, Any] = json.loads((files("geneval_reward") / "data" / "lite" / "PROVENANCE.json").read_text())
    return value


def _read_weights() -> tuple[dict[str, Tensor], str]:
    path = files("geneval_reward") / "data" / "lite" / _WEIGHTS
    try:
        blob, expected = path.read_bytes(), _provenance()["sha256"]
    except OSError as error:
        raise WeightsError(f"{path}: expected the packaged weights, got {error}; reinstall geneval-reward") from error
    sha256 = hashlib.sha256(blob).hexdigest()
    if sha256 != expected:
        raise WeightsError(
            f"{path}: expected sha256 {expected}, got {sha256}; the file is damaged, reinstall geneval-reward"
        )
    # Cast by numpy: torch would wake its threads for each of the 176 small arrays.
    state = {name: torch.from_numpy(value.astype(np.float32)) for name, value in load_safetensors(blob).items()}
    return state, sha256


_SELF_TEST: dict[str, Any] = {
    "photo": "chelsea",
    "class": "cat",
    "confidence": 0.9346,
    "xyxy": [0.7, 2.8, 404.2, 297.7],
}
_TOLERANCE = {"fp32": (0.002, 0.5), "tf32": (0.01, 1.0), "fp16": (0.02, 2.0), "bf16": (0.05, 6.0)}
"""Confidence and pixels by which the self-test's figures may differ."""
