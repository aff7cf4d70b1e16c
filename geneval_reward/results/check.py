"""Check a file of prompts: every line is read, and every problem is named with its line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from geneval_reward.errors import FileError, SpecError
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.prompts.suite import resolve
from geneval_reward.prompts.vocabulary import Vocabulary
from geneval_reward.results.entries import FILENAME_KEYS, read_entry
from geneval_reward.support.files import parse_json


@dataclass(frozen=True)
class CheckedFile:
    """What a file of prompts holds.

    Attributes:
        specs: The prompts that can be judged, in order.
        problems: `line 3: what is wrong`, one for every other line that is not blank.
        repeated: Numbers of the lines whose record is that of an earlier line.
    """

    specs: list[PromptSpec]
    problems: list[str]
    repeated: list[int]


def check_file(path: str | Path, vocabulary: Vocabulary) -> CheckedFile:
    """Read a file as `--suite`, `prompts=` or `--metadata` would, without stopping at a line that cannot be read.

    Args:
        path: Records, sentences, or the metadata of a folder of images, one per line.
        vocabulary: The classes and colours that the scorer knows.

    Raises:
        OSError: If the file cannot be read.
    """
    specs: list[PromptSpec] = []
    problems: list[str] = []
    repeated: list[int] = []
    seen: set[PromptSpec] = set()
    for number, content in enumerate(Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not content.strip():
            continue
        try:
            spec = _read(content)
            vocabulary.check(spec)
        except (SpecError, FileError) as error:
            problems.append(f"line {number}: {error}")
            continue
        specs.append(spec)
        if spec in seen:
            repeated.append(number)
        seen.add(spec)
    return CheckedFile(specs, problems, repeated)


def _read(content: bytes) -> PromptSpec:
    try:
        line = content.decode()
    except UnicodeDecodeError as error:
        raise FileError(f"expected UTF-8 text, got {error}; save the file as UTF-8") from error
    if not line.lstrip().startswith("{"):
        return resolve(line.strip())
    entry = parse_json(line)
    # A line of a folder's metadata may have its record under a key of its own.
    named = any(entry.get(key) is not None for key in (*FILENAME_KEYS, "metadata"))
    return read_entry(entry).spec if named else PromptSpec.parse(entry)
