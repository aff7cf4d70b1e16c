"""`give_back`: a context after which everything that training depends on is as it was before."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from geneval_reward.support.shards import parts_under_fsdp1, reshard

# The values of larger buffers are not copied, since some models keep a whole average of their weights in buffers. All
# buffers are given back as the same tensors on the same device.
_SMALL_BUFFER: Final = 1 << 20

_Undo = Callable[[], None]


@contextmanager
def give_back(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Restore modules and the global state of the process after code that may change them.

    When the block ends, also with an error, these are restored: the state of all random generators (Python, NumPy, torch, every
    CUDA device), the train or eval mode of every submodule, `requires_grad`, the memory and device of parameters and buffers,
    the values of buffers up to 1 MiB, autocast, the default dtype, TF32 and cuDNN flags, and deterministic mode.

    Weights that are spread over ranks are left where FSDP has them; those that FSDP2 gathered are freed.

    Gradients are off within the block. Inference mode is off too, even if it was on, since a tensor that a module caches while
    it samples must be usable in the next training step.

    Args:
        modules: The modules whose state is restored; submodules may be shared.
    """
    modules = list(modules)
    reshard(modules)
    wrapped = parts_under_fsdp1(modules)
    parts = [_module_state(part, weights=id(part) not in wrapped) for part in _distinct(modules)]
    # The stack runs backwards, so weights are sharded again before modules are restored.
    undo: list[_Undo] = [_random_state(), *_flags(), *_autocast(), *parts, partial(reshard, modules)]
    with ExitStack() as stack:
        # The stack runs every step even if one of them fails.
        for step in undo:
            stack.callback(step)
        with torch.inference_mode(False), torch.no_grad():
            yield


def _distinct(modules: Iterable[nn.Module]) -> list[nn.Module]:
    seen: dict[int, nn.Module] = {}
    for module in modules:
        for part in module.modules():
            seen.setdefault(id(part), part)
    return list(seen.values())


def _random_state() -> _Undo:
    python, cpu = random.getstate(), torch.get_rng_state()
    numpy = np.random.get_state()  # noqa: NPY002  the global state is what user code draws from
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None

    def undo() -> None:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        if mps is not None:
            torch.mps.set_rng_state(mps)

    return undo


def _flags() -> list[_Undo]:
    """Flags are set back only if they changed, since torch refuses a mixture of its two ways to set TF32."""
    owners: list[tuple[Any, str]] = [
        (torch.backends.cudnn, "enabled"),
        (torch.backends.cudnn, "benchmark"),
        (torch.backends.cudnn, "deterministic"),
        (torch.backends.cudnn, "allow_tf32"),
        (torch.backends.cuda.matmul, "allow_tf32"),
        (torch.backends.cuda.matmul, "allow_fp16_reduced_precision_reduction"),
        (torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction"),
        # The newer way, since torch 2.9. It comes last, so that it decides.
        (torch.backends.cuda.matmul, "fp32_precision"),
        (getattr(torch.backends.cudnn, "conv", None), "fp32_precision"),
        (getattr(torch.backends.cudnn, "rnn", None), "fp32_precision"),
    ]
    pairs: list[tuple[Callable[[], Any], Callable[[Any], None]]] = [
        (torch.get_default_dtype, torch.set_default_dtype),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        (_deterministic, _set_deterministic),
    ]
    pairs += [(partial(getattr, *owner), partial(setattr, *owner)) for owner in owners if owner[0] is not None]
    # The stack runs backwards, so the list is reversed for flags to be set in its order.
    return [_flag(get, put) for get, put in reversed(pairs)]


def _flag(get: Callable[[], Any], put: Callable[[Any], None]) -> _Undo:
    try:
        before = get()
    except (AttributeError, RuntimeError):
        return lambda: None

    def undo() -> None:
        try:
            same = get() == before
        except RuntimeError:
            same = False
        if not same:
            put(before)

    return undo


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _set_deterministic(value: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


def _autocast() -> list[_Undo]:
    cache = torch.is_autocast_cache_enabled()
    undo: list[_Undo] = [lambda: torch.set_autocast_cache_enabled(cache)]
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
        undo.append(partial(torch.set_autocast_enabled, device, enabled))
        undo.append(partial(torch.set_autocast_dtype, device, dtype))
    # Casts that were cached without gradients would cut the graph of the next training step.
    undo.append(torch.clear_autocast_cache)
    return undo


def _module_state(module: nn.Module, weights: bool) -> _Undo:
    """Return what restores the state of a module itself, without its children, and with or without its weights."""
    training = module.training
    parameters = [
        (name, p, p.data, p.requires_grad) for name, p in module._parameters.items() if p is not None and weights
    ]
    buffers = [(name, b, _copy_if_small(b)) for name, b in module._buffers.items() if b is not None]

    def undo() -> None:
        module.training = training
        for name, parameter, data, requires_grad in parameters:
            module._parameters[name] = parameter
            # The same memory as before: exact whatever it was moved or cast to, and still the memory that optimizers hold.
            if not hasattr(parameter, "full_tensor") and (
                parameter.data_ptr() != data.data_ptr()
                or parameter.dtype != data.dtype
                or parameter.device != data.device
            ):
                parameter.data = data
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)
        for name, buffer, values in buffers:
            module._buffers[name] = buffer
            if values is not None and not torch.equal(buffer, values):
                buffer.copy_(values)

    return undo


def _copy_if_small(buffer: torch.Tensor) -> torch.Tensor | None:
    if buffer.device.type == "meta" or buffer.numel() * buffer.element_size() > _SMALL_BUFFER:
        return None
    return buffer.detach().clone()
