"""`ResultWriter`: results written as they come, resumable after a kill, never an image twice."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from geneval_reward.errors import ResultsError, UsageError
from geneval_reward.results.columns import Results
from geneval_reward.results.reader import read_results
from geneval_reward.results.record import failures_path
from geneval_reward.results.row import FailedImage, ResultRow, RunIdentity


class ResultWriter:
    """Appends rows to a results file; what was written is on disk when `write` returns.

    Use it in a `with` statement. While it is open, `<path>.lock` keeps other writers away.

    Args:
        path: The file.
        resume: Go on with a file that is there. An unfinished last line is cut off, and failed images are tried again.
        overwrite: Begin anew even if the file is there.
        identity: What judges in this run, to refuse a file of another judge before any work is done. None: what the file's
            or the first row says.

    Attributes:
        path: The file.
        done: Names of images that have a row.
        failed: Images that failed in this run, with the reason.

    Raises:
        ResultsError: If the file is there and neither `resume` nor `overwrite` is set, if it was judged by another
            backend, fingerprint or rules, holds an image twice, is damaged before its last line, or is being written by
            another process.

    Example:
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
        self, path: str | Path, *, resume: bool = False, overwrite: bool = False, identity: RunIdentity | None = None
    ) -> None:
        if resume and overwrite:
            raise UsageError("resume, overwrite: expected at most one of the two, got both")
        self.path = Path(path)
        self.done: set[str] = set()
        self.failed: dict[str, str] = {}
        self._identity = identity
        self._failures = failures_path(self.path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(f"{self.path}.lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise ResultsError(
                f"{self.path}: expected to be its only writer, got a lock of another process; give each process its own file"
            ) from error
        try:
            if self.path.exists() and self.path.stat().st_size:
                if resume:
                    self._take_up()
                elif not overwrite:
                    raise ResultsError(
                        f"{self.path}: expected a new file, got one that is there; resume it, overwrite it or name another"
                    )
            # Failed images are tried again.
            self._failures.unlink(missing_ok=True)
            # Unbuffered: a kill leaves at most the last batch unfinished.
            self._file = self.path.open("ab" if resume else "wb", buffering=0)
        except BaseException:
            self._release()
            raise

    def write(self, rows: Iterable[ResultRow | FailedImage]) -> None:
        """Append a batch.

        Raises:
            ResultsError: If an image has a row already, or a row was judged by another judge than the file's. Nothing of
                the batch is written then.
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
        data = memoryview("".join(lines).encode())
        while data:
            data = data[self._file.write(data) :]
        self.done |= names
        if failed:
            with self._failures.open("a", encoding="utf-8") as file:
                file.writelines(row.to_json() + "\n" for row in failed)
            self.failed |= {row.filename: row.error for row in failed}

    def close(self) -> None:
        """Close the file and let others write it."""
        if not self._file.closed:
            self._file.close()
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _release(self) -> None:
        self._lock.release()
        Path(self._lock.lock_file).unlink(missing_ok=True)

    def _check(self, identity: RunIdentity, what: str) -> None:
        if self._identity is None:
            self._identity = identity
        elif identity != self._identity:
            parts = "; ".join(self._identity.differences(identity))
            raise ResultsError(
                f"{self.path}: expected one judge in a file, got {what} with another: {parts}; write to another file"
            )

    def _take_up(self) -> None:
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
        self.done = set(results.filenames)
        self._mend(results)

    def _mend(self, results: Results) -> None:
        """Cut off an unfinished last line and take out the lines of images that are to be tried again."""
        if results.failed or len(results) == 0:
            keep = b"".join(_lines(self.path, results))
            handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=self.path.name)
            with os.fdopen(handle, "wb") as file:
                file.write(keep)
            os.replace(name, self.path)
        elif results.cut is not None:
            os.truncate(self.path, results.cut.offset)
        else:
            with self.path.open("rb+") as file:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")


def _lines(path: Path, results: Results) -> Iterable[bytes]:
    with path.open("rb") as file:
        for offset in results.offsets.tolist():
            file.seek(offset)
            yield file.readline().rstrip(b"\r\n") + b"\n"
