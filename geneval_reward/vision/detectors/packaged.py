"""`PackagedDetector`: what the small detectors whose weights come inside the package have in common.

A subclass brings its network, its input and its box code; here are reading the weights, devices and precisions, threads,
thresholds and suppression.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import torch
from safetensors.numpy import load as load_safetensors
from torch import Tensor, nn
from torchvision.ops import batched_nms

from geneval_reward.errors import SelfTestError, UsageError, WeightsError
from geneval_reward.judge.detections import Detections
from geneval_reward.prompts.vocabulary import CLASS_NAMES
from geneval_reward.support.devices import to_device
from geneval_reward.support.inference import no_autocast, precision_scope, resolve_precision
from geneval_reward.vision.detectors.openvino_network import OpenVinoNetwork, wants_openvino
from geneval_reward.vision.photos import photo
from geneval_reward.vision.protocols import Wanted

_CPU_BATCH = 8  # images per forward pass on a CPU; more are no faster and take more memory
_CANDIDATES = 4096  # per image before suppression; only min_confidence near 0 comes close
_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_TOLERANCE = {"fp32": (0.002, 0.5), "tf32": (0.01, 1.0), "fp16": (0.02, 2.0), "bf16": (0.05, 6.0)}
"""Confidence and pixels by which the figures of the self-test may differ."""


@dataclass(frozen=True)
class KnownObject:
    """The only object above .5 in a packaged photograph, as a detector in fp32 sees it.

    Attributes:
        photo: Name of the photograph.
        class_name: Class of the object.
        confidence: In [0, 1].
        xyxy: Box in pixels.
    """

    photo: str
    class_name: str
    confidence: float
    xyxy: tuple[float, float, float, float]


class PackagedDetector(ABC):
    """A detector whose weights come inside the package; see `geneval_reward.vision.protocols.Detector`.

    On a CPU in fp32 the result for an image is the same to the last bit in whatever batch it comes, elsewhere up to the
    noise of its precision. The precision stays what was asked for under any outer `torch.autocast`.

    Args:
        net: A loaded network; `from_pretrained` reads it.
        weights_sha256: Hash of its file.
        device: Where to run.
        precision: `auto` is fp32 on a CPU and fp16 on CUDA; `tf32` is for CUDA only.
        runtime: `torch`, or `openvino` to run the network with OpenVINO, on a CPU only.
    """

    name: str
    model: ClassVar[str]
    nms_iou: ClassVar[float] = 0.6
    """Boxes of one class that overlap more are one object."""
    max_detections: ClassVar[int] = 100
    """Most objects of one image."""
    self_test_object: ClassVar[KnownObject]
    columns: ClassVar[Tensor]
    """Column of the class logits for each of the 80 classes."""

    def __init__(
        self,
        net: nn.Module,
        *,
        weights_sha256: str,
        device: torch.device | str = "cpu",
        precision: str = "auto",
        runtime: str = "torch",
    ) -> None:
        self.master = net.to("cpu", torch.float32).eval().requires_grad_(False)
        self.weights_sha256 = weights_sha256
        self._asked = precision
        self._openvino = wants_openvino(runtime)
        self.to(device)

    @classmethod
    def from_pretrained(
        cls, device: torch.device | str = "cpu", precision: str = "auto", runtime: str = "torch"
    ) -> Self:
        """Load the packaged weights.

        Args:
            device: Where to run.
            precision: `auto` is fp32 on a CPU and fp16 on CUDA; `tf32` is for CUDA only.
            runtime: `torch` or `openvino`.

        Raises:
            WeightsError: If the packaged file is missing or damaged.
            UsageError: If the precision or the runtime is unknown or not for this device.
            DependencyError: If OpenVINO is asked for and not installed.
        """
        state, sha256 = read_weights(cls.name)
        with torch.device("meta"):
            net = cls.build()
        net.load_state_dict(state, assign=True)
        return cls(net, weights_sha256=sha256, device=device, precision=precision, runtime=runtime)

    @staticmethod
    @abstractmethod
    def build() -> nn.Module:
        """The network without weights; its forward pass returns box codes `(B, A, ...)` and class logits `(B, A, C)`."""

    @staticmethod
    @abstractmethod
    def pixels(images: Sequence[Tensor], device: torch.device) -> Tensor:
        """The network's input in float32 from uint8 images `(3, H, W)`."""

    @staticmethod
    @abstractmethod
    def boxes(codes: Tensor, anchor: Tensor, height: int, width: int) -> Tensor:
        """Boxes `(N, 4)` as (x1, y1, x2, y2) in units of the image's sides, cut at its edge.

        Args:
            codes: `(N, ...)` float64 box codes.
            anchor: Indices `(N,)` of their anchors.
            height: Height of the image in pixels.
            width: Width of the image in pixels.
        """

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._device

    @property
    def precision(self) -> str:
        """What is computed in: `fp32`, `tf32`, `fp16` or `bf16`."""
        return self._precision

    def to(self, device: torch.device | str) -> Self:
        """Move the weights, choosing the precision anew if it is `auto`; returns the detector."""
        device = torch.device(device)
        precision = resolve_precision(self._asked, device)
        self.net: nn.Module | OpenVinoNetwork
        if self._openvino:
            self.net = OpenVinoNetwork(self.master, device, precision, streams=workers())
        else:
            self.net = copy.deepcopy(self.master).to(device, _DTYPES[precision]).to(memory_format=torch.channels_last)
        self._device, self._precision = device, precision
        return self

    def fingerprint(self) -> dict[str, Any]:
        """What decides the answers, JSON-serialisable."""
        return {
            "name": self.name,
            "model": self.model,
            "weights_sha256": self.weights_sha256,
            "precision": self._precision,
            "nms_iou": self.nms_iou,
            "max_detections": self.max_detections,
            **({"runtime": self.net.version} if isinstance(self.net, OpenVinoNetwork) else {}),
        }

    def detect(self, images: Sequence[Tensor], wanted: Sequence[Wanted]) -> list[Detections]:
        """Find objects; see `geneval_reward.vision.protocols.Detector.detect`.

        Raises:
            UsageError: If the lengths differ or an image is no uint8 tensor `(3, H, W)`.
        """
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
            # Resized on the device: whole images of bytes are no more to copy than resized ones of floats.
            return self._detect([to_device(image, self._device) for image in images], wanted)
        step = min(_CPU_BATCH, math.ceil(len(images) / workers()))
        spans = [slice(start, start + step) for start in range(0, len(images), step)]
        parts = run_parts(lambda span: self._detect(images[span], wanted[span]), spans)
        return [found for part in parts for found in part]

    def self_test(self) -> None:
        """Find the known object of a packaged photograph with the known figures.

        Raises:
            SelfTestError: If the class, confidence or box is another.
        """
        known = self.self_test_object
        image = torch.from_numpy(np.array(photo(known.photo))).permute(2, 0, 1)
        [found] = self.detect([image], [Wanted(None, min_confidence=0.5)])
        confidence_within, pixels_within = _TOLERANCE[self._precision]
        got = [
            (name, round(float(score), 4), [round(float(side), 1) for side in box.tolist()])
            for name, score, box in zip(found.class_names, found.confidence, found.xyxy, strict=True)
        ]
        right = len(got) == 1 and (
            got[0][0] == known.class_name
            and abs(float(found.confidence[0]) - known.confidence) <= confidence_within
            and float(np.abs(found.xyxy[0] - known.xyxy).max()) <= pixels_within
        )
        if not right:
            raise SelfTestError(
                f"{self.name} detector on {self._device} in {self._precision}: expected one {known.class_name} of confidence "
                f"{known.confidence} (within {confidence_within}) at {list(known.xyxy)} (within {pixels_within} pixels), "
                f"got {got or 'nothing'}; the weights, torch or the device compute wrongly: try device='cpu' and "
                "precision='fp32'"
            )

    def _detect(self, images: Sequence[Tensor], wanted: Sequence[Wanted]) -> list[Detections]:
        # The weights themselves are in half precision, so autocast is off either way: casting a hundred small weights in
        # every forward pass would take longer than the convolutions.
        half = _DTYPES[self._precision] != torch.float32
        with torch.inference_mode(), no_autocast() if half else precision_scope(self._precision, self._device):
            layout = torch.contiguous_format if self._openvino else torch.channels_last
            pixels = self.pixels(images, self._device).to(_DTYPES[self._precision], memory_format=layout)
            codes, logits = self.net(pixels)
            return self._select(codes.float(), logits.float(), images, wanted)

    def _select(
        self, codes: Tensor, logits: Tensor, images: Sequence[Tensor], wanted: Sequence[Wanted]
    ) -> list[Detections]:
        """From the outputs of all anchors to the objects asked for."""
        least = torch.full((len(images), 1, logits.shape[2]), math.inf)
        for index, want in enumerate(wanted):
            p = min(max(want.min_confidence, 0.0), 1.0)
            logit = -math.inf if p == 0 else math.inf if p == 1 else math.log(p / (1 - p))
            classes = list(range(len(CLASS_NAMES))) if want.class_ids is None else list(want.class_ids)
            least[index, 0, self.columns[torch.tensor(classes, dtype=torch.long)]] = logit
        rows, anchor, column = (logits > least.to(self._device)).nonzero(as_tuple=True)
        # The rest runs on the CPU and in double precision: the candidates are few, and neither the device nor an image's
        # neighbours (by the vector lane that a value falls into) may change a digit or the order of equals.
        chosen, codes = logits[rows, anchor, column].cpu().double(), codes[rows, anchor].cpu().double()
        class_of = torch.full((logits.shape[2],), -1)
        class_of[self.columns] = torch.arange(len(CLASS_NAMES))
        rows, anchor, class_id = rows.cpu(), anchor.cpu(), class_of[column.cpu()]
        ends = torch.bincount(rows, minlength=len(images)).cumsum(0).tolist()
        spans = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
        return [
            self._suppress(
                self.boxes(codes[span], anchor[span], *image.shape[1:]), chosen[span], class_id[span], image.shape[1:]
            )
            for span, image in zip(spans, images, strict=True)
        ]

    def _suppress(self, boxes: Tensor, logits: Tensor, class_id: Tensor, shape: torch.Size) -> Detections:
        """One image's candidates to its objects."""
        height, width = shape
        scores, order = logits.sigmoid().float().sort(descending=True, stable=True)
        boxes, class_id = boxes[order].float(), class_id[order]
        solid = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        solid[_CANDIDATES:] = False
        boxes, scores, class_id = boxes[solid], scores[solid], class_id[solid]
        kept = batched_nms(boxes, scores, class_id, self.nms_iou)[: self.max_detections]
        xyxy = boxes[kept] * torch.tensor([width, height, width, height], dtype=torch.float32)
        return Detections(xyxy.numpy(), scores[kept].numpy(), class_id[kept].numpy(), (width, height))


