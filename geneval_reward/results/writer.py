"""`ResultWriter`: results written as they come, resumable after a kill, never an image twice."""

from __future__ import annotations

import glob
import os
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from geneval_reward.errors import ResultsError, UsageError
from geneval_reward.results.columns import Results
from geneval_reward.results.reader import read_results
from geneval_reward.results.record import failures_path
from geneval_reward.results.row import FailedImage, ResultRow, RunIdentity
from geneval_reward.support.files import open_whole, temporary_prefix


class ResultWriter:
    """Appends rows to a results file. What `write` was given has left the process when it returns.

    Use it in a `with` statement. While it is open, `<path>.lock` keeps other writers away.

    Args:
        path: The file.
        resume: Go on with a file that is there. An unfinished last line is cut off, and failed images are tried again.
        overwrite: Begin anew even if the file is there.
        identity: What judges in this run, to refuse a file of another judge before any work is done. None takes it from the
            file or the first row.
        again: With `resume`, names of images whose rows are dropped because they are to be scored again.

    Attributes:
        path: The file.
        done: Names of images that have a row.
        failed: Images that failed in this run, with the reason.

    Raises:
        ResultsError: If the file is there and neither `resume` nor `overwrite` is set, if it was judged by another
            backend, fingerprint or rules, holds an image twice, is damaged before its last line, or is being written by
            another process.
        OSError: If the file cannot be written.

    Examples:
        >>> import tempfile, pathlib
        >>> from geneval_reward.judge import Detections, judge
        >>> from geneval_reward.prompts import PromptSpec
        >>> spec = PromptSpec.parse({"tag": "single_object", "include": [{"class": "dog", "count": 1}]})
        >>> row = ResultRow.from_verdict(judge(spec, Detections.empty((64, 64))), "00000/samples/0000.png")
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "results.jsonl"
        >>> with ResultWriter(path) as writer:
        ...     writer.write([row])
        >>> with ResultWriter(path, resume=True) as writer:
        ...     sorted(writer.done)
        ['00000/samples/0000.png']
    """

    def __init__(
        self,
        path: str | Path,
        *,
        resume: bool = False,
        overwrite: bool = False,
        identity: RunIdentity | None = None,
        again: Collection[str] = (),
    ) -> None:
        if resume and overwrite:
            raise UsageError("resume, overwrite: expected at most one of the two, got both")
        self.path = Path(path)
        self.done: set[str] = set()
        self.failed: dict[str, str] = {}
        self._identity = identity
        self._failures = failures_path(self.path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(f"{self.path}.lock", thread_local=False)
        try:
            self._lock.acquire(timeout=0.2)
        except Timeout as error:
            raise ResultsError(
                f"{self.path}: expected to be its only writer, got a lock of another process; give each process its own file"
            ) from error
        try:
            self._remove_leftovers()
            if self.path.exists() and (not self.path.is_file() or self.path.stat().st_size):
                if resume:
                    self._take_up(frozenset(again))
                elif not overwrite or not self.path.is_file():
                    raise ResultsError(
                        f"{self.path}: expected a new file, got one that is there; resume it, overwrite it or name another"
                    )
            # Failed images are tried again.
            self._failures.unlink(missing_ok=True)
            # Unbuffered, so that a kill leaves at most the last batch unfinished.
            self._file = self.path.open("ab" if resume else "wb", buffering=0)
        except BaseException:
            self._unlock()
            raise

    def write(self, rows: Iterable[ResultRow | FailedImage]) -> None:
        """Append a batch.

        Raises:
            ResultsError: If an image has a row already, or a row was judged by another judge than the file's. Nothing of
                the batch is written then.
            OSError: If the disk is full or the file cannot be written; the error names the file.
        """
        lines, names, failed = [], set[str](), list[FailedImage]()
        for row in rows:
            if isinstance(row, FailedImage):
                failed.append(row)
            else:
                if row.filename in self.done or row.filename in names:
                    raise ResultsError(f"{self.path}: expected an image once, got {row.filename} again")
                self._check(row.identity, row.filename)
                names.add(row.filename)
                lines.append(row.to_json() + "\n")
        try:
            _write_all(self._file, "".join(lines).encode())
            self.done |= names
            if failed:
                with self._failures.open("ab", buffering=0) as file:
                    _write_all(file, "".join(row.to_json() + "\n" for row in failed).encode())
                self.failed |= {row.filename: row.error for row in failed}
        except OSError as error:
            if error.errno is None:
                raise
            raise OSError(
                error.errno, f"{error.strerror}; resume the file once it can be written", str(self.path)
            ) from error

    def close(self) -> None:
        """Close the file and let others write it."""
        if not self._file.closed:
            try:
                self._file.close()
            finally:
                self._unlock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _unlock(self) -> None:
        # Removed while it is held; whoever opened the file before finds it gone and makes a new one.
        Path(self._lock.lock_file).unlink(missing_ok=True)
        self._lock.release()

    def _remove_leftovers(self) -> None:
        """Remove temporary files of a writer that was killed; the lock says that it writes no more."""
        for file in self.path.parent.glob(f"{glob.escape(temporary_prefix(self.path))}*.tmp"):
            file.unlink(missing_ok=True)

    def _check(self, identity: RunIdentity, what: str) -> None:
        if self._identity is None:
            self._identity = identity
        elif identity != self._identity:
            parts = "; ".join(self._identity.differences(identity))
            raise ResultsError(
                f"{self.path}: expected one judge in a file, got {what} with another: {parts}; write to another file"
            )

    def _take_up(self, again: frozenset[str]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of the cut line, which is mended here
            results = read_results(self.path)
        if results.official:
            raise ResultsError(
                f"{self.path}: expected a file of this program to resume, got one of the official script; name another"
            )
        # By name only: two folders may well hold the same prompt, and then two files are image 0 of it.
        counts = Counter(results.filenames)
        double = [name for name, count in counts.items() if count > 1]
        if double:
            raise ResultsError(
                f"{self.path}: expected an image once, got {double[0]}: {counts[double[0]]} lines; remove all but one"
            )
        if results.identities:
            self._check(results.identity, "its lines")
        self.done = set(results.filenames) - again
        self._mend(results)

    def _mend(self, results: Results) -> None:
        """Cut off an unfinished last line and take out the lines of images that are to be scored again."""
        if results.failed or len(self.done) < len(results) or len(results) == 0:
            with open_whole(self.path) as file:
                file.writelines(_lines(self.path, results, self.done))
        elif results.cut is not None:
            os.truncate(self.path, results.cut.offset)
        else:
            with self.path.open("rb+") as file:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")


def _lines(path: Path, results: Results, names: set[str]) -> Iterator[bytes]:
    with path.open("rb") as file:
        for name, offset in zip(results.filenames, results.offsets.tolist(), strict=True):
            if name in names:
                file.seek(offset)
                yield file.readline().rstrip(b"\r\n") + b"\n"


def _write_all(file: FileIO, data: bytes) -> None:
    """Write all of it: an unbuffered file may take a part only."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
