"""`BlockPlan`: whole blocks and parts of blocks of a denoiser that are taken out, and how the rest is trained afterwards."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from geneval_reward.errors import UsageError
from geneval_reward.surgery.plan import Plan, find_part
from geneval_reward.surgery.seams import Seam, find_blocks, find_seams, recorded_calls, rerun, run_once
from geneval_reward.surgery.swaps import Swaps

How = Literal["zero", "identity"]
_EPSILON: Final = 1e-6


@dataclass(frozen=True, kw_only=True)
class BlockPlan(Plan, kind="blocks"):
    """Takes out blocks and parts of blocks, and says what of the rest a later training may change, and how fast.

    A block that is taken out hands its streams on as they came. A part of a block, such as `transformer_blocks.3.ff`, gives
    zeros, so that its residual branch is gone, or its own (normed and modulated) input, as HierarchicalPrune's released code
    does. A modulated norm keeps its normalisation and loses shift and scale; its gates are open.

    Attributes:
        removed: Names of blocks and of parts, as `removable` lists them.
        how: What stands in for parts: `zero` or `identity`. Identity is the worse of the two on the pocket model.
        frozen_before: A block; weights that are used before it are not trained.
        rates: Share of the learning rate for the weights of a block; those of others have all of it.
        chosen_by: How the cut was chosen: score, prompts, order.

    Raises:
        UsageError: If a field is not valid.

    Examples:
        >>> from geneval_reward.pocket import load_pipeline
        >>> from geneval_reward.surgery import fingerprint
        >>> pipeline = load_pipeline()
        >>> plan = BlockPlan(part="transformer", model=fingerprint(pipeline.transformer), removed=("transformer_blocks.5",))
        >>> with plan.apply(pipeline) as applied:
        ...     applied.removed_bytes
        1338624
    """

    removed: tuple[str, ...]
    how: How = "zero"
    frozen_before: str | None = None
    rates: Mapping[str, float] = field(default_factory=dict)
    chosen_by: str = ""

    def __post_init__(self) -> None:
        if self.how not in ("zero", "identity"):
            raise UsageError(f"how: expected zero or identity, got {self.how!r}")
        names: Any = self.removed
        if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
            raise UsageError(f"removed: expected names of blocks and parts, got {names!r}")
        for index, name in enumerate(self.removed):
            inside = [other for other in self.removed[:index] if f"{name}.".startswith(f"{other}.")]
            inside += [other for other in self.removed[:index] if other.startswith(f"{name}.")]
            if inside:
                raise UsageError(f"removed[{index}]: expected names that do not overlap, got {name} and {inside[0]}")
        for name, rate in self.rates.items():
            if not isinstance(rate, int | float) or not 0 <= rate <= 1:
                raise UsageError(f"rates[{name!r}]: expected a share in [0, 1], got {rate!r}")

    def change(self, pipeline: Any, model: nn.Module, swaps: Swaps) -> None:
        """Put stand-ins without weights in the place of what is removed."""
        units = removable(pipeline, self.part)
        for name in self.removed:
            if name not in units:
                raise UsageError(
                    f"removed: expected blocks of {self.part} and their parts, such as {next(iter(units))}, got {name}, which "
                    f"is none of the {len(units)} that can be taken out"
                )
            swaps.module(name, units[name].stand_in(self.how))
        for block in [self.frozen_before, *self.rates]:
            if block is not None and (block not in units or units[block].block is not None):
                raise UsageError(f"frozen_before, rates: expected blocks of {self.part}, got {block}")

    def optimizer_groups(self, pipeline: Any, learning_rate: float) -> list[dict[str, Any]]:
        """Group the weights that may be trained by learning rate, and freeze the others.

        AdamW does not see the scale of a gradient, so it is the learning rate of a block that is scaled.

        Args:
            pipeline: The pipeline, with the plan applied.
            learning_rate: That of weights without a rate of their own.

        Returns:
            `{"params": [...], "lr": rate, "name": block}`, for an optimizer; frozen weights no longer require gradients.
        """
        model = find_part(pipeline, self.part)
        frozen = names_before(pipeline, self.part, self.frozen_before) if self.frozen_before else []
        groups: dict[str, dict[str, Any]] = {}
        for name, weight in model.named_parameters():
            fixed = any(name.startswith(f"{prefix}.") for prefix in frozen)
            block = next((block for block in self.rates if name.startswith(f"{block}.")), "")
            rate = learning_rate * self.rates.get(block, 1.0)
            weight.requires_grad_(not fixed and rate > 0)
            if weight.requires_grad:
                groups.setdefault(block, {"params": [], "lr": rate, "name": block})["params"].append(weight)
        return list(groups.values())


@dataclass(frozen=True)
class Unit:
    """Something that can be taken out of a denoiser.

    Attributes:
        name: Its name in the model.
        block: The block that it is a part of; None for a block.
        parameters: Number of its weights.
        stand_in: Makes a module without weights for its place.
        hows: What can stand in for it; only attention and feed-forward parts have a choice.
    """

    name: str
    block: str | None
    parameters: int
    stand_in: Callable[[How], nn.Module]
    hows: tuple[How, ...] = ("zero",)


def removable(pipeline: Any, part: str = "transformer") -> dict[str, Unit]:
    """Find the blocks of a denoiser, and those of their parts that can be taken out, by running it once.

    Args:
        pipeline: A diffusers pipeline.
        part: The component to look into.

    Returns:
        Units by name, block by block. Parts are modules of a block with weights: those whose outputs have the shapes of their
        inputs (attention, feed-forward), norms that an embedding modulates, and linear layers.

    Raises:
        UsageError: If the model has no blocks.
    """
    model = find_part(pipeline, part)
    run = replayed(pipeline, model)
    blocks = find_blocks(model, run)
    names = [f"{block}.{name}" for block, seam in blocks.items() for name, _ in seam.module.named_children()]
    names = [name for name in names if _count(model.get_submodule(name))]
    parts = find_seams(model, names, run)
    found: dict[str, Unit] = {}
    for block, seam in blocks.items():
        found[block] = Unit(block, None, _count(seam.module), partial(_block_stand_in, seam))
        for name, inner in parts.items():
            stand_in = _stand_in(seam, inner) if name.startswith(f"{block}.") else None
            if stand_in is not None:
                hows: tuple[How, ...] = ("zero", "identity") if stand_in == inner.bypass else ("zero",)
                found[name] = Unit(name, block, _count(inner.module), stand_in, hows)
    return found


def replayed(pipeline: Any, model: nn.Module) -> Callable[[], Any]:
    """Run a pipeline once, and return a function that repeats the call of its model, without text encoders."""
    with recorded_calls({"": model}) as calls:
        run_once(pipeline)
    call = calls[""]
    return torch.no_grad()(lambda: model(*call.args, **call.kwargs))


def names_before(pipeline: Any, part: str, block: str) -> list[str]:
    """Name the blocks and other modules of a denoiser that have run when a block begins.

    Raises:
        UsageError: If there is no such block.
    """
    model = find_part(pipeline, part)
    run = replayed(pipeline, model)
    blocks = find_blocks(model, run)
    if block not in blocks:
        raise UsageError(f"block: expected one of {', '.join(blocks)}, got {block!r}")
    lists = {name.rpartition(".")[0] for name in blocks}
    others = {name: child for name, child in model.named_children() if name not in lists}
    with recorded_calls(others | {name: seam.module for name, seam in blocks.items()}) as calls:
        run()
    order = list(calls)
    return order[: order.index(block)]


class Unmodulated(nn.Module):
    """Stands in for a norm that an embedding modulates: the norm alone, without shift and scale, and with open gates.

    Args:
        seam: The norm.
        gates: For each output whether it is a gate; the other outputs of one vector per sample are shifts and scales.
    """

    def __init__(self, seam: Seam, gates: Sequence[bool]) -> None:
        super().__init__()
        self.norm = next((module for module in seam.module.modules() if isinstance(module, nn.LayerNorm)), None)
        self.stream = next(name for name, value in seam.call.arguments.items() if _rank(value) > 2)
        self.kinds = [
            "normed" if _rank(output) > 2 else "gate" if gate else "shift"
            for output, gate in zip(seam.call.outputs, gates, strict=True)
        ]
        self.bare = not isinstance(seam.call.output, tuple | list)
        self.signature = inspect.signature(seam.module.forward)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Normalise, and give constants in the place of the modulation."""
        x: Tensor = self.signature.bind(*args, **kwargs).arguments[self.stream]
        normed = functional.layer_norm(x, x.shape[-1:], eps=_EPSILON) if self.norm is None else self.norm(x)
        zeros = torch.zeros_like(x[:, 0])
        values = {"normed": normed, "gate": torch.ones_like(zeros), "shift": zeros}
        found = tuple(values[kind] for kind in self.kinds)
        return found[0] if self.bare else found


