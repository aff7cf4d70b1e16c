"""`OpenVinoNetwork`: a detector's network, run by OpenVINO on the CPU in place of PyTorch."""

from __future__ import annotations

import sys
import threading
import warnings
from functools import lru_cache
from typing import Any, Final

import torch
from torch import Tensor, nn

from geneval_reward.errors import UsageError
from geneval_reward.support.imports import require
from geneval_reward.support.inference import precision_scope
from geneval_reward.vision.names import RUNTIMES

_PRECISIONS: Final = {"fp32": "f32", "bf16": "bf16"}
_KEPT: Final = 4  # compiled sizes; each holds a copy of the weights


class OpenVinoNetwork:
    """Calls a network that OpenVINO has compiled, once per image size, with as many threads as PyTorch may use.

    Images run one after the other: on a CPU that is as fast as a batch, and no image's numbers depend on its neighbours.
    May be called from several threads.

    Args:
        net: A float32 module on the CPU that takes `(1, 3, H, W)` and returns a tuple of tensors.
        device: Where it is to run, which must be a CPU.
        precision: `fp32` or `bf16`; bf16 only speeds up processors that have it.
        streams: Number of threads that may call at the same time. The cores are divided between them.

    Attributes:
        version: Name and version of the runtime, for fingerprints.

    Raises:
        DependencyError: If OpenVINO is not installed.
        UsageError: If the device is no CPU or the precision another one.

    Examples:
        >>> network = OpenVinoNetwork(SSDLite(), "cpu", "fp32")  # doctest: +SKIP
        >>> codes, logits = network(torch.zeros(2, 3, 300, 300))  # doctest: +SKIP
    """

    def __init__(self, net: nn.Module, device: torch.device | str, precision: str, *, streams: int = 1) -> None:
        if torch.device(device).type != "cpu":
            raise UsageError(
                f"device: expected 'cpu' with runtime='openvino', got '{device}'; pass device='cpu', or leave the runtime out"
            )
        if precision not in _PRECISIONS:
            raise UsageError(
                f"precision: expected one of {', '.join(_PRECISIONS)} with runtime='openvino', got {precision!r}"
            )
        # Without this, importing OpenVINO sends usage data to its makers. It goes on without the package.
        modules: dict[str, Any] = sys.modules
        modules.setdefault("openvino_telemetry", None)
        self._openvino: Any = require("openvino", "openvino", "runtime")
        self.version = f"openvino {self._openvino.__version__.partition('-')[0]}"
        self._net = net
        self._options = {
            "INFERENCE_PRECISION_HINT": _PRECISIONS[precision],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": streams,
            "ENABLE_CPU_PINNING": False,  # other processes compute on this machine too
        }
        self._lock = threading.Lock()
        self._compiled = lru_cache(_KEPT)(self._compile)

    def __call__(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Run images.

        Args:
            pixels: `(B, 3, H, W)` on the CPU.

        Returns:
            The network's outputs in float32, each `(B, ...)`.
        """
        with self._lock:
            compiled, idle = self._compiled(*pixels.shape[2:])
        try:
            request = idle.pop()
        except IndexError:
            request = compiled.create_infer_request()
        outputs = [torch.empty(len(pixels), *port.shape[1:]) for port in compiled.outputs]
        for row, image in enumerate(pixels.float().contiguous().split(1)):
            found = request.infer({0: image.numpy()}, share_inputs=True, share_outputs=True)
            for index, output in enumerate(outputs):
                output[row] = torch.from_numpy(found[index])[0]
        idle.append(request)
        return tuple(outputs)

    def _compile(self, height: int, width: int) -> tuple[Any, list[Any]]:
        """The network for one size, and a list for its requests that are not in use."""
        size = (1, 3, height, width)
        # Modes of the caller must not become part of the trace.
        with warnings.catch_warnings(), torch.inference_mode(False), precision_scope("fp32", "cpu"):
            # The tracer warns of shapes that become constants, which they are, and that it will be replaced.
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(self._net, torch.zeros(size), strict=False, check_trace=False)
            model = self._openvino.convert_model(traced, input=[(list(size), self._openvino.Type.f32)])
        return self._openvino.Core().compile_model(model, "CPU", self._options), []


def wants_openvino(runtime: str) -> bool:
    """Tell whether a `runtime` argument asks for OpenVINO.

    Raises:
        UsageError: If the runtime is unknown.

    Examples:
        >>> wants_openvino("torch")
        False
    """
    if runtime not in RUNTIMES:
        raise UsageError(f"runtime: expected one of {', '.join(RUNTIMES)}, got {runtime!r}")
    return runtime == "openvino"
