"""The grammar of every `prompts=` argument, `--suite` and `--prompts` option of the package."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final, Literal

from geneval_reward.errors import FileError, SpecError, UsageError
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.prompts.subset import Size, choose_evenly, parse_size
from geneval_reward.prompts.suite import official_suite, resolve
from geneval_reward.prompts.training import DEFAULT_MIX, iter_training_prompts, training_prompts
from geneval_reward.support.files import read_lines

Prompts = int | str | Sequence[PromptSpec | Mapping[str, Any] | str]
"""What `read_prompts` accepts."""

OFFICIAL: Final = ("suite", "official")
"""The names of the benchmark's own 553 prompts."""


def read_prompts(
    prompts: Prompts | os.PathLike[str] | Iterable[Any],
    *,
    seed: int = 0,
    numbers: Literal["official", "training"] = "official",
    suites: Mapping[str, Callable[[], Iterable[PromptSpec]]] | None = None,
    unique: bool = False,
    name: str = "prompts",
) -> tuple[PromptSpec, ...]:
    """Read prompts, however they are named.

    | `prompts` | what it means |
    |---|---|
    | `60` or `"60"` | 60 prompts in all, spread over the tasks |
    | `"10/task"` | ten prompts of each task |
    | `"suite"` or `"official"` | the benchmark's 553 prompts |
    | another name of `suites` | that set, such as `"pocket"` |
    | a path | a file with one record, or one sentence that `PromptSpec.from_text` reads, per line |
    | a list | specs, records, records as JSON, or such sentences |

    Args:
        prompts: One of the forms in the table.
        seed: Chooses the prompts where a number is asked for.
        numbers: Where a number of prompts comes from: the official suite, equally many of each task; or
            `training_prompts`, which draws tasks with the weights of `DEFAULT_MIX` and nothing that is in the official suite.
        suites: Further sets by name. Rooms above this one bring theirs, such as that of the pocket world.
        unique: Whether a record that comes twice is an error.
        name: What error messages call the argument.

    Returns:
        At least one spec. Prompts chosen from the official suite are in its order.

    Raises:
        SpecError: If a record or text is not valid or there is none; the message names the line or index.
        UsageError: If `prompts` is none of the forms, or more prompts are asked for than there are.

    Examples:
        >>> specs = read_prompts("10/task")
        >>> len(specs), specs[0].tag
        (60, 'single_object')
        >>> [spec.prompt for spec in read_prompts(["a photo of a bench"])]
        ['a photo of a bench']
    """
    suites = suites or {}
    size = _size(prompts, name)
    if size is not None:
        return _draw(size, seed, numbers, name)
    if isinstance(prompts, str | os.PathLike):
        text = os.fspath(prompts)
        if text in OFFICIAL:
            specs = official_suite()
        elif text in suites:
            specs = tuple(suites[text]())
        else:
            specs = _read_file(text, tuple(suites), name)
    elif isinstance(prompts, Iterable) and not isinstance(prompts, bytes | Mapping):
        specs = tuple(_parse(item, f"{name}[{index}]") for index, item in enumerate(prompts))
    else:
        raise UsageError(
            f"{name}: expected {_forms(tuple(suites))}, or a list of records, got {type(prompts).__name__}"
        )
    if not specs:
        raise SpecError(f"{name}: expected at least one prompt, got none")
    if unique:
        _refuse_repeats(specs, name)
    return specs


def _size(prompts: Any, name: str) -> Size | None:
    """The size that a number or a text such as `10/task` asks for; None where `prompts` is something else."""
    if isinstance(prompts, str):
        size = parse_size(prompts)
        if size is None and prompts.strip().lstrip("+-").isdecimal():
            raise UsageError(f"{name}: expected a number of prompts >= 1, got {prompts!r}")
        return size
    try:
        number = operator.index(prompts)
    except TypeError:
        return None
    if isinstance(prompts, bool):
        return None
    if number < 1:
        raise UsageError(f"{name}: expected a number of prompts >= 1, got {number}")
    return Size(number, per_task=False)


def _draw(size: Size, seed: int, numbers: str, name: str) -> tuple[PromptSpec, ...]:
    if numbers == "official":
        suite = official_suite()
        return tuple(suite[index] for index in choose_evenly(suite, size, seed=seed, name=name))
    if not size.per_task:
        return tuple(training_prompts(size.number, seed))
    tags = [tag for tag, weight in DEFAULT_MIX.items() if weight]
    drawn = (islice(iter_training_prompts(seed, mix={tag: 1}), size.number) for tag in tags)
    return tuple(chain.from_iterable(drawn))


def _forms(suites: Sequence[str]) -> str:
    names = ", ".join(map(repr, (OFFICIAL[0], *suites)))
    return f"{names}, a number of prompts in all (60) or of each task (10/task), or a file with one record per line"


def _read_file(path: str, suites: Sequence[str], name: str) -> tuple[PromptSpec, ...]:
    try:
        # A pipe or a device would be waited for, or read, without end.
        lines = read_lines(path) if Path(path).is_file() else None
    except FileError as error:
        raise SpecError(f"{name}: {error}") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{name}: expected {_forms(suites)}, got {_shown(path)} ({error})") from error
    if lines is None:
        raise UsageError(f"{name}: expected {_forms(suites)}, got {_shown(path)}, which is no file")
    return tuple(_parse(line, f"{path} line {number}") for number, line in lines)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 100 else text[:100] + "...")


def _parse(item: PromptSpec | Mapping[str, Any] | str, where: str) -> PromptSpec:
    try:
        return resolve(item.strip() if isinstance(item, str) else item)
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from error


def _refuse_repeats(specs: Sequence[PromptSpec], name: str) -> None:
    first: dict[PromptSpec, int] = {}
    for index, spec in enumerate(specs):
        earlier = first.setdefault(spec, index)
        if earlier != index:
            raise SpecError(
                f"{name}[{index}]: expected each record once, got that of {name}[{earlier}] again: {spec.prompt!r}"
            )
