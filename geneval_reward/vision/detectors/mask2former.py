"""`Mask2FormerDetector`: the benchmark's own detector weights in `transformers`, batched, without mmcv."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from geneval_reward.errors import SelfTestError, UsageError, WeightsError
from geneval_reward.judge.detections import Detections
from geneval_reward.prompts.vocabulary import CLASS_IDS, CLASS_NAMES
from geneval_reward.support.devices import stack_to_device, to_host
from geneval_reward.support.inference import no_autocast, precision_scope, resolve_precision
from geneval_reward.vision.detectors.deformable import make_lean, sample_levels
from geneval_reward.vision.detectors.mask2former_convert import ConvertedWeights, build_model, load_converted
from geneval_reward.vision.detectors.mask2former_postprocess import postprocess
from geneval_reward.vision.detectors.openvino_network import OpenVinoNetwork, wants_openvino
from geneval_reward.vision.preprocess import Geometry, normalise, resize_and_pad
from geneval_reward.vision.protocols import Wanted
from geneval_reward.vision.weights import KNOWN_FILES, resolve

if TYPE_CHECKING:
    from transformers import Mask2FormerForUniversalSegmentation

logger = logging.getLogger(__name__)

# Network inputs of 800 x 800 in one forward. A forward in float32 takes about 0.5 GiB for each on top of the weights
# (docs/paper_backend.md), so that 8 stay well below a 12 GB card while they keep a large one busy.
_FORWARD_IMAGES: Final = {"cuda": 8}
_FORWARD_AREA: Final = 800 * 800
_CHUNK_BYTES: Final = {"cuda": 512 << 20}
_SELF_TEST: Final = ("chelsea", "cat", 0.8)
_warned: set[str] = set()


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Images of one network input size: uint8 `(3, Hp, Wp)` each, their sizes, and their places in the batch."""

    pixels: list[torch.Tensor]
    geometries: list[Geometry]
    places: list[int]


