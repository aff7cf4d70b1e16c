"""Reading JSON lines and writing whole files: the only code in the package that does either.

`str.splitlines` must not be used on JSON lines: it also cuts at U+2028, U+0085 and form feeds, which JSON allows inside
strings and which language models write.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from geneval_reward.errors import FileError


def read_lines(path: str | os.PathLike[str]) -> list[tuple[int, str]]:
    """Read the lines of a UTF-8 file that are not blank.

    Lines end at a line feed, with or without a carriage return before it. A byte order mark, as Windows editors write it,
    is left out.

    Args:
        path: A text file, such as one of JSON lines.

    Returns:
        Pairs of the line's number, counted from 1 over all lines, and its text.

    Raises:
        FileError: If the file is not UTF-8 text.
        OSError: If the file cannot be read.
    """
    return [(number, line) for number, line in split_lines(Path(path).read_bytes(), os.fspath(path)) if line.strip()]


def split_lines(content: bytes, name: str) -> Iterator[tuple[int, str]]:
    """Split the content of a text file as `read_lines` does, blank lines included.

    Args:
        content: The bytes of the file.
        name: What error messages call the file.

    Raises:
        FileError: If a line is not UTF-8 text; the message names the line.
    """
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            yield number, line.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            raise FileError(
                f"{name} line {number}: expected UTF-8 text, got {error}; save the file as UTF-8"
            ) from error


def parse_json(text: str | bytes) -> Any:
    """Parse one JSON document.

    Args:
        text: The document.

    Returns:
        What `json.loads` returns.

    Raises:
        FileError: If the text is not JSON, is nested too deeply, or holds a number with too many digits.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise FileError("expected JSON, got one that is nested too deeply") from error
    except ValueError as error:
        start = text[:60].decode("utf-8", "replace") if isinstance(text, bytes) else text[:60]
        shown = start + "..." if len(text) > 60 else start
        raise FileError(f"expected JSON, got {shown!r} ({error})") from error


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a file that is one JSON document in UTF-8.

    Raises:
        FileError: If the file is not JSON; the message names the file.
        OSError: If the file cannot be read.
    """
    try:
        return parse_json(Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf"))
    except FileError as error:
        raise FileError(f"{os.fspath(path)}: {error}") from error


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file so that it holds either its old content or all of the new one, as `open_whole` describes.

    Args:
        path: The file to write; its folder must exist.
        content: Text, which is written as UTF-8 with line feeds, or bytes.

    Raises:
        OSError: If the file cannot be written.

    Examples:
        >>> import pathlib, tempfile
        >>> page = pathlib.Path(tempfile.mkdtemp()) / "page.html"
        >>> write_whole(page, "<p>all of it</p>")
        >>> page.read_text()
        '<p>all of it</p>'
    """
    with open_whole(path) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)


@contextmanager
def open_whole(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file for writing; it changes only when the `with` block ends without an error.

    The content goes into a temporary file in the same folder, which then takes the place of `path`. If anything fails (a full
    disk, for example), the old file is untouched and no temporary file is left. The file keeps its mode if it
    exists; a new one gets the mode that `open` would give it. A symbolic link stays, and what it points to is replaced.
    Paths that are not regular files, such as `/dev/stdout`, are written to directly.

    Args:
        path: The file to write; its folder must exist.

    Raises:
        OSError: If the file cannot be written.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        with target.open("wb") as direct:
            yield direct
        return
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=temporary_prefix(target), suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, file_mode(target))
        os.replace(name, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def temporary_prefix(path: Path) -> str:
    """How the names of the temporary files of `open_whole` begin; a killed process may leave one, which ends in `.tmp`."""
    return f".{path.name[:100]}."


def file_mode(path: Path) -> int:
    """The permissions of a file, or those that a new file would get there."""
    try:
        return path.stat().st_mode & 0o7777
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask
