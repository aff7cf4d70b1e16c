"""What an annotation holds: per reward how many samples have a value, and what is wrong with the others."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from geneval_reward.annotate.table import Annotations
from geneval_reward.results.notation import DASH, rounded, rules_text
from geneval_reward.results.tables import Document, Table
from geneval_reward.support.counts import counted

_QUANTILES: Final = (0.05, 0.5, 0.95)
_FAULTS: Final = {
    "image": "no image",
    "caption": "no caption",
    "record": "no record",
    "changed": "another sample now",
}
_EXAMPLES: Final = 3


def summarize(found: Annotations, *, parse: bool = False, problems: Sequence[str] = ()) -> Document:
    """Make the tables of an annotation.

    Args:
        found: The annotation.
        parse: Whether to say how many captions were understood as sentences.
        problems: Sentences to print first.
    """
    numbers = {name: _numbers(values) for name, values in found.rewards.items()}
    rows = [[name, *(_text(one) for one in row.values())] for name, row in numbers.items()]
    quantiles = [f"{100 * q:g} %" for q in _QUANTILES]
    tables = [Table("", ["reward", "scored", "empty", "mean", *quantiles, "distinct"], rows)]
    faults = _faults(found)
    if faults:
        notes = [f"{fault}: {first}" for fault, _, _, first in faults]
        tables.append(Table("Empty values", ["at fault", "samples", "rewards"], [row[:3] for row in faults], notes))
    conclusions = _conclusions(found, parse)
    header = ["reward", *next(iter(numbers.values()), {})]
    values = Table("", header, [[name, *row.values()] for name, row in numbers.items()])
    record = {
        "samples": len(found),
        "judge": found.info.judge,
        "rules": None if found.info.rules is None else json.loads(found.info.rules),
        "rewards": numbers,
        "empty": [dict(zip(("fault", "samples", "rewards", "first"), row, strict=True)) for row in faults],
        "problems": list(problems),
        "notes": conclusions,
    }
    return Document(tables, values, record, problems=tuple(problems), conclusions=conclusions)


def _numbers(values: Any) -> dict[str, int | float | None]:
    known = values[~np.isnan(values)]
    quantiles = np.quantile(known, _QUANTILES) if len(known) else [math.nan] * len(_QUANTILES)
    return {
        "scored": len(known),
        "empty": len(values) - len(known),
        "mean": rounded(float(known.mean())) if len(known) else None,
        **{f"q{100 * q:02g}": rounded(float(one)) for q, one in zip(_QUANTILES, quantiles, strict=True)},
        "distinct": len(np.unique(known)),
    }


def _text(value: int | float | None) -> str:
    return DASH if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def _faults(found: Annotations) -> list[list[str]]:
    """Count what is at fault, with the first sample; rewards that lack the same number of samples share a row."""
    counts: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], str] = {}
    for key, reasons in zip(found.keys, found.reasons, strict=True):
        for name, text in reasons.items():
            fault = text.partition(": ")[0]
            kind = _FAULTS.get(fault, "no value"), name
            counts[kind] += 1
            first.setdefault(kind, f"{key}: {text.partition(': ')[2] if fault in _FAULTS else text}")
    rows: dict[tuple[str, int, str], list[str]] = {}
    for kind, count in counts.items():
        rows.setdefault((kind[0], count, first[kind]), []).append(kind[1])
    return [
        [fault, f"{count:,}", "all" if len(names) == len(found.rewards) > 1 else ", ".join(names), text]
        for (fault, count, text), names in rows.items()
    ]


def _conclusions(found: Annotations, parse: bool) -> list[str]:
    said = []
    if found.info.judge is not None:
        rules: Mapping[str, Any] = json.loads(found.info.rules or "{}")
        said.append(f"geneval_* judged by {found.info.judge}, rules {rules_text(rules)}")
    if parse:
        said.append(_coverage(found))
    prompts = {record: json.loads(record).get("prompt") for record in set(found.records) if record is not None}
    pairs = zip(found.records, found.captions, strict=True)
    others = sum(record is not None and prompts[record] not in (None, caption) for record, caption in pairs)
    if others:
        said.append(
            f"captions that are not the prompt of their record: {others:,}; geneval_* judges by the record, other rewards by "
            "the caption"
        )
    return said


def _coverage(found: Annotations) -> str:
    """Say how many captions that are no records were understood as sentences."""
    read = [caption for caption, origin in zip(found.captions, found.origins, strict=True) if origin == "parsed"]
    unread: dict[str, str] = {}
    failed = 0
    for caption, reasons in zip(found.captions, found.reasons, strict=True):
        text = next((one for one in reasons.values() if one.startswith("record: the caption is not understood")), None)
        if text is not None:
            failed += 1
            unread.setdefault(caption, text.partition("(text: ")[2].removesuffix(")"))
    different = len(set(read))
    said = (
        f"--parse understood {len(read):,} of {counted(len(read) + failed, 'caption')} that have no record "
        f"({different:,} of {different + len(unread):,} different ones)"
    )
    if unread:
        examples = "; ".join(
            f"{caption[:60]!r} ({reason[:120]})" for caption, reason in list(unread.items())[:_EXAMPLES]
        )
        said += f"; not understood, for example: {examples}"
    return said
