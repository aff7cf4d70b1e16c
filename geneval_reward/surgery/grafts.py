"""`GraftPlan`: parts of a denoiser that are exchanged for other operators, and how those are trained to stand in for them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from geneval_reward.errors import UsageError
from geneval_reward.surgery.blocks import replayed
from geneval_reward.surgery.operators import Place, find_operator
from geneval_reward.surgery.plan import Plan, find_part, fingerprint
from geneval_reward.surgery.seams import find_blocks, find_seams
from geneval_reward.surgery.swaps import Swaps

Loss = Literal["l1", "l2", "huber"]


@dataclass(frozen=True, kw_only=True)
class GraftPlan(Plan, kind="graft"):
    """Exchanges parts of a denoiser for other operators.

    Attributes:
        units: What is exchanged: names of parts, such as `transformer_blocks.3.ff`, or of two consecutive blocks, joined by `+`.
        operator: One of `geneval_reward.surgery.operators.OPERATORS`, or `module:function`.
        options: Arguments of the operator.
        loss: What its regression minimises: `l1`, `l2` or `huber`.

    Raises:
        UsageError: If a field is not valid.
    """

    units: tuple[str, ...]
    operator: str
    options: Mapping[str, Any] = field(default_factory=dict)
    loss: Loss = "l2"

    def __post_init__(self) -> None:
        find_operator(self.operator)
        if self.loss not in ("l1", "l2", "huber"):
            raise UsageError(f"loss: expected l1, l2 or huber, got {self.loss!r}")
        names: Any = self.units
        if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
            raise UsageError(f"units: expected names of parts, got {names!r}")
        single = [name for unit in names for name in unit.split("+")]
        if len(set(single)) < len(single):
            raise UsageError(f"units: expected every module once, got {', '.join(names)}")

    def change(self, pipeline: Any, model: nn.Module, swaps: Swaps) -> None:
        """Put new operators in the place of the units."""
        run, make = replayed(pipeline, model), find_operator(self.operator)
        blocks = find_blocks(model, run)
        names = [name for unit in self.units for name in unit.split("+")]
        known = {name for name, _ in model.named_modules()}
        for name in names:
            if name not in known:
                raise UsageError(f"units: expected parts of {self.part}, got {name}, which it does not have")
        seams = find_seams(model, names, run)
        for unit in self.units:
            first, *more = unit.split("+")
            block = next((seam for name, seam in blocks.items() if f"{first}.".startswith(f"{name}.")), None)
            if block is None or not {first, *more} <= seams.keys():
                raise UsageError(f"units: expected blocks or parts of blocks that run, got {unit}")
            swaps.module(first, make(Place((seams[first], *(seams[name] for name in more)), block), **self.options))
            for name in more:
                swaps.module(name, seams[name].bypass())


def plan_graft(
    pipeline: Any,
    unit: str,
    operator: str,
    *,
    layers: str | Sequence[int] = "all",
    errors: Mapping[str, float] | None = None,
    options: Mapping[str, Any] | None = None,
    loss: Loss | None = None,
    part: str = "transformer",
) -> GraftPlan:
    """Choose the layers of a graft.

    Args:
        pipeline: The model.
        unit: Name of the part within its block, such as `ff` or `attn`; or `pair` for two consecutive blocks.
        operator: The operator.
        layers: `all`; `interleaved`, every second one, as blocks 1, 3, ..; `top:4`, the four with the smallest `errors`; or
            indices among the blocks that have such a part.
        errors: Held-out error of each unit, from a regression of all of them.
        options: Arguments of the operator.
        loss: What the regression minimises; None for `l1` in attention and `l2` elsewhere, as published.
        part: The component of the pipeline.

    Raises:
        UsageError: If no block has such a part, or the layers are none of these forms.

    Examples:
        >>> from geneval_reward.pocket import load_pipeline
        >>> plan_graft(load_pipeline(), "ff", "mlp", layers="interleaved", options={"ratio": 0.5}).units[:2]
        ('transformer_blocks.1.ff', 'transformer_blocks.3.ff')
    """
    model = find_part(pipeline, part)
    units = graft_units(pipeline, unit, part)
    if isinstance(layers, str):
        if layers in ("all", "interleaved"):
            chosen = units[1::2] if layers == "interleaved" else units
        elif top := re.fullmatch(r"top:(\d+)", layers):
            if errors is None or not set(units) <= errors.keys():
                raise UsageError(
                    f"errors: expected a held-out error of each of the {len(units)} units for {layers}, got {errors}"
                )
            best = sorted(units, key=lambda name: errors[name])[: int(top[1])]
            chosen = [name for name in units if name in best]
        else:
            raise UsageError(f"layers: expected all, interleaved, top:N or indices, got {layers!r}")
    else:
        wrong = [index for index in layers if not 0 <= index < len(units)]
        if wrong:
            raise UsageError(f"layers: expected indices from 0 to {len(units) - 1}, got {wrong[0]}")
        chosen = [units[index] for index in layers]
    kind: Loss = loss or ("l1" if unit.startswith("attn") else "l2")
    return GraftPlan(
        part=part,
        model=fingerprint(model),
        units=tuple(chosen),
        operator=operator,
        options=dict(options or {}),
        loss=kind,
    )


def graft_units(pipeline: Any, unit: str, part: str = "transformer") -> list[str]:
    """Name the units of a kind, in the order in which they run.

    Raises:
        UsageError: If there are none.
    """
    model = find_part(pipeline, part)
    blocks = list(find_blocks(model, replayed(pipeline, model)))
    if unit == "pair":
        pairs = zip(blocks[::2], blocks[1::2], strict=False)
        found = [f"{a}+{b}" for a, b in pairs if a.rpartition(".")[0] == b.rpartition(".")[0]]
    else:
        found = [
            f"{block}.{unit}"
            for block in blocks
            if any(name == unit for name, _ in model.get_submodule(block).named_children())
        ]
    if not found:
        children = sorted({name for block in blocks for name, _ in model.get_submodule(block).named_children()})
        raise UsageError(f"unit: expected pair or one of {', '.join(children)}, got {unit!r}")
    return found
