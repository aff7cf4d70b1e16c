"""Operators that take the place of attention, feed-forward parts or pairs of blocks; each keeps the call of what it replaces.

An operator is a function `operator(place, **options)` that returns a module for a `Place` and leaves the originals as they are.
`OPERATORS` has those of this file, and `module:function` names one of yours.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from geneval_reward.errors import UsageError
from geneval_reward.support.imports import import_object, is_import_path
from geneval_reward.surgery.seams import Seam, rerun, signature_of

Operator = Callable[..., nn.Module]
Kernel = Callable[..., Tensor]


@dataclass(frozen=True)
class Place:
    """Where an operator goes.

    Attributes:
        seams: The modules that it replaces, each with a recorded call: one, or two consecutive blocks.
        block: The block that they are a part of, or the first of them.
    """

    seams: tuple[Seam, ...]
    block: Seam

    @property
    def seam(self) -> Seam:
        """The first module."""
        return self.seams[0]


def renew(place: Place) -> nn.Module:
    """Copy the module with new random weights: the control that shows what the training of an operator can reach."""
    new = copy.deepcopy(place.seam.module)
    layers: list[Any] = [module for module in new.modules() if hasattr(module, "reset_parameters")]
    for layer in layers:
        layer.reset_parameters()
    if not layers:
        raise UsageError(f"renew: expected a module with layers that can be drawn anew, got {place.seam.name}")
    return new.requires_grad_(True)


def mlp(place: Place, ratio: float = 0.5) -> nn.Module:
    """A feed-forward part whose hidden layer has `ratio` times its width, with new weights.

    Raises:
        UsageError: If the module is not two linear layers with an activation between them.
    """
    seam = place.seam
    layers = [(name, layer) for name, layer in seam.module.named_modules() if isinstance(layer, nn.Linear)]
    if len(layers) != 2 or layers[0][1].in_features != layers[1][1].out_features:
        raise UsageError(f"mlp: expected a feed-forward part of two linear layers, got {seam.name} with {len(layers)}")
    (up_name, up), (down_name, down) = layers
    inner = round(ratio * down.in_features)
    if inner < 1:
        raise UsageError(f"ratio: expected at least one hidden unit, got {ratio} times {down.in_features}")
    new = copy.deepcopy(seam.module)
    gates = up.out_features // down.in_features  # 2 for a gated activation
    made = {"device": up.weight.device, "dtype": up.weight.dtype}
    new.set_submodule(up_name, nn.Linear(up.in_features, gates * inner, bias=up.bias is not None, **made))
    new.set_submodule(down_name, nn.Linear(inner, down.out_features, bias=down.bias is not None, **made))
    return new.requires_grad_(True)


def window_attention(place: Place, radius: int = 2, grid: Sequence[int] | None = None) -> nn.Module:
    """Attention in which an image token sees the image tokens of its neighbourhood, and all text; text sees everything.

    The mask is dense, so this computes what a window kernel would, and is not faster.

    Args:
        place: An attention of image tokens to one another.
        radius: Rows and columns to each side.
        grid: Rows and columns of the image; a square if None.
    """
    masks: dict[tuple[int, int], Tensor] = {}

    def kernel(query: Tensor, key: Tensor, value: Tensor, image: slice, scale: float) -> Tensor:
        length, count = query.shape[2], image.stop - image.start
        if (length, count) not in masks:
            rows, columns = grid or (round(count**0.5),) * 2
            if rows * columns != count:
                raise UsageError(f"grid: expected rows and columns of {count} image tokens, got {rows} x {columns}")
            place = torch.arange(count)
            place = torch.stack([place // columns, place % columns], 1)
            seen = torch.ones(length, length, dtype=torch.bool)
            seen[image, image] = ((place[:, None] - place).abs() <= radius).all(2)
            masks[length, count] = seen
        mask = masks[length, count].to(query.device)
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)

    return _Attention(place, kernel)


def linear_attention(place: Place) -> nn.Module:
    """Attention in which image tokens see one another through a kernel, at a cost linear in their number, and text by softmax.

    Both parts share a denominator, as in LoLCATs (arXiv 2410.10254): with `f(x) = elu(x) + 1` and a weight g per head that is
    learned, an image token i weighs a text token j by `exp(q_i k_j)` and an image token by `g f(q_i) f(k_j)`.

    Args:
        place: An attention of image tokens to one another.
    """
    heads, width = _queries(place).shape[1:4:2]
    made = next(place.seam.module.parameters())
    log_weight = nn.Parameter(torch.full((heads, 1, 1), -float(torch.tensor(width).log()), device=made.device))

    def kernel(query: Tensor, key: Tensor, value: Tensor, image: slice, scale: float) -> Tensor:
        text = torch.ones(query.shape[2], dtype=torch.bool, device=query.device)
        text[image] = False
        logits = query[:, :, image] @ key[:, :, text].mT * scale
        peak = logits.amax(-1, keepdim=True).detach() if text.any() else query.new_zeros(())
        softmax = (logits - peak).exp()
        q, k = (functional.elu(part[:, :, image]) + 1 for part in (query, key))
        weight = (log_weight.to(query.dtype) - peak).exp()
        total = softmax @ value[:, :, text] + weight * (q @ (k.mT @ value[:, :, image]))
        norm = softmax.sum(-1, keepdim=True) + weight * (q @ k.sum(2, keepdim=True).mT)
        out = torch.empty_like(value)
        out[:, :, image] = total / norm
        if text.any():
            out[:, :, text] = functional.scaled_dot_product_attention(query[:, :, text], key, value, scale=scale)
        return out

    new = _Attention(place, kernel)
    new.register_parameter("log_weight", log_weight)
    return new


def parallel(place: Place) -> nn.Module:
    """Two consecutive blocks side by side on the same input, whose changes a linear layer per stream merges.

    The weights start from the blocks, and the merging layer from the sum of the changes.
    """
    if len(place.seams) != 2:
        raise UsageError(f"parallel: expected a pair of blocks, got {place.seam.name} alone; plan it with unit 'pair'")
    return Parallel(*place.seams)


OPERATORS: Final[Mapping[str, Operator]] = MappingProxyType(
    {
        "renew": renew,
        "mlp": mlp,
        "window_attention": window_attention,
        "linear_attention": linear_attention,
        "parallel": parallel,
    }
)


def find_operator(name: str) -> Operator:
    """Find an operator by its name, or by `module:function`.

    Raises:
        UsageError: If there is none.
    """
    if name in OPERATORS:
        return OPERATORS[name]
    if not is_import_path(name):
        raise UsageError(f"operator: expected one of {', '.join(OPERATORS)} or module:function, got {name!r}")
    found: Operator = import_object(name, "operator")
    return found


class Parallel(nn.Module):
    """Runs two blocks on the same input and adds what a linear layer per stream makes of their changes.

    Args:
        first: The first block, with a recorded call.
        second: The block behind it; its outputs decide which streams there are.
    """

    def __init__(self, first: Seam, second: Seam) -> None:
        super().__init__()
        if any(b not in (a, None) for a, b in zip(first.continues, second.continues, strict=True)):
            raise UsageError(f"parallel: expected blocks of the same streams, got {first.name} and {second.name}")
        self.signature = signature_of(first.module)
        self.continues = second.continues  # the last block of SD3 has no text left
        self.bare = not isinstance(second.call.output, tuple | list)
        self.blocks = nn.ModuleList([copy.deepcopy(first.module), copy.deepcopy(second.module)])
        self.merges = nn.ModuleList()
        for name in self.continues:
            if name is not None:
                stream: Tensor = first.call.arguments[name]
                width = stream.shape[-1]
                merge = nn.Linear(2 * width, width, device=stream.device, dtype=stream.dtype)
                nn.init.zeros_(merge.bias)
                with torch.no_grad():
                    merge.weight.copy_(torch.eye(width).repeat(1, 2))
                self.merges.append(merge)
        self.requires_grad_(True)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run both blocks and merge."""
        given = self.signature.bind(*args, **kwargs).arguments
        outputs = [block(*args, **kwargs) for block in self.blocks]
        first, second = ([output] if isinstance(output, Tensor) else list(output) for output in outputs)
        merges, found = iter(self.merges), list[Tensor | None]()
        for name, a, b in zip(self.continues, first, second, strict=True):
            if name is None:
                found.append(None)
            else:
                x = given[name]
                found.append(x + next(merges)(torch.cat([a - x, b - x], -1)))
        return found[0] if self.bare else tuple(found)


