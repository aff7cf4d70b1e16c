"""Finds weight files: at a path, in a folder, by an environment variable, in the user's cache, or at the public address.

The cache has them in `<cache>/weights`; `GENEVAL_REWARD_CACHE` names another cache folder than the system's usual one.
`GENEVAL_REWARD_OFFLINE=1` forbids downloads.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import logging
import os
import re
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from geneval_reward.errors import WeightsError

logger = logging.getLogger(__name__)

_HOST: Final = "https://download.openmmlab.com/mmdetection"
_SILENCE: Final = 30.0  # seconds after which a silent connection counts as lost
_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, slots=True)
class WeightFile:
    """A published file of weights.

    Attributes:
        key: Its name in `geneval-reward weights`.
        about: What it is, in a few words.
        url: Its public address; the last part is its file name.
        sha256_prefix: The first digits of its sha256. OpenMMLab publishes 8, in the file name.
        size: Its size in bytes, or None if it is not published.
        variable: The environment variable that may name the file or its folder.
        other_names: Names under which the file is often stored.
    """

    key: str
    about: str
    url: str
    sha256_prefix: str
    size: int | None
    variable: str
    other_names: tuple[str, ...] = ()

    @property
    def file_name(self) -> str:
        """The published file name."""
        return self.url.rsplit("/", 1)[1]


_SWIN_S: Final = "mask2former_swin-s-p4-w7-224"
KNOWN_FILES: Final = {
    file.key: file
    for file in (
        WeightFile(
            key="mask2former",
            about="the benchmark's detector: mmdet 2.x Mask2Former, Swin-S, COCO instances",
            url=f"{_HOST}/v2.0/mask2former/{_SWIN_S}_lsj_8x2_50e_coco/"
            f"{_SWIN_S}_lsj_8x2_50e_coco_20220504_001756-743b7d99.pth",
            sha256_prefix="743b7d99",
            size=275_630_991,
            variable="GENEVAL_REWARD_MASK2FORMER",
            # GenEval's own download script drops the training stamp.
            other_names=(f"{_SWIN_S}_lsj_8x2_50e_coco.pth",),
        ),
        WeightFile(
            key="mask2former-3x",
            about="the same training under mmdet 3.x names",
            url=f"{_HOST}/v3.0/mask2former/{_SWIN_S}_8xb2-lsj-50e_coco/"
            f"{_SWIN_S}_8xb2-lsj-50e_coco_20220504_001756-c9d0c4f2.pth",
            sha256_prefix="c9d0c4f2",
            size=None,
            variable="GENEVAL_REWARD_MASK2FORMER",
            other_names=(f"{_SWIN_S}_8xb2-lsj-50e_coco.pth",),
        ),
    )
}


def cache_dir() -> Path:
    """The package's cache folder: `GENEVAL_REWARD_CACHE`, or the system's place for user caches."""
    import platformdirs

    chosen = os.environ.get("GENEVAL_REWARD_CACHE")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("geneval-reward")


def resolve(
    file: WeightFile,
    path: str | os.PathLike[str] | None = None,
    *,
    allow_download: bool = True,
    progress: bool = False,
) -> Path:
    """Find a weight file, and download it if it is not on this machine.

    Args:
        file: Which one.
        path: A file, or a folder that holds it. None: the environment variable, the cache, then the download.
        allow_download: Whether the network may be used.
        progress: Whether to show a bar on stderr during a download.

    Returns:
        An existing file. Its hash is not yet checked unless it was downloaded.

    Raises:
        WeightsError: If it is not here and cannot be downloaded; the message says which file to put where.
    """
    if path is not None:
        return _named(file, Path(path).expanduser(), "path")
    found = find(file)
    return found if found is not None else fetch(file, allow_download=allow_download, progress=progress)


def find(file: WeightFile) -> Path | None:
    """The file that the environment variable names or the cache holds, or None.

    Raises:
        WeightsError: If the variable is set but names nothing.
    """
    chosen = os.environ.get(file.variable)
    if chosen:
        return _named(file, Path(chosen).expanduser(), file.variable)
    cached = cache_dir() / "weights" / file.file_name
    return cached if cached.is_file() else None


def fetch(
    file: WeightFile,
    folder: Path | None = None,
    *,
    allow_download: bool = True,
    progress: bool = False,
    attempts: int = 3,
    pause: float = 1.0,
) -> Path:
    """Download a file into a folder (the cache's `weights` if None), once, however many processes ask.

    Raises:
        WeightsError: If it cannot be downloaded; the message says which file to put where.
    """
    from filelock import FileLock

    folder = folder if folder is not None else cache_dir() / "weights"
    target = folder / file.file_name
    if target.is_file():
        return target
    advice = (
        f"download {file.url} elsewhere and put it at {target}, or set {file.variable} to the file or to the folder "
        "that holds it"
    )
    if not allow_download or os.environ.get("GENEVAL_REWARD_OFFLINE", "0") not in ("", "0"):
        raise WeightsError(f"expected the weights {file.file_name}, got none and downloads are off; {advice}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if not target.is_file():  # another process may have fetched it while this one waited
                logger.info("Downloading %s to %s", file.url, target)
                _download(file, target, progress, attempts, pause)
    except OSError as error:
        raise WeightsError(f"expected the weights {file.file_name}, got none: {error}; {advice}") from error
    return target


def _download(file: WeightFile, target: Path, progress: bool, attempts: int, pause: float) -> None:
    from torch.hub import download_url_to_file

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SILENCE)  # torch.hub sets none, and would wait for ever for a server that went silent
    try:
        for attempt in range(1, attempts + 1):
            try:
                download_url_to_file(file.url, str(target), hash_prefix=file.sha256_prefix, progress=progress)
                return
            except (OSError, RuntimeError, http.client.HTTPException) as error:
                status = getattr(error, "code", None)
                # A host without an address, a file that is not there and a full disk will be no other in a second.
                hopeless = (
                    (status is not None and status < 500)
                    or isinstance(getattr(error, "reason", None), socket.gaierror)
                    or getattr(error, "errno", None) in _FULL
                )
                if hopeless or attempt == attempts:
                    raise OSError(f"{error or type(error).__name__} in attempt {attempt}") from error
                logger.warning("The download of %s failed (%s); trying again", file.url, error)
                time.sleep(pause * 2**attempt)
    finally:
        socket.setdefaulttimeout(before)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _named(file: WeightFile, path: Path, origin: str) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise WeightsError(f"{origin}: expected a weight file or the folder that holds it, got nothing at {path}")
    others = (other for other in KNOWN_FILES.values() if other.variable == file.variable)
    names = [name for known in (file, *others) for name in (known.file_name, *known.other_names)]
    for name in names:
        if (path / name).is_file():
            return path / name
    # A single checkpoint under another name must be the one that is meant.
    candidates = sorted([*path.glob("*.pth"), *path.glob("*.pt")])
    if len(candidates) == 1:
        return candidates[0]
    listed = ", ".join(re.sub(r"(.{60}).+", r"\1...", entry.name) for entry in candidates) or "no checkpoint"
    raise WeightsError(f"{origin}: expected {file.file_name} in {path}, got {listed}; name the file itself")
