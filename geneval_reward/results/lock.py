"""`WriterLock`: one writer per results file, among the processes of a machine or of a shared file system."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from filelock import SoftFileLock, Timeout

from geneval_reward.errors import ResultsError

_UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class WriterLock:
    """A lock on `<path>.lock`, which exists while the lock is held.

    The lock ends with its process, however that ends. Where the file system has no such locks, the file itself is the lock,
    and one that a killed process left behind must be removed by hand.

    Args:
        path: The results file.

    Raises:
        ResultsError: If another writer holds the lock.
        OSError: If the lock file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(f"{path}.lock")
        self._soft: SoftFileLock | None = None
        self._file: int | None = None
        try:
            while self._file is None and self._soft is None:
                self._try()
        except (BlockingIOError, Timeout) as error:
            raise ResultsError(
                f"{path}: expected to be its only writer, got a lock of another process; give each process its own file"
            ) from error

    def release(self) -> None:
        """Let others write. The lock file is removed while the lock is still held, so that nobody locks a file that is gone."""
        if self._soft is not None:
            self._soft.release()
            self._soft = None
        elif self._file is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = None

    def _try(self) -> None:
        """Take the lock, unless the file was removed between opening and locking it; then try again."""
        try:
            from fcntl import LOCK_EX, LOCK_NB, flock
        except ModuleNotFoundError:  # Windows
            self._take_soft()
            return
        file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            flock(file, LOCK_EX | LOCK_NB)
            if os.path.exists(self._path) and os.path.samestat(os.fstat(file), os.stat(self._path)):
                self._file, file = file, -1
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            self._path.unlink(missing_ok=True)
            self._take_soft()
        finally:
            if file >= 0:
                os.close(file)

    def _take_soft(self) -> None:
        lock = SoftFileLock(self._path)
        lock.acquire(timeout=0)
        self._soft = lock
