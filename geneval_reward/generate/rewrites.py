"""Rewritten prompts: the generator gets a different text, while the judge keeps the original record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from geneval_reward.errors import FileError, SpecError
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.results.entries import meaning
from geneval_reward.support.files import parse_json, read_lines


def read_rewrites(path: str | Path, specs: Sequence[PromptSpec]) -> dict[PromptSpec, str]:
    """Read a file of rewritten prompts.

    Args:
        path: JSON lines, each either `{"prompt": the record's text, "rewritten": the new text}` or a whole record whose
            `prompt` is the new text (as in the files of BAGEL and others; matched by tag and clauses).
        specs: The prompt set. Every prompt needs a line, so that a score never mixes rewritten and original prompts.

    Returns:
        New text by record, without texts that equal the record's own.

    Raises:
        SpecError: If the file is missing, a line has neither form or matches no prompt, or a prompt has no line or two; the
            message names file and line.
    """
    path = Path(path)
    try:
        lines = read_lines(path)
    except (OSError, FileError) as error:
        raise SpecError(f"{path}: expected a file of rewritten prompts, got none that can be read ({error})") from error
    by_text = {spec.prompt: spec for spec in specs}
    by_meaning = {meaning(spec): spec for spec in specs}
    found: dict[PromptSpec, str] = {}
    for number, line in lines:
        where = f"{path} line {number}"
        record = _load(line, where)
        if "rewritten" in record:
            asked, text = record.get("prompt"), record["rewritten"]
            spec = by_text.get(asked) if isinstance(asked, str) else None
        else:
            spec, text = _by_record(record, by_meaning, where)
        if spec is None:
            raise SpecError(f"{where}: expected a prompt of the set, got {str(record.get('prompt'))[:200]!r}")
        if not isinstance(text, str) or not text.strip():
            raise SpecError(f"{where}: rewritten: expected text, got {text!r}")
        if spec in found:
            raise SpecError(f"{where}: expected one line per prompt, got a second for {spec.prompt!r}")
        found[spec] = text
    missing = [spec.prompt for spec in specs if spec not in found]
    if missing:
        raise SpecError(
            f"{path}: expected a line for every prompt, got none for {len(missing)} of {len(specs)}, such as {missing[0]!r}; "
            "add it with its own text if it is not to be changed"
        )
    return {spec: text for spec, text in found.items() if text != spec.prompt}


def _load(line: str, where: str) -> dict[str, Any]:
    try:
        record = parse_json(line)
    except FileError as error:
        raise SpecError(f"{where}: {error}") from error
    if not isinstance(record, dict):
        raise SpecError(f"{where}: expected a JSON object, got a JSON {type(record).__name__}")
    return record


def _by_record(
    record: dict[str, Any], by_meaning: dict[tuple[Any, ...], PromptSpec], where: str
) -> tuple[PromptSpec | None, Any]:
    if "include" not in record:
        raise SpecError(
            f"{where}: expected 'prompt' and 'rewritten', or a whole record with the new text, got {', '.join(record)}"
        )
    try:
        spec = PromptSpec.parse({key: value for key, value in record.items() if key != "prompt"})
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from error
    return by_meaning.get(meaning(spec)), record.get("prompt")
