"""Prompts and records in the forms in which trainers pass them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from geneval_reward.errors import UsageError
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.support.files import parse_json

RECORD_COLUMNS: Final = ("tag", "include", "exclude", "prompt")


def prompts_per_image(prompts: Any, metadata: Any, columns: Mapping[str, Any]) -> list[Any]:
    """Find what each image is judged by: its record if there is one, else its prompt.

    Args:
        prompts: A sequence of texts, chats, records or specs, or None.
        metadata: A sequence of records, or a mapping of columns as `torch.utils.data.default_collate` and data sets
            give it, or None. An entry of None or NaN falls back on the prompt.
        columns: Further columns of a data set. Where metadata is None, `tag`, `include` and `exclude` among them are
            taken for records.

    Raises:
        UsageError: If there are neither prompts nor records, or not as many of one as of the other.
    """
    if metadata is None and all(columns.get(name) is not None for name in ("tag", "include")):
        metadata = {name: columns[name] for name in RECORD_COLUMNS[:3] if columns.get(name) is not None}
        if prompts is not None and all(isinstance(prompt, str) for prompt in prompts):
            metadata["prompt"] = prompts
    if isinstance(metadata, Mapping):
        metadata = records_from_columns(metadata)
    if metadata is None:
        if prompts is None:
            raise UsageError("prompts: expected prompts or metadata, got neither; rewards depend on what was asked")
        return list(prompts)
    if prompts is None:
        return list(metadata)
    if len(metadata) != len(prompts):
        raise UsageError(f"metadata: expected {len(prompts)}, one per prompt, got {len(metadata)}")
    return [prompt if is_absent(record) else record for record, prompt in zip(metadata, prompts, strict=True)]


def is_absent(record: Any) -> bool:
    """Whether a cell of a column is empty: None, or the NaN that pandas puts there."""
    return record is None or (isinstance(record, float) and record != record)


def records_from_columns(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Turn a batch of records that was made into columns back into one record per sample.

    Two forms are understood: lists of whole cells, as `datasets` has them, and what
    `torch.utils.data.default_collate` makes, which goes down into the records and puts a batch at every leaf.

    Raises:
        UsageError: If there is no column `tag` or `include`.

    Examples:
        >>> from torch.utils.data import default_collate
        >>> records = [{"tag": "single_object", "include": [{"class": name, "count": 1}]} for name in ("dog", "cat")]
        >>> records_from_columns(default_collate(records)) == records
        True
    """
    if columns.get("tag") is None or columns.get("include") is None:
        raise UsageError(
            f"metadata: expected records, or columns with tag and include, got a mapping of {', '.join(map(str, columns))}"
        )
    names = [name for name in RECORD_COLUMNS if columns.get(name) is not None]
    count = len(columns["tag"])
    clauses = columns["include"]
    if len(clauses) and isinstance(clauses[0], Mapping):
        return [{name: _sample(columns[name], row) for name in names} for row in range(count)]
    rows = zip(*(columns[name] for name in names), strict=True)
    return [
        {name: cell for name, cell in zip(names, row, strict=True) if name == "tag" or not is_absent(cell)}
        for row in rows
    ]


def _sample(batch: Any, row: int) -> Any:
    """Take one sample out of what `default_collate` made of a batch."""
    if isinstance(batch, Mapping):
        return {name: _sample(values, row) for name, values in batch.items()}
    if hasattr(batch, "tolist"):
        return batch[row].tolist()
    if isinstance(batch[0], str):
        return batch[row]
    return [_sample(values, row) for values in batch]


def text_of(prompt: Any) -> Any:
    """Unwrap a prompt: a chat to its last text, a row that holds a record as JSON to the record; else as it is.

    Examples:
        >>> text_of([{"role": "user", "content": [{"type": "text", "text": "a photo of a dog"}]}])
        'a photo of a dog'
    """
    if isinstance(prompt, PromptSpec):
        return prompt
    if isinstance(prompt, list) and prompt and isinstance(prompt[-1], Mapping) and "content" in prompt[-1]:
        content = prompt[-1]["content"]
        if isinstance(content, list):
            content = " ".join(part["text"] for part in content if part.get("type") == "text")
        return content
    if isinstance(prompt, np.str_):
        return str(prompt)
    if isinstance(prompt, Mapping) and isinstance(prompt.get("metadata"), str):
        return parse_json(prompt["metadata"])
    return prompt


def prompt_texts(prompts: Sequence[Any] | None, metadata: Any) -> list[str]:
    """Find the texts to compare images with: the prompts, or else those in the records.

    Raises:
        UsageError: If a sample has neither.
    """
    rows: Any = prompts if prompts is not None else metadata
    if rows is None:
        raise UsageError("prompts: expected prompts or records with a prompt, got neither")
    if isinstance(rows, Mapping):
        rows = rows.get("prompt") or records_from_columns(rows)
    texts = []
    for index, row in enumerate(rows):
        row = text_of(row)
        if isinstance(row, str) and row.lstrip().startswith("{"):
            row = parse_json(row)
        text = row.get("prompt") if isinstance(row, Mapping) else getattr(row, "prompt", row)
        if not isinstance(text, str):
            raise UsageError(f"prompts[{index}]: expected a text, or a record with one, got {type(row).__name__}")
        texts.append(text)
    return texts
