"""Faster convolutions on a CPU: oneDNN with the activation fused and the weights laid out in advance.

Eager PyTorch lays out a convolution's weights anew in every call and makes a pass over memory for each activation,
which costs half as much again for a network as small as SSDLite. The operators here are those that
`torch.compile` emits for a frozen CPU model; they are not part of PyTorch's promised interface, so whoever uses
`fuse` falls back to the plain network where they are missing.
"""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
from torch import Tensor, nn

from geneval_reward.vision.detectors.ssdlite import SIDE, Conv, SSDLite

_log = logging.getLogger(__name__)


class FusedConv(nn.Module):
    """A `Conv` of fixed float32 weights for inference."""

    def __init__(self, conv: nn.Module, input_shape: torch.Size) -> None:
        super().__init__()
        assert isinstance(conv, Conv)
        self._geometry = (conv.padding, conv.stride, conv.dilation, conv.groups)
        self._activation = ("none", []) if conv.linear else ("hardtanh", [0.0, 6.0])
        # Not buffers: an opaque layout cannot be moved, cast or saved.
        functions: Any = torch._C._nn
        plain = conv.weight.detach().to_mkldnn()
        weight = functions.mkldnn_reorder_conv2d_weight(plain, *self._geometry, list(input_shape))
        self._packed = (weight, None if conv.bias is None else conv.bias.detach())

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        name, bounds = self._activation
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(x, *self._packed, *self._geometry, name, bounds, "")
        return out


def fuse(net: SSDLite, batch: int) -> SSDLite | None:
    """A copy of a network with fused convolutions.

    Args:
        net: In float32 on the CPU.
        batch: Number of images that the layout suits best; any number works.

    Returns:
        The copy, for inference with channels-last input only; or None where this PyTorch has no such operators, or
        they compute something else than the plain network.
    """
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a hundred tiny steps: waiting for a second thread on a busy machine takes far longer
    try:
        return _fuse(net, batch)
    except (RuntimeError, AttributeError, TypeError) as error:
        _log.info("fused oneDNN convolutions are not to be had (%s); the plain network is used", error)
        return None
    finally:
        torch.set_num_threads(threads)


@torch.inference_mode()
def _fuse(net: SSDLite, batch: int) -> SSDLite:
    fused = copy.deepcopy(net).to(memory_format=torch.channels_last)
    shapes: dict[str, torch.Size] = {}
    handles = []
    for name, module in fused.named_modules():
        if isinstance(module, Conv):

            def note(_: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                shapes[name] = torch.Size((batch, *inputs[0].shape[1:]))

            handles.append(module.register_forward_pre_hook(note))
    pixels = torch.linspace(-1, 1, 3 * SIDE * SIDE).reshape(1, SIDE, SIDE, 3).permute(0, 3, 1, 2)
    expected = fused(pixels)
    for handle in handles:
        handle.remove()
    for name, shape in shapes.items():
        parent, _, child = name.rpartition(".")
        setattr(fused.get_submodule(parent), child, FusedConv(net.get_submodule(name), shape))
    for one, other in zip(fused(pixels), expected, strict=True):
        gap = float((one - other).abs().max())
        if not gap < 1e-3:
            raise RuntimeError(f"their outputs differ by {gap:.1e} from the plain ones")
    return fused
