"""The original stack where it is installed: mmdet 2.x or 3.x runs the detector, for a second opinion.

mmdet takes arrays as BGR, as OpenCV reads files. The public RL rewards hand it RGB by mistake; this backend hands it BGR, so
that it sees what the benchmark sees.

mmdet 3.x prepares images in another way than mmdet 2.x, with which the benchmark was made: it resizes in float32 and pads with
0 after the normalisation, where 2.x resizes uint8 and pads with grey 128 before. Under mmdet 3.x this backend therefore
feeds the network the input of mmdet 2.x, which gives the detections of mmdet 2.x (docs/paper_backend.md).
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from geneval_reward.errors import DependencyError, UsageError, WeightsError
from geneval_reward.judge.detections import Detections
from geneval_reward.prompts.vocabulary import CLASS_NAMES
from geneval_reward.support.inference import no_autocast
from geneval_reward.vision.detectors.mask2former_convert import read_state_dict
from geneval_reward.vision.preprocess import normalise, resize_and_pad
from geneval_reward.vision.protocols import Wanted
from geneval_reward.vision.weights import KNOWN_FILES, resolve, sha256_of

Infer = Callable[[npt.NDArray[np.uint8]], Any]

_CONFIGS: Final = {
    2: "mask2former/mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco.py",
    3: "mask2former/mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco.py",
}
_WEIGHTS: Final = {2: "mask2former", 3: "mask2former-3x"}


class MMDetDetector:
    """The network, head and post-processing of mmdet, one image at a time, all classes, in float32.

    Args:
        infer: Maps `(H, W, 3)` uint8 BGR to the answer of that version of mmdet for one image.
        major: Major version of mmdet, 2 or 3.
        move: Moves the model to a device; None if it cannot move.
        identity: What the fingerprint says about versions and weights.
        swap_rb: Hand over RGB in place of BGR, as the public RL rewards do by mistake.
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
        """Load the benchmark's detector into the installed mmdet.

        mmdet itself loads checkpoints loosely: what does not fit stays random, without an error. Here every tensor of the
        checkpoint must fit one of the model and the other way round.

        Args:
            checkpoint: A file or folder; None: as for `paper`, the file of the installed generation.
            config: A config file of mmdet; None: the one that comes with mmdet.
            device: None: CUDA if there is a device, else the CPU.
            precision: `auto` or `fp32`: mmdet runs as the benchmark runs it.
            swap_rb: Whether the network sees red and blue swapped, as in the public reward.
            allow_download: Whether the network may be used.

        Raises:
            DependencyError: If mmdet is not installed or cannot be imported.
            UsageError: If another precision is asked for.
            WeightsError: If the checkpoint or config cannot be found, or they do not fit each other.
        """
        if precision not in ("auto", "fp32"):
            raise UsageError(
                f"precision: expected 'auto' or 'fp32' for mmdet, got {precision!r}; `paper` has the others"
            )
        mmdet, apis = import_mmdet()
        major = int(mmdet.__version__.split(".")[0])
        file = resolve(KNOWN_FILES[_WEIGHTS[major]], checkpoint, allow_download=allow_download)
        place = Path(config) if config is not None else find_config(major)
        if not place.is_file():
            raise WeightsError(f"config: expected a config file of mmdet, got nothing at {place}")
        state_dict = read_state_dict(file)
        with _quiet():
            model = apis.init_detector(str(place), None, device="cpu")
        load_strictly(model, state_dict, file)
        device = device if device is not None else ("cuda" if torch.cuda.is_available() else "cpu")
        model.to(device)
        infer: Infer = lambda pixels: apis.inference_detector(model, pixels)  # noqa: E731
        return cls(
            infer if major == 2 else lambda pixels: predict_mmdet3(model, pixels),
            major,
            move=model.to,
            identity={
                "mmdet": mmdet.__version__,
                "config": place.name,
                "input": "mmdet 2.x",
                "weights_sha256": sha256_of(file),
            },
            swap_rb=swap_rb,
        )

    def detect(self, images: Sequence[torch.Tensor], wanted: Sequence[Wanted]) -> list[Detections]:
        """Find objects; see `geneval_reward.vision.protocols.Detector`."""
        results = []
        for image, request in zip(images, wanted, strict=True):
            rgb = image.permute(1, 2, 0).cpu().numpy()
            pixels = np.ascontiguousarray(rgb if self.swap_rb else rgb[:, :, ::-1])
            with torch.no_grad(), no_autocast(), _quiet():
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


