"""Fetch one file over HTTP: resumed where it was cut, checked by its sha256, moved into place whole."""

from __future__ import annotations

import errno
import hashlib
import http.client
import logging
import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Final

from geneval_reward.errors import WeightsError

logger = logging.getLogger(__name__)

Progress = Callable[[int, int | None], None]

_CHUNK: Final = 1 << 20
_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class _CutShortError(Exception):
    """The server closed the connection before the file's end."""


def download(
    url: str,
    target: Path,
    *,
    sha256_prefix: str,
    progress: Progress | None = None,
    attempts: int = 5,
    timeout: float = 30.0,
    pause: float = 1.0,
) -> str:
    """Download `url` to `target`.

    The bytes go to `<target>.part`. A killed download leaves that file, and the next call asks the server for the
    rest; a server that cannot resume, or whose file has changed since, sends it anew. `target` appears only after
    the hash fits.

    Args:
        url: Where the file is, http or https.
        target: Where it shall be; its folder is made.
        sha256_prefix: First digits of the file's sha256, 8 to 64 of them.
        progress: Called with (bytes so far, total or None).
        attempts: Connections to try; each goes on where the last was cut.
        timeout: Seconds of silence after which a connection counts as lost.
        pause: Seconds before the second attempt, doubled for each further one.

    Returns:
        The file's sha256.

    Raises:
        WeightsError: If the server cannot be reached, does not have the file or sends another one, or the disk is full.
    """
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(attempts):
            try:
                _fetch(url, part, progress, timeout)
                break
            except urllib.error.HTTPError as error:
                if error.code < 500 or attempt + 1 == attempts:
                    raise WeightsError(f"expected a file at {url}, got HTTP status {error.code}") from error
                logger.warning("HTTP status %s from %s; trying again", error.code, url)
            except (
                _CutShortError,
                urllib.error.URLError,
                http.client.HTTPException,
                ConnectionError,
                TimeoutError,
            ) as error:
                # A host that has no address will not have one in a second: there is no network.
                nowhere = isinstance(getattr(error, "reason", None), socket.gaierror)
                if nowhere or attempt + 1 == attempts:
                    kept = f"; what came is kept at {part} and the next attempt resumes" if part.is_file() else ""
                    raise WeightsError(
                        f"expected to read {url}, got {_reason(error)} in attempt {attempt + 1}{kept}"
                    ) from error
                logger.warning("The download of %s was cut (%s); resuming", url, _reason(error))
            time.sleep(pause * 2**attempt)
        digest = sha256_of(part)
        if not digest.startswith(sha256_prefix):
            size = part.stat().st_size
            _discard(part)
            raise WeightsError(
                f"expected {url} to have a sha256 that begins with {sha256_prefix}, got {digest[:8]} "
                f"({size:,} bytes); it was thrown away, so try again or fetch the file by other means"
            )
        os.replace(part, target)
    except OSError as error:
        if isinstance(error, WeightsError):
            raise
        if error.errno in _FULL:
            _discard(part)
            raise WeightsError(
                f"expected room for {target.name} in {target.parent}, got '{error.strerror}'; free some space or set "
                "GENEVAL_REWARD_CACHE to a folder that has it"
            ) from error
        raise WeightsError(
            f"expected to write {target}, got '{error}'; set GENEVAL_REWARD_CACHE to a folder"
        ) from error
    _origin(part).unlink(missing_ok=True)
    return digest


def sha256_of(path: Path) -> str:
    """The sha256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(url: str, part: Path, progress: Progress | None, timeout: float) -> None:
    have = part.stat().st_size if part.is_file() else 0
    headers = {"User-Agent": "geneval-reward"}
    validator = _origin(part).read_text() if have and _origin(part).is_file() else ""
    if have and validator:
        # If-Range: the rest if the file is still the same, else all of it.
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            part.unlink(missing_ok=True)
            raise _CutShortError("a partial file that is longer than the whole") from error
        raise
    with response:
        resumed = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if response.status == 206 and not resumed:
            part.unlink(missing_ok=True)
            raise _CutShortError("another part of the file than was asked")
        have = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length is not None else None
        if not resumed:
            part.unlink(missing_ok=True)
            _origin(part).write_text(_validator(response.headers))
        with part.open("ab") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                have += len(chunk)
                if progress is not None:
                    progress(have, total)
        if total is not None and have < total:
            raise _CutShortError(f"{have:,} of {total:,} bytes")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _origin(part).unlink(missing_ok=True)


def _validator(headers: http.client.HTTPMessage) -> str:
    # Only a strong ETag may stand in If-Range (RFC 9110, section 13.1.5); a date is the second choice.
    tag = headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")


def _origin(part: Path) -> Path:
    return part.with_name(part.name + ".origin")


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    return f"{type(error).__name__}: {reason}" if str(reason) else type(error).__name__
