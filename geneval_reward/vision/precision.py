"""Number formats of a forward pass, held under whatever autocast the caller has on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final, Literal, get_args

import torch

from geneval_reward.errors import UsageError

Precision = Literal["auto", "fp32", "tf32", "fp16", "bf16"]
_AUTOCAST: Final = {"fp16": torch.float16, "bf16": torch.bfloat16}


def resolve_precision(precision: str, device: torch.device | str) -> str:
    """Turn `auto` into what a device is best at.

    Args:
        precision: `auto` (`fp16` on CUDA, `fp32` elsewhere), `fp32`, `tf32`, `fp16` or `bf16`.
        device: Where the forward runs.

    Returns:
        One of `fp32, tf32, fp16, bf16`.

    Raises:
        ValueError: For another name, or `tf32` on a device that is not CUDA.

    Examples:
        >>> resolve_precision("auto", "cpu")
        'fp32'
    """
    kind = torch.device(device).type
    if precision not in get_args(Precision):
        raise UsageError(f"precision: expected one of {', '.join(get_args(Precision))}, got {precision!r}")
    if precision == "auto":
        return "fp16" if kind == "cuda" else "fp32"
    if precision == "tf32" and kind != "cuda":
        raise UsageError(f"precision: expected 'fp32' on {kind}, got 'tf32', which only CUDA devices have")
    return precision


@contextmanager
def no_autocast() -> Iterator[None]:
    """Switch the caller's autocast off for a block, on the CPU and on CUDA; models choose their precision themselves."""
    with ExitStack() as stack:
        for kind in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def precision_scope(precision: str, device: torch.device | str) -> Iterator[None]:
    """Run a block in one number format, whatever autocast is on outside, without gradients.

    Half formats are autocast over float32 weights: pure half weights lose accuracy in Mask2Former's reference points,
    and CPU `grid_sample` is wrong in them. `fp32` switches TF32 off for the block and `tf32` switches it on; both
    give the process-wide flags back as they were.

    Args:
        precision: A resolved precision (`resolve_precision`).
        device: Where the block runs.
    """
    kind = torch.device(device).type
    dtype = _AUTOCAST.get(precision)
    # Without the cache of cast weights: it outlives a nested autocast, and would hand its weights to the outer one.
    autocast = torch.autocast(kind, dtype=dtype, enabled=dtype is not None, cache_enabled=False)
    with torch.no_grad(), autocast:
        if kind == "cuda" and dtype is None:
            with _tf32(precision == "tf32"):
                yield
        else:
            yield


@contextmanager
def _tf32(on: bool) -> Iterator[None]:
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    # torch 2.9 gave these flags new names and refuses to read an old one after the new one was set, until it is set
    # back; so the names are not mixed.
    new = hasattr(matmul, "fp32_precision") and hasattr(getattr(cudnn, "conv", None), "fp32_precision")
    flags = [(matmul, "fp32_precision"), (cudnn.conv, "fp32_precision")] if new else []
    flags = flags or [(matmul, "allow_tf32"), (cudnn, "allow_tf32")]
    value: Any = ("tf32" if on else "ieee") if new else on
    before = [getattr(holder, name) for holder, name in flags]
    try:
        for holder, name in flags:
            setattr(holder, name, value)
        yield
    finally:
        for (holder, name), old in zip(flags, before, strict=True):
            setattr(holder, name, old)
