"""Forward passes: batches that shrink when memory runs out, and number formats that hold under any autocast."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final, Literal, TypeVar, get_args

import torch

from geneval_reward.errors import UsageError

_log = logging.getLogger(__name__)

_SIGNS: Final = ("out of memory", "allocate memory", "not enough memory", "alloc_failed")

T = TypeVar("T")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory ran out.

    Only CUDA's caching allocator has an exception of its own. The allocators of the CPU, Metal, cuBLAS and cuDNN raise a
    `RuntimeError` that says so in words.

    Examples:
        >>> is_out_of_memory(RuntimeError("MPS backend out of memory")), is_out_of_memory(RuntimeError("shape mismatch"))
        (True, False)
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)


def run_in_batches(
    call: Callable[[slice], list[T]],
    count: int,
    batch_size: int,
    *,
    name: str,
    describe: Callable[[int], str] = lambda index: "one image",
) -> tuple[list[T], int]:
    """Run a function batch by batch, and halve the batch whenever memory runs out.

    Args:
        call: Gets a slice of the items and returns one result per item.
        count: Number of items.
        batch_size: Largest batch to begin with, >= 1.
        name: Name of the caller, for the log and the error message.
        describe: Describes the item at an index that does not fit alone, for the error message.

    Returns:
        One result per item, in order, and the largest batch that may be tried next time.

    Raises:
        torch.OutOfMemoryError: If a single item does not fit.

    Examples:
        >>> run_in_batches(lambda part: list(range(9))[part], 9, 4, name="example")
        ([0, 1, 2, 3, 4, 5, 6, 7, 8], 4)
    """
    results: list[T] = []
    while len(results) < count:
        size = min(batch_size, count - len(results))
        try:
            results += call(slice(len(results), len(results) + size))
            continue
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                raise torch.OutOfMemoryError(
                    f"{name}: expected room for {describe(len(results))}, got out of memory; free some or use the CPU"
                ) from error
        # This is outside of `except` because the error keeps the tensors of the failed batch alive.
        batch_size = size // 2
        _log.warning("%s: out of memory; going on with batches of %d", name, batch_size)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return results, batch_size


Precision = Literal["auto", "fp32", "tf32", "fp16", "bf16"]
_flags_held = threading.RLock()
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
    and CPU `grid_sample` is wrong in them. On CUDA, `fp32` switches TF32 off for the block and `tf32` switches it on; both
    give the flags back as they were. The flags are the whole process's: blocks in several threads take turns, and a
    training in another thread computes under them meanwhile. Half formats leave them alone.

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
    # Two blocks that overlap would each give back what the other had set.
    with _flags_held:
        before = [getattr(holder, name) for holder, name in flags]
        try:
            for holder, name in flags:
                setattr(holder, name, value)
            yield
        finally:
            for (holder, name), old in zip(flags, before, strict=True):
                setattr(holder, name, old)
