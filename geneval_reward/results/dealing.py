"""Which image belongs to which line of a metadata file that names no images.

Names are trusted only where they leave no doubt; anything else is refused, because images that are judged by other prompts'
records give a score that looks like any other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from geneval_reward.errors import ResultsError
from geneval_reward.support.counts import counted

_HOW: Final = (
    'name them: add "file_name": "<path below the folder>" to each line, or use the benchmark\'s layout '
    "(<line number from 0>/samples/0000.png)"
)
_BENCHMARK: Final = ["", "/samples/", ""]


def deal(images: Sequence[str], lines: int, where: str) -> tuple[list[int], str | None]:
    """Find the line of every image from the numbers in the images' names.

    | names | line of an image |
    |---|---|
    | anything, and there is one line | that line |
    | `<n>/samples/<k>.png` | `n`, counted from 0 |
    | two or more numbers, such as `seed3/00017.png` | the number that counts the lines, if there is only one |
    | one number that counts the images from 0 or 1 without a gap | equal shares, in order |

    Of two or more numbers, one counts the lines if it takes the values 0 to `lines - 1` (or 1 to `lines`) and each of them
    comes with the same other numbers.

    Args:
        images: Names below the folder, with forward slashes.
        lines: Number of lines, including those that are not valid.
        where: What error messages call the metadata file.

    Returns:
        The index of the line of each image, and a sentence on how they were dealt if a convention decided it.

    Raises:
        ResultsError: If the names do not tell; the message says how to name the images.
    """
    if not lines or not images:
        raise ResultsError(
            f"{where}: expected images and lines of records, got {counted(len(images), 'image')} and {counted(lines, 'line')}"
        )
    if lines == 1:
        return [0] * len(images), None
    split = [re.split(r"([0-9]+)", name.rpartition(".")[0]) for name in images]
    texts = split[0][::2]
    if any(parts[::2] != texts for parts in split):
        odd = next(name for name, parts in zip(images, split, strict=True) if parts[::2] != texts)
        raise _refusal(images, lines, where, f"{images[0]} and {odd}, which are not named alike")
    columns = [[int(parts[column]) for parts in split] for column in range(1, len(split[0]), 2)]
    if texts == _BENCHMARK:
        if max(columns[0]) >= lines:
            raise _refusal(images, lines, where, f"a folder {max(columns[0]):05d} and lines 0..{lines - 1}")
        return columns[0], None
    varying = [column for column in columns if len(set(column)) > 1]
    distinct = [column for i, column in enumerate(varying) if column not in varying[:i]]
    if len(distinct) == 1:
        return _in_shares(images, distinct[0], lines, where)
    found = [
        column for i, column in enumerate(distinct) if _counts_lines(column, distinct[:i] + distinct[i + 1 :], lines)
    ]
    if len(found) == 1:
        return [value - min(found[0]) for value in found[0]], None
    why = "more than one number that could be the line" if found else "no number that counts the lines in every group"
    raise _refusal(images, lines, where, f"{why} in names such as {images[0]}")


def _in_shares(images: Sequence[str], numbers: list[int], lines: int, where: str) -> tuple[list[int], str | None]:
    """Equal shares in the order of the one number in the names, which must have no gap: a missing image would shift the rest."""
    if len(images) % lines:
        raise _refusal(images, lines, where, "a number of images that is no multiple of the lines")
    start = min(numbers)
    if start not in (0, 1) or sorted(numbers) != list(range(start, start + len(images))):
        raise _refusal(images, lines, where, f"names such as {images[0]} whose numbers are not 0, 1, 2, ...")
    share = len(images) // lines
    note = None
    if share > 1:
        note = (
            f"the images are dealt to the {lines} lines of {where} by their numbers, {share} each: "
            f"{images[0]} to {images[share - 1]} belong to the first line; if they are in another order, {_HOW}"
        )
    return [(number - start) // share for number in numbers], note


def _counts_lines(column: list[int], others: list[list[int]], lines: int) -> bool:
    """Whether a number runs over all lines, and each of its values comes with the same other numbers."""
    if set(column) not in (set(range(lines)), set(range(1, lines + 1))):
        return False
    groups: dict[int, set[tuple[int, ...]]] = {}
    for value, *rest in zip(column, *others, strict=True):
        groups.setdefault(value, set()).add(tuple(rest))
    first = next(iter(groups.values()))
    return all(group == first for group in groups.values()) and len(column) == lines * len(first)


def _refusal(images: Sequence[str], lines: int, where: str, got: str) -> ResultsError:
    return ResultsError(
        f"{where}: expected images whose names tell which of the {lines} lines they belong to, got {got} "
        f"({counted(len(images), 'image')} and {counted(lines, 'line')} without names); {_HOW}"
    )
