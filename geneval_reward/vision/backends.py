"""Backends by name: which detector goes with which verifier and rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, cast

import torch

from geneval_reward.errors import UsageError
from geneval_reward.judge.rules import Rules
from geneval_reward.support.imports import require
from geneval_reward.vision.protocols import Detector, Verifier


@dataclass(frozen=True)
class Backend:
    """A detector and a verifier that belong together.

    Attributes:
        name: `lite`, `nanodet`, `paper` or `mmdet`.
        detector: Finds objects.
        verifier: Names colours.
        rules: The rules that this detector was given thresholds for.
        batch_size: Images a forward that suit it.
    """

    name: str
    detector: Detector
    verifier: Verifier
    rules: Rules
    batch_size: int


def load_backend(
    name: str = "lite",
    *,
    device: torch.device | str = "auto",
    precision: str = "auto",
    rules: Rules | Mapping[str, Any] | str | None = None,
    **options: Any,
) -> Backend:
    """Load a backend's weights.

    Args:
        name: `lite` (inside the package, no download), `nanodet` (likewise; another network, for audits of what `lite`
            rewards), `paper` (the benchmark's own weights) or `mmdet` (the original stack).
        device: A torch device, or `auto`: CUDA where there is one, else the CPU.
        precision: `auto` (fp16 autocast on CUDA, fp32 on the CPU), `fp32`, `tf32`, `fp16` or `bf16`.
        rules: What `Rules.parse` takes, starting from the backend's own profile; None for that profile.
        **options: Passed to the detector (such as `checkpoint`, `swap_rb`).

    Raises:
        ValueError: For an unknown backend, device or precision.
        WeightsError: If weights are missing or wrong.
        SelfTestError: If the loaded detector does not see what it must.
    """
    if name not in BACKENDS:
        raise UsageError(f"backend: expected one of {', '.join(BACKENDS)}, got {name!r}")
    if precision not in PRECISIONS:
        raise UsageError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
    return BACKENDS[name](resolve_device(device), precision, rules, options)


def resolve_device(device: torch.device | str) -> torch.device:
    """`auto` to CUDA where there is one, else the CPU; anything else to what torch calls it.

    Raises:
        ValueError: If torch does not know the device, or it is CUDA and there is none.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"device: expected 'auto' or a torch device, got {device!r}") from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device: expected a device that is here, got {device!r}, and torch sees no CUDA; use 'cpu'")
    return resolved


def _lite(device: torch.device, precision: str, rules: Any, options: dict[str, Any]) -> Backend:
    from geneval_reward.vision.colors.lite import LiteVerifier
    from geneval_reward.vision.detectors.lite import LiteDetector

    detector = LiteDetector.from_pretrained(device=device, precision=cast(Any, precision), **options)
    return Backend("lite", detector, LiteVerifier(), Rules.parse(rules, base=Rules.parse("lite")), 16)


def _nanodet(device: torch.device, precision: str, rules: Any, options: dict[str, Any]) -> Backend:
    from geneval_reward.vision.colors.lite import LiteVerifier
    from geneval_reward.vision.detectors.nanodet import NanoDetDetector

    detector = NanoDetDetector.from_pretrained(device=device, precision=cast(Any, precision), **options)
    return Backend("nanodet", detector, LiteVerifier(), Rules.parse(rules, base=Rules.parse("nanodet")), 16)


def _paper(device: torch.device, precision: str, rules: Any, options: dict[str, Any]) -> Backend:
    _require_paper()
    from geneval_reward.vision.colors.clip import ClipVerifier
    from geneval_reward.vision.detectors.mask2former import Mask2FormerDetector

    rules = Rules.parse(rules)
    clip = _take_clip(options)
    detector = Mask2FormerDetector.from_pretrained(device=device, precision=precision, **options)
    return Backend("paper", detector, _clip(ClipVerifier, device, precision, rules, clip), rules, 8)


def _mmdet(device: torch.device, precision: str, rules: Any, options: dict[str, Any]) -> Backend:
    _require_paper()
    from geneval_reward.vision.colors.clip import ClipVerifier
    from geneval_reward.vision.detectors.mmdet import MMDetDetector

    rules = Rules.parse(rules)
    clip = _take_clip(options)
    detector = MMDetDetector.from_pretrained(device=device, precision=precision, **options)
    return Backend("mmdet", detector, _clip(ClipVerifier, device, precision, rules, clip), rules, 1)


def _require_paper() -> None:
    for module in ("cv2", "open_clip", "transformers"):
        require(module, "paper", "backend")


def _take_clip(options: dict[str, Any]) -> dict[str, Any]:
    return {key: options.pop(key) for key in list(options) if key in ("clip_model", "clip_pretrained")}


def _clip(kind: Any, device: torch.device, precision: str, rules: Rules, names: dict[str, Any]) -> Verifier:
    arguments = {key.removeprefix("clip_"): value for key, value in names.items()}
    verifier: Verifier = kind.from_pretrained(
        device=device, precision=precision, background=rules.background, crop=rules.crop, **arguments
    )
    return verifier


PRECISIONS: Final = ("auto", "fp32", "tf32", "fp16", "bf16")

_Loader = Callable[[torch.device, str, Any, dict[str, Any]], Backend]
BACKENDS: Final[Mapping[str, _Loader]] = MappingProxyType(
    {"lite": _lite, "nanodet": _nanodet, "paper": _paper, "mmdet": _mmdet}
)
"""Loaders by name."""
