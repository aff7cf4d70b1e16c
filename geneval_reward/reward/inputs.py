"""Prompts in the forms in which trainers pass them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from geneval_reward.errors import UsageError


def text_of(asked: Any) -> Any:
    """A chat prompt, as TRL has them, to its last text, a row with a record in JSON to the record; anything else as it is.

    Example:
        >>> text_of([{"role": "user", "content": [{"type": "text", "text": "a photo of a dog"}]}])
        'a photo of a dog'
    """
    if isinstance(asked, list) and asked and isinstance(asked[-1], Mapping) and "content" in asked[-1]:
        content = asked[-1]["content"]
        if isinstance(content, list):
            content = " ".join(part["text"] for part in content if part.get("type") == "text")
        return content
    if isinstance(asked, np.str_):
        return str(asked)
    if isinstance(asked, Mapping) and isinstance(asked.get("metadata"), str):
        return json.loads(asked["metadata"])
    return asked


def prompt_texts(prompts: Any, metadata: Any) -> list[str]:
    """What to compare images with: the prompts, else the prompts in the records.

    Raises:
        ValueError: If a sample has neither.
    """
    rows = prompts if prompts is not None else metadata
    if rows is None:
        raise UsageError("prompts: expected prompts or records with a prompt, got neither")
    texts = []
    for index, row in enumerate(rows):
        row = text_of(row)
        if isinstance(row, str) and row.lstrip().startswith("{"):
            row = json.loads(row)
        text = row.get("prompt") if isinstance(row, Mapping) else getattr(row, "prompt", row)
        if not isinstance(text, str):
            raise UsageError(f"prompts[{index}]: expected a text, or a record with one, got {type(row).__name__}")
        texts.append(text)
    return texts