class _Attention(nn.Module):
    """An attention with its weights, norms and rotations, whose innermost product is another one."""

    def __init__(self, place: Place, kernel: Kernel) -> None:
        super().__init__()
        self.attention = copy.deepcopy(place.seam.module).requires_grad_(True)
        self.signature = signature_of(place.seam.module)
        self.kernel = kernel
        self.first, self.behind = _find_text_tokens(place)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Take and return what the attention does."""
        text = kwargs.get("encoder_hidden_states")
        if isinstance(text, Tensor) and text.shape[1] != self.first + self.behind:
            raise UsageError(
                f"encoder_hidden_states: expected {self.first + self.behind} text tokens, as when the plan was applied, got "
                f"{text.shape[1]}"
            )
        with _Inner(self._product):
            return self.attention(*args, **kwargs)

    def _product(
        self, query: Tensor, key: Tensor, value: Tensor, *args: Any, scale: float | None = None, **kwargs: Any
    ) -> Tensor:
        if (args[0] if args else kwargs.get("attn_mask")) is not None:
            raise UsageError("operator: expected an attention without a mask of its own, got one with a mask")
        image = slice(self.first, query.shape[2] - self.behind)
        return self.kernel(query, key, value, image, query.shape[-1] ** -0.5 if scale is None else scale)


class _Inner(TorchFunctionMode):
    """Exchanges `scaled_dot_product_attention` within a `with` block, whatever module calls it."""

    def __init__(self, product: Kernel) -> None:
        super().__init__()
        self.product = product

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        call = self.product if func is functional.scaled_dot_product_attention else func
        return call(*args, **(kwargs or {}))


def _queries(place: Place, changed: Mapping[str, Any] | None = None) -> Tensor:
    """Queries (B, heads, tokens, width) of an attention when its block is called as recorded, with some arguments changed."""
    inside, found = list[bool](), list[tuple[Tensor, Tensor]]()

    def product(query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if inside:
            found.append((query, key))
        return functional.scaled_dot_product_attention(query, key, *args, **kwargs)

    hooks = [
        place.seam.module.register_forward_pre_hook(lambda *_: inside.append(True)),
        place.seam.module.register_forward_hook(lambda *_: inside.clear()),
    ]
    try:
        with torch.no_grad(), _Inner(product):
            rerun(place.block.module, place.block.call, changed or {})
    finally:
        for hook in hooks:
            hook.remove()
    if len(found) != 1 or found[0][0].shape != found[0][1].shape:
        raise UsageError(
            f"operator: expected an attention of tokens to one another by scaled_dot_product_attention, got {place.seam.name}; "
            "attention to text alone and linear attention have no place for another product"
        )
    return found[0][0]


def _find_text_tokens(place: Place) -> tuple[int, int]:
    """Count the tokens before and behind those of the image in the product: they do not change with the image."""
    image = place.block.call.arguments.get("hidden_states")
    if not isinstance(image, Tensor):
        raise UsageError(f"operator: expected a block with an argument hidden_states, got {place.block.name}")
    whole, other = _queries(place), _queries(place, {"hidden_states": image.flip(-1) + 1})
    changed = (whole != other).any(3).any(1).any(0).nonzero().flatten()
    return int(changed[0]), whole.shape[2] - 1 - int(changed[-1])
