"""Backends by name: which detector goes with which verifier and rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import torch

from geneval_reward.errors import UsageError
from geneval_reward.judge.rules import Rules
from geneval_reward.support.imports import import_object, require
from geneval_reward.vision.names import PRECISIONS
from geneval_reward.vision.protocols import Detector, Verifier


@dataclass(frozen=True)
class Backend:
    """A detector and a verifier that belong together.

    Attributes:
        name: `lite`, `nanodet`, `paper` or `mmdet`.
        detector: Finds objects.
        verifier: Names colours.
        rules: The rules that this detector was given thresholds for.
        batch_size: Images per forward pass that suit it.
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
        **options: Passed to the detector (such as `checkpoint`, `swap_rb`, `runtime`).

    Raises:
        UsageError: If the backend, device or precision is unknown.
        WeightsError: If weights are missing or wrong.
        SelfTestError: If the loaded detector does not see what it must.
    """
    if name not in BACKENDS:
        raise UsageError(f"backend: expected one of {', '.join(BACKENDS)}, got {name!r}")
    if precision not in PRECISIONS:
        raise UsageError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
    return BACKENDS[name](name, resolve_device(device), precision, rules, options)


def resolve_device(device: torch.device | str) -> torch.device:
    """Resolve `auto` to CUDA if there is one, else the CPU, and any other name to the torch device.

    Raises:
        UsageError: If torch does not know the device, or it is CUDA and there is none.
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


def _packaged(name: str, device: torch.device, precision: str, rules: Any, options: dict[str, Any]) -> Backend:
    from geneval_reward.vision.colors.lite import LiteVerifier

    if "checkpoint" in options:
        raise UsageError(f"checkpoint: expected none with {name}, whose weights are inside the package; leave it out")
    kind = import_object(_DETECTORS[name], "backend")
    detector = kind.from_pretrained(device=device, precision=precision, **options)
    return Backend(name, detector, LiteVerifier(), Rules.parse(rules, base=Rules.parse(name)), 16)


def _original(name: str, device: torch.device, precision: str, rules: Any, options: dict[str, Any]) -> Backend:
    for module in ("cv2", "open_clip", "transformers"):
        require(module, "paper", "backend")
    from geneval_reward.vision.colors.clip import ClipVerifier

    rules = Rules.parse(rules)
    clip = {key.removeprefix("clip_"): options.pop(key) for key in ("clip_model", "clip_pretrained") if key in options}
    kind = import_object(_DETECTORS[name], "backend")
    detector = kind.from_pretrained(device=device, precision=precision, **options)
    verifier = ClipVerifier.from_pretrained(
        device=device, precision=precision, background=rules.background, crop=rules.crop, **clip
    )
    return Backend(name, detector, verifier, rules, 8 if name == "paper" else 1)


_DETECTORS: Final = {
    "lite": "geneval_reward.vision.detectors.lite:LiteDetector",
    "nanodet": "geneval_reward.vision.detectors.nanodet:NanoDetDetector",
    "paper": "geneval_reward.vision.detectors.mask2former:Mask2FormerDetector",
    "mmdet": "geneval_reward.vision.detectors.mmdet:MMDetDetector",
}

_Loader = Callable[[str, torch.device, str, Any, dict[str, Any]], Backend]
BACKENDS: Final[Mapping[str, _Loader]] = MappingProxyType(
    {"lite": _packaged, "nanodet": _packaged, "paper": _original, "mmdet": _original}
)
"""Loaders by name."""
