"""The original stack, where somebody has it: mmdet 2.x or 3.x runs the detector, for a second opinion.

mmdet reads files as BGR and takes arrays for BGR too; the public RL rewards hand it RGB. Here arrays are turned round,
so that this backend sees what the benchmark sees.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from geneval_reward.errors import UsageError, WeightsError
from geneval_reward.judge.detections import Detections
from geneval_reward.prompts.vocabulary import CLASS_NAMES
from geneval_reward.vision.protocols import Wanted
from geneval_reward.vision.weights import KNOWN_FILES, resolve, sha256_of

Infer = Callable[[npt.NDArray[np.uint8]], Any]

_CONFIGS: Final = {
    2: "mask2former/mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco.py",
    3: "mask2former/mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco.py",
}
_WEIGHTS: Final = {2: "mask2former", 3: "mask2former-3x"}


class MMDetDetector:
    """mmdet's own inference, one image at a time, all classes, in float32.

    Args:
        infer: `(H, W, 3)` uint8 BGR -> what `inference_detector` of that version returns for one image.
        major: 2 or 3, mmdet's major version.
        move: Moves the model to a device; None if it cannot move.
        identity: What the fingerprint says about versions and weights.
        swap_rb: Hand over RGB for BGR, as the public RL rewards do by mistake.
    """

    name = "mmdet"

    def __init__(
        self,
        infer: Infer,
        major: int,
        *,
        move: Callable[[torch.device | str], Any] | None = None,
        identity: Mapping[str, Any] | None = None,
        swap_rb: bool = False,
    ) -> None:
        if major not in _CONFIGS:
            raise UsageError(f"major: expected mmdet 2 or 3, got {major}")
        self._infer = infer
        self._read = from_mmdet2 if major == 2 else from_mmdet3
        self._move = move
        self._identity = dict(identity or {})
        self.swap_rb = swap_rb

    @classmethod
    def from_pretrained(
        cls,
        checkpoint: str | os.PathLike[str] | None = None,
        config: str | os.PathLike[str] | None = None,
        *,
        device: torch.device | str | None = None,
        precision: str = "auto",
        swap_rb: bool = False,
        allow_download: bool = True,
    ) -> MMDetDetector:
        """Load the benchmark's detector into an installed mmdet.

        mmdet loads checkpoints loosely: weights of the other generation leave the transformer random without an error.
        Here every parameter of the model must be in the checkpoint.

        Args:
            checkpoint: A file or folder; None: as for `paper`, the file of the installed generation.
            config: mmdet's config file; None: the one that comes with mmdet.
            device: None: CUDA if there is a device, else the CPU.
            precision: `auto` or `fp32`: mmdet runs as the benchmark runs it.
            swap_rb: See the class.
            allow_download: Whether the network may be used.

        Raises:
            ImportError: If mmdet is not installed.
            ValueError: For another precision.
            WeightsError: If the checkpoint or config cannot be found, or they do not fit each other.
        """
        if precision not in ("auto", "fp32"):
            raise UsageError(
                f"precision: expected 'auto' or 'fp32' for mmdet, got {precision!r}; `paper` has the others"
            )
        try:
            import mmdet
            from mmdet.apis import inference_detector, init_detector
        except ImportError as error:
            raise ImportError(
                f"mmdet: expected mmdet 2.x or 3.x with its mmcv, got {error}; it is only needed for a second opinion, "
                "use backend='paper' for the same weights without it"
            ) from error
        major = int(mmdet.__version__.split(".")[0])
        file = resolve(KNOWN_FILES[_WEIGHTS[major]], checkpoint, allow_download=allow_download)
        place = Path(config) if config is not None else _find_config(Path(mmdet.__file__).parent, _CONFIGS[major])
        device = device if device is not None else ("cuda" if torch.cuda.is_available() else "cpu")
        model = init_detector(str(place), str(file), device=str(device))
        check_filled(model.state_dict(), file)
        return cls(
            lambda pixels: inference_detector(model, pixels),
            major,
            move=model.to,
            identity={"mmdet": mmdet.__version__, "config": place.name, "weights_sha256": sha256_of(file)},
            swap_rb=swap_rb,
        )

    def detect(self, images: Sequence[torch.Tensor], wanted: Sequence[Wanted]) -> list[Detections]:
        """Find objects; see `geneval_reward.vision.protocols.Detector`."""
        results = []
        for image, request in zip(images, wanted, strict=True):
            rgb = image.permute(1, 2, 0).cpu().numpy()
            pixels = np.ascontiguousarray(rgb if self.swap_rb else rgb[:, :, ::-1])
            with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
                answer = self._infer(pixels)
            results.append(_asked(self._read(answer, (image.shape[2], image.shape[1])), request))
        return results

    def fingerprint(self) -> dict[str, Any]:
        """What decides the answers; see `geneval_reward.vision.protocols.Detector`."""
        return {"name": self.name, "precision": "fp32", "swap_rb": self.swap_rb, **self._identity}

    def to(self, device: torch.device | str) -> MMDetDetector:
        """Move the model; returns self."""
        if self._move is not None:
            self._move(device)
        return self


def from_mmdet2(result: Any, image_size: tuple[int, int]) -> Detections:
    """Read what mmdet 2.x returns for one image.

    Args:
        result: `(boxes, masks)`: for each of 80 classes an `(n, 5)` array, and a list of `n` `(H, W)` arrays.
        image_size: `(width, height)`.

    Raises:
        ValueError: If it is not of that form.
    """
    if not isinstance(result, tuple) or len(result) != 2 or not len(result[0]) == len(result[1]) == len(CLASS_NAMES):
        raise UsageError(
            f"mmdet: expected (boxes, masks) of {len(CLASS_NAMES)} classes, got {type(result).__name__}; "
            "use an instance segmentation model of COCO"
        )
    boxes, masks = result
    rows = np.concatenate([np.asarray(part, np.float32).reshape(-1, 5) for part in boxes])
    labels = np.repeat(np.arange(len(boxes)), [len(part) for part in boxes])
    flat = [np.asarray(mask, np.bool_) for part in masks for mask in part]
    width, height = image_size
    mask = np.stack(flat) if flat else np.zeros((0, height, width), np.bool_)
    return Detections(rows[:, :4], rows[:, 4], labels, image_size, mask)


def from_mmdet3(result: Any, image_size: tuple[int, int]) -> Detections:
    """Read what mmdet 3.x returns for one image.

    Args:
        result: A `DetDataSample` whose `pred_instances` has `bboxes`, `scores`, `labels` and `masks`.
        image_size: `(width, height)`.
    """
    found = result.pred_instances
    boxes, scores, labels = (_array(found[name]) for name in ("bboxes", "scores", "labels"))
    return Detections(boxes, scores, labels, image_size, _array(found["masks"]).astype(np.bool_))


def check_filled(model_state: Mapping[str, Any], checkpoint: Path) -> None:
    """Check that a checkpoint has every tensor of a model, which mmdet does not.

    Raises:
        WeightsError: If one is missing.
    """
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    state = content.get("state_dict", content)
    missing = [name for name in model_state if name not in state]
    if missing:
        raise WeightsError(
            f"{checkpoint}: expected every parameter of the mmdet model, got {len(missing)} missing, first "
            f"{missing[0]!r}; a checkpoint of mmdet 2.x needs mmdet 2.x, one of 3.x needs 3.x"
        )


def _asked(found: Detections, request: Wanted) -> Detections:
    keep = found.confidence > request.min_confidence
    if request.class_ids is not None:
        keep &= np.isin(found.class_id, list(request.class_ids))
    elif request.min_confidence <= 0:
        keep[:] = True
    found = found[keep]
    return found if request.masked_class_ids else found.without_masks()


def _array(value: Any) -> npt.NDArray[Any]:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _find_config(package: Path, name: str) -> Path:
    # A wheel carries the configs in .mim, a source checkout beside the package.
    for folder in (package / ".mim" / "configs", package.parent / "configs"):
        if (folder / name).is_file():
            return folder / name
    raise WeightsError(f"config: expected {name} beside {package}, got nothing; pass the config file of your mmdet")