def import_mmdet() -> tuple[ModuleType, ModuleType]:
    """Import mmdet and its `apis`.

    Raises:
        DependencyError: If mmdet or its mmcv is missing, or mmdet refuses the installed version of mmcv.
    """
    try:
        with _quiet():
            import mmdet
            import mmdet.apis
    except (ImportError, AssertionError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DependencyError(
            f"mmdet: expected mmdet 2.x or 3.x with an mmcv that fits it, got {reason}; docs/paper_backend.md says how to "
            "install both, and backend='paper' runs the same weights without them"
        ) from error
    return mmdet, mmdet.apis


def find_config(major: int) -> Path:
    """Find the config of the benchmark's detector in the installed mmdet.

    Args:
        major: Major version of mmdet, 2 or 3.

    Raises:
        DependencyError: If mmdet cannot be imported.
        WeightsError: If it came without its configs.
    """
    package = Path(str(import_mmdet()[0].__file__)).parent
    # A wheel carries the configs in .mim, a source checkout beside the package.
    for folder in (package / ".mim" / "configs", package.parent / "configs"):
        if (folder / _CONFIGS[major]).is_file():
            return folder / _CONFIGS[major]
    raise WeightsError(
        f"config: expected {_CONFIGS[major]} beside {package}, got nothing; install mmdet from its wheel, or pass config= "
        "in Python"
    )


def load_strictly(model: torch.nn.Module, state_dict: Mapping[str, torch.Tensor], checkpoint: Path) -> None:
    """Fill every tensor of a model from a checkpoint.

    Raises:
        WeightsError: If a tensor is missing, left over or has another shape.
    """
    try:
        model.load_state_dict(dict(state_dict), strict=True)
    except RuntimeError as error:
        # torch lists all differences, thousands of them where the generation is wrong; the first says enough.
        first = " ".join(line.strip() for line in str(error).splitlines()[1:2])[:200]
        raise WeightsError(
            f"{checkpoint}: expected the tensors of the mmdet model, got others ({first}); a checkpoint of mmdet 2.x needs "
            "mmdet 2.x, one of 3.x needs 3.x, and a config must have the sizes of its checkpoint"
        ) from error


def predict_mmdet3(model: Any, pixels: npt.NDArray[np.uint8]) -> Any:
    """Run a model of mmdet 3.x on an image that is prepared as mmdet 2.x prepares it.

    Args:
        model: A detector of mmdet 3.x.
        pixels: `(H, W, 3)` uint8 BGR.

    Returns:
        Its `DetDataSample`.
    """
    from mmdet.structures import DetDataSample

    device = next(model.parameters()).device
    padded, sizes = resize_and_pad(torch.from_numpy(np.ascontiguousarray(pixels[:, :, ::-1])).permute(2, 0, 1))
    sample = DetDataSample(
        metainfo={
            "ori_shape": sizes.original,
            "img_shape": sizes.resized,
            "pad_shape": sizes.padded,
            "batch_input_shape": sizes.padded,
            "scale_factor": (sizes.resized[1] / sizes.original[1], sizes.resized[0] / sizes.original[0]),
        }
    )
    (found,) = model.predict(normalise(padded[None].to(device)), [sample])
    return found


@contextlib.contextmanager
def _quiet() -> Any:
    """Keep mmdet's prints out of stdout, where commands write their results, and silence its deprecation warnings."""
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def from_mmdet2(result: Any, image_size: tuple[int, int]) -> Detections:
    """Read what mmdet 2.x returns for one image.

    Args:
        result: `(boxes, masks)`: for each of 80 classes an `(n, 5)` array, and a list of `n` `(H, W)` arrays.
        image_size: `(width, height)`.

    Raises:
        UsageError: If it is not of that form.
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
