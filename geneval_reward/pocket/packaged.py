"""Checks that the files of a packaged model are those that were trained."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from geneval_reward.errors import WeightsError


def check_files(folder: Path) -> None:
    """Compare every file of a pocket folder with the hashes in its provenance.

    Raises:
        WeightsError: If one is missing or differs; the message names it.
    """
    for name, expected in read_provenance(folder)["sha256"].items():
        path = folder / name
        got = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no file"
        if got != expected:
            raise WeightsError(f"{path}: expected sha256 {expected}, got {got}; reinstall geneval-reward")


def read_provenance(folder: Path) -> dict[str, Any]:
    """Read how the weights in a folder were made.

    Raises:
        WeightsError: If the file is missing.
    """
    path = folder / "PROVENANCE.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(f"{path}: expected the packaged model, got {error}; reinstall geneval-reward") from error
    return found
