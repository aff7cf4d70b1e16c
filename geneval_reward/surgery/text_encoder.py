"""`TextEncoderPlan`: sub-blocks of a text encoder that are skipped, or replaced by a neighbour."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from geneval_reward.errors import UsageError
from geneval_reward.surgery.plan import Plan
from geneval_reward.surgery.sub_blocks import SubBlock, find_sub_blocks, skip_and_reuse
from geneval_reward.surgery.swaps import Swaps


@dataclass(frozen=True, kw_only=True)
class TextEncoderPlan(Plan, kind="text_encoder"):
    """Skip sub-blocks of a text encoder, and let neighbours do the work of some of them.

    Sub-blocks are counted from 0 in the order in which they run; in T5, CLIP and Gemma 2 even numbers are attention and odd ones
    feed-forward. `geneval_reward.surgery.sub_blocks` says what becomes of them. No weights change.

    Attributes:
        skip: Numbers of the sub-blocks that go, in the order in which they were chosen.
        reuse: Pairs `(place, other)`: in the place of a skipped sub-block the kept sub-block `other` of the same kind is called.
        sparsity: Removed parameters as a share of all of the encoder, embedding included; for the record.
        discrepancy: What the search minimised; for the record. None if there was none.
        calibration: Digest of the prompts that the search used; empty if there were none.

    Examples:
        >>> from geneval_reward.pocket import load_pipeline
        >>> from geneval_reward.surgery import fingerprint
        >>> pipeline = load_pipeline()
        >>> plan = TextEncoderPlan(part="text_encoder", model=fingerprint(pipeline.text_encoder), skip=(9, 10))
        >>> with plan.apply(pipeline) as applied:
        ...     applied.removed_bytes > 100_000
        True
    """

    skip: tuple[int, ...] = ()
    reuse: tuple[tuple[int, int], ...] = ()
    sparsity: float | None = None
    discrepancy: float | None = None
    calibration: str = ""

    def __post_init__(self) -> None:
        pairs = all(isinstance(pair, tuple) and len(pair) == 2 for pair in self.reuse)
        if not isinstance(self.skip, tuple) or not isinstance(self.reuse, tuple) or not pairs:
            raise UsageError(
                f"expected skip as a list of numbers and reuse as a list of pairs, got {self.skip!r} and {self.reuse!r}"
            )

    def change(self, pipeline: Any, model: nn.Module, swaps: Swaps) -> None:
        """Skip and re-use the sub-blocks that the plan names."""
        skip_and_reuse(swaps, find_sub_blocks(model), self.skip, dict(self.reuse))


def parameter_share(model: nn.Module, sub_blocks: Sequence[SubBlock], numbers: Iterable[int]) -> float:
    """Parameters of some sub-blocks as a share of all parameters of the encoder, its embedding included.

    This is how Skrr counts sparsity (arXiv 2502.08690, Table 2): T5-XXL has 4.762 B with the embedding, an attention sub-block
    67.1 M and a feed-forward one 125.8 M.
    """
    whole = sum(parameter.numel() for parameter in model.parameters())
    return sum(sub_blocks[number].parameters for number in numbers) / whole
