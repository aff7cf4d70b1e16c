"""Names of backends, precisions and runtimes; without torch, so that a wrong one is refused at once."""

from __future__ import annotations

from typing import Final

BACKEND_NAMES: Final = ("lite", "nanodet", "paper", "mmdet")

PRECISIONS: Final = ("auto", "fp32", "tf32", "fp16", "bf16")

RUNTIMES: Final = ("torch", "openvino")