class ZeroOutput(nn.Module):
    """Stands in for a linear layer: zeros of its output's width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """Zeros of the input's shape but for the last dimension."""
        return x.new_zeros(*x.shape[:-1], self.width)


def _block_stand_in(seam: Seam, how: How) -> nn.Module:
    return seam.bypass()


def _stand_in(block: Seam, seam: Seam) -> Callable[[How], nn.Module] | None:
    """Find what can stand in for a part of a block; None if nothing can."""
    ranks = [_rank(value) for value in seam.call.arguments.values()]
    if 2 in ranks and max(ranks) > 2:  # an embedding of each sample beside a stream of tokens
        return lambda how: Unmodulated(seam, _find_gates(block, seam))
    if isinstance(seam.module, nn.Linear) and seam.continues == (None,):
        return partial(_zero_output, seam)
    try:
        seam.bypass()
    except UsageError:
        return None
    return seam.bypass


def _zero_output(seam: Seam, how: How) -> nn.Module:
    if how != "zero":
        raise UsageError(f"how: expected zero for {seam.name}, whose output is wider than its input, got {how}")
    return ZeroOutput(seam.call.outputs[0].shape[-1])


def _find_gates(block: Seam, seam: Seam) -> list[bool]:
    """Find the outputs of a norm that open a branch of its block: with all others at zero, they change the block's output."""
    name = seam.name.removeprefix(f"{block.name}.")
    count = len(seam.call.outputs)

    def outputs(gates: Sequence[bool]) -> tuple[Any, ...]:
        block.module.set_submodule(name, Unmodulated(seam, gates))
        with torch.no_grad():
            return rerun(block.module, block.call, {})

    try:
        closed = outputs([False] * count)
        found = []
        for index, output in enumerate(seam.call.outputs):
            opened = outputs([place == index for place in range(count)]) if _rank(output) == 2 else closed
            pairs = zip(opened, closed, strict=True)
            found.append(any(isinstance(one, Tensor) and not torch.equal(one, other) for one, other in pairs))
    finally:
        block.module.set_submodule(name, seam.module)
    return found


def _rank(value: Any) -> int:
    return value.ndim if isinstance(value, Tensor) and value.is_floating_point() else 0


def _count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())
