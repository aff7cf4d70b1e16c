"""`QuantizePlan`: the linear layers of a model stored in fewer bits, by the library that does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from geneval_reward.errors import UsageError
from geneval_reward.support.imports import require
from geneval_reward.surgery.plan import Plan, find_part, fingerprint
from geneval_reward.surgery.swaps import Swaps

_BLOCK: Final = 64
KINDS: Final = ("nf4", "qint4", "qint8", "int8", "int4")


@dataclass(frozen=True, kw_only=True)
class QuantizePlan(Plan, kind="quantize"):
    """Store the weights of linear layers in fewer bits. Embeddings, norms, convolutions and biases stay as they are.

    | how | library | bytes of a 1024 x 1024 layer (float32: 4,194,304) | where |
    |---|---|---|---|
    | `nf4` | bitsandbytes, blocks of 64, scales quantised too | 540,740 | CPU, CUDA |
    | `qint4` | optimum-quanto, groups of 128 | 589,832 | CPU, CUDA |
    | `qint8` | optimum-quanto | 1,052,680 | CPU, CUDA |
    | `int8` | torchao | 1,053,696 | CPU, CUDA |
    | `int4` | torchao, with the package mslk | packed | CUDA only |

    torchao's `IntxWeightOnlyConfig` is not here: it keeps four-bit values in bytes. What is computed stays in the model's own
    precision, so on most hardware this saves memory, not time.

    Attributes:
        how: One of the kinds above.
        skip: Layers whose names hold one of these texts stay as they are.

    Examples:
        >>> QuantizePlan(part="transformer", model="SD3Transformer2DModel:0123456789abcdef", how="int5")
        Traceback (most recent call last):
        ...
        geneval_reward.errors.UsageError: how: expected one of nf4, qint4, qint8, int8, int4, got 'int5'
    """

    how: str
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.how not in KINDS:
            raise UsageError(f"how: expected one of {', '.join(KINDS)}, got {self.how!r}")
        if not isinstance(self.skip, tuple) or not all(isinstance(name, str) and name for name in self.skip):
            raise UsageError(f"skip: expected parts of names, got {self.skip!r}")

    def change(self, pipeline: Any, model: nn.Module, swaps: Swaps) -> None:
        """Replace the linear layers of the model by packed ones.

        Raises:
            UsageError: If the kind needs other hardware, or the model has no linear layer to quantise.
            DependencyError: If its library is not installed.
        """
        layers = {
            name: layer
            for name, layer in model.named_modules(remove_duplicate=False)
            if type(layer) is nn.Linear
            and type(layer.weight) is nn.Parameter  # torchao packs within the layer
            and not any(text in name for text in self.skip)
        }
        if not layers:
            raise UsageError(
                f"{self.part}: expected linear layers in full precision, got none in {type(model).__name__}; it may be "
                "quantised already, or skip may name all of them"
            )
        device = next(iter(layers.values())).weight.device
        if self.how == "int4" and device.type != "cuda":
            raise UsageError(
                f"how: expected a CUDA device for int4, which torchao packs for its kernels only, got {device.type}; take nf4 "
                "or qint4"
            )
        pack = _packer(self.how)
        # A sub-block that is re-used stands in two places and is packed once.
        packed: dict[int, nn.Module] = {}
        for name, layer in layers.items():
            if id(layer) not in packed:
                packed[id(layer)] = pack(layer)
            swaps.module(name, packed[id(layer)])


def quantize(pipeline: Any, part: str, how: str, *, skip: tuple[str, ...] = ()) -> QuantizePlan:
    """Make a plan that quantises a part of a pipeline.

    Args:
        pipeline: The pipeline.
        part: Its component, such as `transformer` or `text_encoder`.
        how: One of `KINDS`, which the table of `QuantizePlan` explains.
        skip: Layers whose names hold one of these texts stay as they are.

    Raises:
        UsageError: If there is no such part or kind.

    Examples:
        >>> from geneval_reward.pocket import load_pipeline
        >>> quantize(load_pipeline(), "transformer", "qint8").how
        'qint8'
    """
    return QuantizePlan(part=part, model=fingerprint(find_part(pipeline, part)), how=how, skip=skip)


class PackedLinear(nn.Module):
    """A layer whose packed weight is out of sight.

    T5 casts what enters a layer to the type of its weight, which is bytes in bitsandbytes' layers; their own integration in
    transformers leaves those layers alone for this reason.

    Args:
        layer: A quantised layer.
    """

    weight = None

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden: Tensor) -> Tensor:
        """Apply the packed layer."""
        result: Tensor = self.layer(hidden)
        return result


def _packer(how: str) -> Callable[[nn.Linear], nn.Module]:
    if how == "nf4":
        return _nf4
    if how in ("qint4", "qint8"):
        return lambda layer: _quanto(layer, how)
    return lambda layer: _torchao(layer, how)


class FlatNf4(nn.Module):
    """A linear layer in nf4 whose blocks run on over the ends of rows, for widths that are no multiple of a block.

    bitsandbytes 0.50 reads such weights wrongly on a CPU, without a word: its rows have to begin with a block. Here the weight
    is packed as one row after another, 64 values each.

    Args:
        layer: The layer.
        library: bitsandbytes.
    """

    def __init__(self, layer: nn.Linear, library: Any) -> None:
        super().__init__()
        weight = layer.weight.detach()
        flat = nn.functional.pad(weight.flatten(), (0, -weight.numel() % _BLOCK)).view(-1, _BLOCK)
        packed = library.nn.Params4bit(flat.clone(), requires_grad=False, quant_type="nf4", blocksize=_BLOCK)
        self.weight = packed.to(weight.device)
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone(), requires_grad=False)
        self.shape = weight.shape
        self.unpack = library.functional.dequantize_4bit

    def forward(self, hidden: Tensor) -> Tensor:
        """Unpack the weight and apply it to inputs `(..., in_features)`; returns `(..., out_features)`."""
        flat = self.unpack(self.weight.data, self.weight.quant_state).flatten()
        weight = flat[: self.shape.numel()].view(self.shape).to(hidden.dtype)
        return nn.functional.linear(hidden, weight, self.bias)


def _nf4(layer: nn.Linear) -> nn.Module:
    library = require("bitsandbytes", "quantize", "how: nf4")
    if layer.in_features % _BLOCK:
        return PackedLinear(FlatNf4(layer, library)).train(layer.training)
    packed = library.nn.Linear4bit(
        layer.in_features,
        layer.out_features,
        bias=False,
        compute_dtype=layer.weight.dtype,
        quant_type="nf4",
        device="meta",
    )
    # Where the processor allows it, the first call would repack the weight for a kernel that wants widths of whole blocks.
    packed.support_avx512bf16_for_cpu = False
    packed.weight = library.nn.Params4bit(layer.weight.detach().clone(), requires_grad=False, quant_type="nf4")
    packed.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone(), requires_grad=False)
    return PackedLinear(packed.to(layer.weight.device)).train(layer.training)


def _quanto(layer: nn.Linear, how: str) -> nn.Module:
    library = require("optimum.quanto", "quantize", f"how: {how}")
    packed = library.QLinear.from_module(layer, weights=getattr(library, how), activations=None)
    packed.freeze()
    module: nn.Module = packed.train(layer.training).requires_grad_(False)
    return module


def _torchao(layer: nn.Linear, how: str) -> nn.Module:
    library = require("torchao.quantization", "quantize", f"how: {how}")
    config = library.Int8WeightOnlyConfig() if how == "int8" else library.Int4WeightOnlyConfig()
    holder = nn.Sequential(nn.Linear(1, 1))
    copy = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
    copy.weight = nn.Parameter(layer.weight.detach().clone(), requires_grad=False)
    if layer.bias is not None:
        copy.bias = nn.Parameter(layer.bias.detach().clone(), requires_grad=False)
    holder[0] = copy.train(layer.training)
    with torch.no_grad():
        library.quantize_(holder, config)
    return holder[0]
