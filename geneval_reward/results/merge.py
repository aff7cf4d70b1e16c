"""`merge_shards`: make one results file of those of shards; `summary` and `compare` read it like any other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from geneval_reward.errors import ResultsError
from geneval_reward.results import Results, RunIdentity, read_results
from geneval_reward.results.record import dump_record, failures_path, load_line
from geneval_reward.support.files import open_whole, write_whole


def merge_shards(paths: Sequence[Path], out: Path) -> int:
    """Write the rows of all shards, in order, to one file, or write nothing at all.

    Images that do not say their number within their prompt get one here, in the order of the shards.

    Args:
        paths: Results files of shards. A file that does not exist, or is empty, has no rows.
        out: The file; it is replaced if it exists. Failed images go into the file beside it.

    Returns:
        Number of rows.

    Raises:
        ResultsError: If shards were judged by different judges, an image has two rows, or there are no rows at all.
    """
    identity: tuple[RunIdentity, Path] | None = None
    homes: dict[str, Path] = {}
    numbers: Counter[str] = Counter()
    failures: list[bytes] = []
    try:
        with open_whole(out) as file:
            for path in paths:
                failed = failures_path(path)
                if failed.exists():
                    failures.append(failed.read_bytes())
                if not path.exists() or not path.stat().st_size:
                    continue
                results = read_results(path)
                if identity is None:
                    identity = results.identity, path
                elif results.identity != identity[0]:
                    parts = "; ".join(identity[0].differences(results.identity))
                    raise ResultsError(
                        f"{path}: expected the judge of {identity[1].name}, got another: {parts}; remove it and resume"
                    )
                for filename in results.filenames:
                    if filename in homes:
                        raise ResultsError(
                            f"{path}: expected an image once, got {filename} in {homes[filename].name} too; rename one"
                        )
                    homes[filename] = path
                file.writelines(_lines(results, numbers))
            if not homes:
                raise ResultsError(
                    f"{out}: expected at least one image that was scored, got none; see {failures_path(out).name}"
                )
    finally:
        _write_failures(out, failures)
    return len(homes)


def _lines(results: Results, numbers: Counter[str]) -> list[bytes]:
    lines = []
    with results.path.open("rb") as file:
        for i, offset in enumerate(results.offsets.tolist()):
            file.seek(offset)
            line = file.readline().rstrip(b"\r\n") + b"\n"
            if results.index[i] < 0:
                record = load_line(line.decode(), str(results.path))
                record["index"] = numbers[record["metadata"]]
                numbers[record["metadata"]] += 1
                line = dump_record(record, record["filename"]).encode() + b"\n"
            lines.append(line)
    return lines


def _write_failures(out: Path, failures: Sequence[bytes]) -> None:
    path = failures_path(out)
    path.unlink(missing_ok=True)
    if any(failures):
        # A killed writer leaves an unfinished last line, which must not be glued to the next shard's first.
        whole = (text if text.endswith(b"\n") else text[: text.rfind(b"\n") + 1] for text in failures)
        write_whole(path, b"".join(whole))