@cache
def provenance(name: str) -> dict[str, Any]:
    """The `PROVENANCE.json` of a packaged detector: its file, hash, source and licence."""
    value: dict[str, Any] = json.loads((files("geneval_reward") / "data" / name / "PROVENANCE.json").read_text())
    return value


def read_weights(name: str) -> tuple[dict[str, Tensor], str]:
    """The float32 parameters of a packaged detector and the sha256 of their file.

    Raises:
        WeightsError: If the file is missing or damaged.
    """
    expected = provenance(name)
    path = files("geneval_reward") / "data" / name / expected["file"]
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: expected the packaged weights, got {error}; reinstall geneval-reward") from error
    sha256 = hashlib.sha256(blob).hexdigest()
    if sha256 != expected["sha256"]:
        raise WeightsError(
            f"{path}: expected sha256 {expected['sha256']}, got {sha256}; the file is damaged, reinstall geneval-reward"
        )
    # Cast by numpy: torch would wake its threads for each of the small arrays.
    state = {key: torch.from_numpy(value.astype(np.float32)) for key, value in load_safetensors(blob).items()}
    return state, sha256


Part = TypeVar("Part")
Result = TypeVar("Result")

MAX_WORKERS = 8
"""More threads than this wait for Python's lock."""

_lock = threading.Lock()