class Mask2FormerDetector:
    """Mask2Former Swin-S as GenEval runs it: mmdet's weights, pre- and post-processing.

    Args:
        model: A loaded `transformers` model of 80 classes.
        weights_sha256: Of the mmdet checkpoint it came from.
        weights_status: `"published"`, or why the weights are not verified.
        device: Where it runs.
        precision: `auto` (fp16 autocast on CUDA, fp32 elsewhere), `fp32`, `tf32`, `fp16` or `bf16`. Holds
            under any outer autocast. Published numbers say which.
        swap_rb: Show the network red and blue swapped, as the public RL rewards do by mistake.
        forward_images: Images of 800 x 800 in one forward (larger inputs count for more). None: 8 on CUDA, else 1.
        chunk_bytes: Memory for masks at full size. None: 512 MiB on CUDA, else 64 MiB.
        compiled: Run the sampling of deformable attention through `torch.compile`.
        workers: Threads that resize images.
        runtime: `torch`, or `openvino` to run the network with OpenVINO, on a CPU only. The first image of each size then
            takes a minute more.

    Examples:
        >>> detector = Mask2FormerDetector.from_pretrained()  # doctest: +SKIP
        >>> wanted = Wanted(class_ids=frozenset({15}), min_confidence=0.3)  # doctest: +SKIP
        >>> detector.detect([image], [wanted])[0].class_names  # doctest: +SKIP
        ['cat']
    """

    name = "mask2former"

    def __init__(
        self,
        model: Mask2FormerForUniversalSegmentation,
        *,
        weights_sha256: str,
        weights_status: str,
        device: torch.device | str = "cpu",
        precision: str = "auto",
        swap_rb: bool = False,
        forward_images: int | None = None,
        chunk_bytes: int | None = None,
        compiled: bool = False,
        workers: int | None = None,
        runtime: str = "torch",
    ) -> None:
        if forward_images is not None and forward_images < 1:
            raise UsageError(f"forward_images: expected at least 1, got {forward_images}")
        classes = model.config.num_labels
        if classes != len(CLASS_NAMES):
            raise WeightsError(f"checkpoint: expected {len(CLASS_NAMES)} classes (COCO), got {classes}")
        if compiled and wants_openvino(runtime):
            raise UsageError("compiled: expected False with runtime='openvino', got True; leave one of the two out")
        self._openvino = wants_openvino(runtime)
        # A compiler fuses the samples with their sum, and OpenVINO has no fast sum of rows.
        sampler = torch.compile(sample_levels, dynamic=False) if compiled else sample_levels
        self._model = make_lean(model, sampler if compiled or self._openvino else None)
        self._asked_precision = precision
        self._weights = (weights_sha256, weights_status)
        self._forward_images = forward_images
        self._chunk_bytes = chunk_bytes
        self._compiled = compiled
        self._workers = workers or min(8, os.cpu_count() or 1)
        self.swap_rb = swap_rb
        self.to(device)

    @classmethod
    def from_pretrained(
        cls,
        checkpoint: str | os.PathLike[str] | None = None,
        *,
        device: torch.device | str | None = None,
        precision: str = "auto",
        swap_rb: bool = False,
        forward_images: int | None = None,
        chunk_bytes: int | None = None,
        compiled: bool = False,
        workers: int | None = None,
        runtime: str = "torch",
        allow_download: bool = True,
        progress: bool = False,
        self_test: bool | None = None,
    ) -> Mask2FormerDetector:
        """Load the benchmark's weights, or any Mask2Former-Swin checkpoint of mmdet.

        Args:
            checkpoint: A checkpoint of mmdet 2.x or 3.x, or a folder that holds one. None looks at
                `GENEVAL_REWARD_MASK2FORMER`, then in the cache, and then at the public address.
            device: A torch device; None for CUDA if there is one, else the CPU.
            precision: `auto`, `fp32`, `tf32`, `fp16` or `bf16`.
            swap_rb: Whether the network sees red and blue swapped, as in the public reward.
            forward_images: Images per forward pass.
            chunk_bytes: Memory in bytes that masks may take at a time.
            compiled: Whether to use `torch.compile`.
            workers: Threads that resize images.
            runtime: `torch` or `openvino`.
            allow_download: Whether the network may be used.
            progress: Whether to show a bar on stderr during a download.
            self_test: Whether to look for the cat in a packaged photograph; None for only if the weights are the published ones.

        Raises:
            WeightsError: If the weights are missing, damaged or of another architecture.
            SelfTestError: If the self-test fails; nothing is scored with such a detector.
            DependencyError: If OpenVINO is asked for and not installed.
        """
        file = resolve(KNOWN_FILES["mask2former"], checkpoint, allow_download=allow_download, progress=progress)
        weights = load_converted(file)
        status = _status(weights)
        device = device if device is not None else ("cuda" if torch.cuda.is_available() else "cpu")
        detector = cls(
            build_model(weights),
            weights_sha256=weights.source_sha256,
            weights_status=status,
            device=device,
            precision=precision,
            swap_rb=swap_rb,
            forward_images=forward_images,
            chunk_bytes=chunk_bytes,
            compiled=compiled,
            workers=workers,
            runtime=runtime,
        )
        if weights.verified if self_test is None else self_test:
            detector.check()
        elif weights.source_sha256 not in _warned:
            _warned.add(weights.source_sha256)
            warnings.warn(
                f"{file.name}: {status}; the self-test is skipped and its scores are not GenEval's", stacklevel=2
            )
        return detector

    def detect(self, images: Sequence[torch.Tensor], wanted: Sequence[Wanted]) -> list[Detections]:
        """Find objects in a batch; see `geneval_reward.vision.protocols.Detector`.

        Rows come by falling confidence. An image of which nothing is asked costs nothing.

        Raises:
            ImageError: If an image is not uint8 `(3, H, W)`.
            ValueError: If `images` and `wanted` differ in length.
        """
        if len(images) != len(wanted):
            raise UsageError(f"wanted: expected one request for each of {len(images)} images, got {len(wanted)}")
        results: list[Detections | None] = [
            None
            if request.class_ids is None or request.class_ids
            else Detections.empty((image.shape[2], image.shape[1]))
            for image, request in zip(images, wanted, strict=True)
        ]
        for batch in self.prepare(images, [index for index, found in enumerate(results) if found is None]):
            class_logits, mask_logits = self.forward(batch)
            found = self.postprocess(class_logits, mask_logits, batch, wanted)
            for place, detections in zip(batch.places, found, strict=True):
                results[place] = detections
        return [detections for detections in results if detections is not None]

    def prepare(self, images: Sequence[torch.Tensor], places: Sequence[int] | None = None) -> list[Prepared]:
        """Resize and pad images on the CPU, grouped by network input size, cut into forwards.

        A forward holds one size only: padding further would change what the network sees, and so the answer.
        """
        places = range(len(images)) if places is None else places
        # Copied from a GPU here and not by the threads, which would not wait for the caller's stream.
        chosen = to_host([images[place].flip(0) if self.swap_rb else images[place] for place in places])
        if len(chosen) > 1 and self._workers > 1:
            with ThreadPoolExecutor(self._workers) as pool:
                ready = list(pool.map(resize_and_pad, chosen))
        else:
            ready = [resize_and_pad(image) for image in chosen]
        groups: dict[tuple[int, int], list[int]] = {}
        for index, (_, sizes) in enumerate(ready):
            groups.setdefault(sizes.padded, []).append(index)
        limit = self._forward_images or _FORWARD_IMAGES.get(self.device.type, 1)
        batches = []
        for (height, width), members in groups.items():
            step = max(1, limit * _FORWARD_AREA // (height * width))
            for start in range(0, len(members), step):
                part = members[start : start + step]
                batches.append(
                    Prepared([ready[i][0] for i in part], [ready[i][1] for i in part], [places[i] for i in part])
                )
        return batches

    def forward(self, batch: Prepared) -> tuple[torch.Tensor, torch.Tensor]:
        """Class logits `(B, Q, 81)` and mask logits `(B, Q, Hp/4, Wp/4)` of the last decoder layer."""
        pixels = stack_to_device(batch.pixels, self.device)
        if self._network is not None:
            class_logits, mask_logits = self._network(normalise(pixels))
            return class_logits, mask_logits
        with precision_scope(self.precision, self.device):
            output = self._model(pixel_values=normalise(pixels))
        return output.class_queries_logits, output.masks_queries_logits

    def postprocess(
        self, class_logits: torch.Tensor, mask_logits: torch.Tensor, batch: Prepared, wanted: Sequence[Wanted]
    ) -> list[Detections]:
        """Detections of each image of `batch`; `wanted` is that of the whole call."""
        limit = self._chunk_bytes or _CHUNK_BYTES.get(self.device.type, 64 << 20)
        with torch.no_grad(), no_autocast():
            requests = [wanted[place] for place in batch.places]
            return postprocess(class_logits, mask_logits, batch.geometries, requests, chunk_bytes=limit)

    def check(self) -> None:
        """Look for the cat in a packaged photograph: broken kernels and wrong weights give low confidences, not errors.

        Raises:
            SelfTestError: If it is not found with high confidence.
        """
        from geneval_reward.vision.images import as_image
        from geneval_reward.vision.photos import photo

        name, expected, bound = _SELF_TEST
        found = self.detect([as_image(photo(name))], [Wanted(frozenset({CLASS_IDS[expected]}))])[0]
        best = float(found.confidence.max(initial=0.0))
        if not best > bound:
            raise SelfTestError(
                f"self-test: expected a {expected} in the packaged photograph {name!r} with a confidence above {bound}, "
                f"got {best:.3f} ({self.precision} on {self.device}); the weights or this device's kernels are broken, "
                "so nothing is scored: try precision='fp32' or device='cpu', and `geneval-reward weights verify`"
            )
        logger.info("Self-test passed: %s found with confidence %.3f", expected, best)

    def fingerprint(self) -> dict[str, Any]:
        """What decides the answers; see `geneval_reward.vision.protocols.Detector`."""
        return {
            "name": self.name,
            "weights_sha256": self._weights[0],
            "weights": self._weights[1],
            "precision": self.precision,
            "swap_rb": self.swap_rb,
            "compiled": self._compiled,
            **({} if self._network is None else {"runtime": self._network.version}),
        }

    def to(self, device: torch.device | str) -> Mask2FormerDetector:
        """Move the weights; `auto` precision follows the device. Returns self."""
        device = torch.device(device)
        precision = resolve_precision(self._asked_precision, device)
        self._network = OpenVinoNetwork(_Logits(self._model), device, precision) if self._openvino else None
        self.device, self.precision = device, precision
        self._model.to(device)
        return self


class _Logits(nn.Module):
    """A model whose output is the two tensors that are used, for runtimes that know no other."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = self.model(pixel_values=pixels)
        return output.class_queries_logits, output.masks_queries_logits


def _status(weights: ConvertedWeights) -> str:
    if weights.verified:
        return "published"
    return f"unverified weights: sha256 {weights.source_sha256[:8]} is not a published one"
