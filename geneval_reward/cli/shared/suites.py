"""What the commands that generate images share: prompt sets by name, subsets, and arguments of the generator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from geneval_reward.errors import FileError, UsageError
from geneval_reward.prompts import PromptSpec, read_prompts
from geneval_reward.prompts.subset import parse_size
from geneval_reward.support.files import parse_json

if TYPE_CHECKING:
    from geneval_reward.generate import Subset


def read_suite(name: str) -> tuple[PromptSpec, ...]:
    """Read the prompts that `--suite` names."""
    return read_prompts(name, suites={"pocket": _pocket_suite}, name="--suite")


def _pocket_suite() -> tuple[PromptSpec, ...]:
    # The pocket world loads torch, which reading a file of records does not need.
    from geneval_reward.pocket import pocket_suite

    return pocket_suite()


def check_suite(name: str, size: str | None) -> None:
    """Refuse a suite or the size of a subset that cannot be, without loading the pocket world."""
    if name != "pocket":
        read_suite(name)
    if size is not None and parse_size(size) is None:
        raise UsageError(f"subset: expected a number of prompts such as 60, or 10/task, got {size!r}")


def choose_subset(specs: Sequence[PromptSpec], size: str | None) -> Subset | None:
    """Choose the subset that `--subset` names; None for the whole set."""
    if size is None:
        return None
    from geneval_reward.generate import stratified_subset

    subset = stratified_subset(specs, size)
    return subset if len(subset.specs) < len(specs) else None


def call_arguments(pairs: Sequence[str] | None, **named: Any) -> dict[str, Any]:
    """Collect the arguments of the generator's calls from `--set name=value` and from options; those that are None are left out.

    Examples:
        >>> call_arguments(["height=512", "negative_prompt=blurry"], num_inference_steps=None)
        {'height': 512, 'negative_prompt': 'blurry'}
    """
    found = {name: value for name, value in named.items() if value is not None}
    for pair in pairs or ():
        name, equals, text = pair.partition("=")
        if not equals or not name.strip().isidentifier():
            raise typer.BadParameter(f"expected name=value, got {pair!r}", param_hint="--set")
        if name.strip() in found:
            raise typer.BadParameter(f"expected {name.strip()} once, got it twice", param_hint="--set")
        found[name.strip()] = read_value(text)
    return found


def read_value(text: str) -> Any:
    """Read a number, true, false, null or list as JSON writes it; anything else is text."""
    try:
        return parse_json(text)
    except FileError:
        return text.strip()