def workers() -> int:
    """Return how many threads `run_parts` uses: as many as PyTorch may use, at most `MAX_WORKERS`."""
    return min(torch.get_num_threads(), MAX_WORKERS)


def run_parts(work: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """Do some work on each part, in threads that each use one PyTorch thread.

    Args:
        work: Called once for each part, in another thread. Modes of the calling thread (gradients, autocast) do not reach it.
        parts: What to work on.

    Returns:
        The results, in the order of `parts`.

    Examples:
        >>> run_parts(len, ["one", "three"])
        [3, 5]
    """
    if workers() < 2:
        return [work(part) for part in parts]
    with _lock:
        pool = _pool(os.getpid(), workers())
    return list(pool.map(work, parts))


@lru_cache(maxsize=4)
def _pool(pid: int, count: int) -> ThreadPoolExecutor:
    """Make the thread pool of a process; a fork does not inherit its parent's threads."""
    threads = torch.get_num_threads()
    ready = threading.Barrier(count + 1)
    pool = ThreadPoolExecutor(count, "geneval-lite", _compute_alone)
    for _ in range(count):
        pool.submit(ready.wait)
    ready.wait()  # now every thread has started
    torch.set_num_threads(threads)  # each thread's own setting also became the default of the process
    return pool


def _compute_alone() -> None:
    torch.get_num_threads()  # the first call in a thread applies the default, so it must come before the next line
    torch.set_num_threads(1)
