"""`annotate`: score a data set by several rewards into one table."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from geneval_reward.annotate.engines import run_here, run_processes, run_ray
from geneval_reward.annotate.part import Job, PartReport, Setup
from geneval_reward.annotate.rewards import RewardSpecs, is_credit, parse_rewards
from geneval_reward.annotate.sources import FolderPiece, Part, open_parts
from geneval_reward.annotate.table import AFTER, BEFORE, ShardState, StoredTable, TableInfo, read_info, write_table
from geneval_reward.errors import ResultsError, UsageError
from geneval_reward.support.files import temporary_prefix

ENGINES: Final = ("local", "ray")


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        parts: Number of parts that it annotates.
        done: Number of those that are finished.
        samples: Number of samples that it has read.
    """

    parts: int
    done: int = 0
    samples: int = 0


@dataclass(frozen=True)
class AnnotationRun:
    """What a run of `annotate` gave.

    Attributes:
        path: The table.
        samples: Number of samples that were read; those of parts that were complete are not.
        scored: Number of those of which something was scored, and not only taken over.
        changed: Number of samples that are not what they were when an earlier run scored them.
        problems: What is wrong with the data set or its parts, one sentence each.
        notes: What a user should know although nothing is wrong.
    """

    path: Path
    samples: int
    scored: int
    changed: int
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def annotate(
    source: str | Path | Sequence[str | Path],
    out: str | Path,
    rewards: RewardSpecs,
    *,
    records: str | Path | Mapping[str, Any] | None = None,
    parse: bool = False,
    caption: str | None = None,
    scorer: Any = "lite",
    engine: str = "local",
    workers: int | None = None,
    overwrite: bool = False,
    address: str | None = None,
    progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> AnnotationRun:
    """Score the images of a data set by several rewards into one table, a row per sample.

    Run again, it goes on where it was stopped, adds the columns of other rewards, tries again what is empty, and scores again the
    samples that have changed.

    Args:
        source: Tar files (WebDataset), parquet files, a folder of either, a list of them, a folder that
            `datasets.Dataset.save_to_disk` wrote, or a folder of images with `metadata.jsonl`, with texts beside them, or in the
            benchmark's layout.
        out: The table, a parquet file. `<out>.parts/` stands beside it while it is made.
        rewards: What `geneval_reward.annotate.parse_rewards` takes: names such as `geneval_partial`, `pick_score` or
            `module:function`, or functions by the name of their column.
        records: The records that `geneval_*` is judged by: JSON lines with the sample's `key` and the record, or a mapping. They
            take precedence over records in the data set.
        parse: Whether captions that are no prompts of the official suite are read by `PromptSpec.from_text`.
        caption: The column, key of the samples' `json`, or file of the sample that holds the caption; None for `txt`, `caption`,
            `text`, `prompt`, or the record's prompt, whichever is there first.
        scorer: What judges `geneval_*`: the name of a backend, an import path, a scorer, or a function that makes one.
        engine: `local`, or `ray` for a cluster.
        workers: Number of processes, or of Ray workers; None for this process, or as many as a cluster has room for.
        overwrite: Whether to drop what the table has of these rewards, and the whole table if its captions are others.
        address: Address of a Ray cluster.
        progress: Called after every batch and every part.
        **options: Options of the scorer, such as `device`.

    Returns:
        Counts and problems; `read_annotations` reads the table.

    Raises:
        UsageError: If an argument is not valid.
        ResultsError: If there is nothing to score, `out` is another file, or the table was made with another judge, reward or
            caption.
        GenEvalError: If a reward cannot be loaded, or gives no value for any image.
    """
    specs = parse_rewards(rewards)
    if reserved := sorted({spec.name for spec in specs} & {*BEFORE, *AFTER}):
        raise UsageError(
            f"rewards: expected names that are no columns of the table, got {reserved[0]}; name it with NAME="
        )
    if engine not in ENGINES:
        raise UsageError(f"engine: expected one of {', '.join(ENGINES)}, got {engine!r}")
    if workers is not None and workers < 1:
        raise UsageError(f"workers: expected an integer >= 1, got {workers!r}")
    judged = any(spec.kind == "credit" for spec in specs)
    if parse and not judged:
        raise UsageError("parse: expected it with a reward that is judged by a record, got none; leave it out")
    parts, problems = open_parts(source)
    out = Path(out)
    folder = out.with_name(out.name + ".parts")
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock", thread_local=False)
    try:
        lock.acquire(timeout=0.2)
    except Timeout as error:
        raise ResultsError(f"{out}: expected to be its only writer, got another run at work; wait for it") from error
    try:
        _remove_temporary(out, folder)
        if overwrite:
            _drop(out, folder, [spec.name for spec in specs], caption)
        known = _known_info(out, folder, caption)
        setup = Setup(specs, scorer, options, records, parse, caption, known, overwrite)
        names = [spec.name for spec in specs]
        jobs = [job for job in _jobs(parts, out, folder) if not _is_complete(job, names)]
        run = _Watch(len(jobs), progress)
        if jobs:
            if engine == "ray":
                run_ray(setup, jobs, run.tick, run.done, workers, address)
            elif (workers or 1) > 1:
                run_processes(setup, jobs, run.tick, run.done, min(workers or 1, len(jobs)))
            else:
                run_here(setup, jobs, run.tick, run.done)
        problems += [report.problem for report in run.reports if report.problem]
        notes = _assemble(out, folder, parts, names)
        rows, scored, changed, gone = (
            sum(getattr(one, name) for one in run.reports) for name in ("rows", "scored", "changed", "gone")
        )
        if gone:
            notes.append(f"{gone:,} rows of samples that are no longer in their part have left the table")
        return AnnotationRun(out, rows, scored, changed, problems, notes)
    finally:
        lock.release()
        if not _unfinished(folder):
            shutil.rmtree(folder, ignore_errors=True)


class _Watch:
    """Collects reports, and tells the caller how far the run is."""

    def __init__(self, parts: int, progress: Callable[[Progress], None] | None) -> None:
        self.samples, self.reports = 0, list[PartReport]()
        self._parts, self._progress = parts, progress
        self._tell()

    def tick(self, count: int) -> None:
        self.samples += count
        self._tell()

    def done(self, report: PartReport) -> None:
        self.reports.append(report)
        self._tell()

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(Progress(self._parts, len(self.reports), self.samples))


def _remove_temporary(out: Path, folder: Path) -> None:
    """Remove what a killed run was writing; the lock says that it writes no more."""
    for file in [*out.parent.glob(f"{temporary_prefix(out)}*.tmp"), *folder.glob(".*.tmp")]:
        file.unlink(missing_ok=True)


def _unfinished(folder: Path) -> list[Path]:
    """The files of an interrupted run, parts before pieces."""
    return [*sorted(folder.glob("*.parquet")), *sorted(folder.glob("*.piece"))]


def _stored(out: Path, folder: Path) -> list[Path]:
    return [out, *_unfinished(folder)] if out.exists() else _unfinished(folder)


def _known_info(out: Path, folder: Path, caption: str | None) -> TableInfo:
    """What the table and the parts of an interrupted run were made with."""
    found = [(path, read_info(path)) for path in _stored(out, folder)]
    for path, info in found:
        if info.caption_name != caption:
            raise ResultsError(
                f"{path}: expected captions from {_captions(caption)}, got a table with those from "
                f"{_captions(info.caption_name)}; name another file, or pass --overwrite (overwrite=True) to start over"
            )
    return replace(_merged([info for _, info in found]), caption_name=caption)


def _merged(infos: Sequence[TableInfo]) -> TableInfo:
    """Join what several files say; they were made with the same judge, or a worker would have refused."""
    whole = TableInfo()
    for info in infos:
        judge = (info.judge, info.rules) if info.judge is not None else (whole.judge, whole.rules)
        whole = TableInfo(info.caption_name, whole.identities | info.identities, *judge)
    return whole


def _captions(name: str | None) -> str:
    return "the usual places" if name is None else repr(name)


def _drop(out: Path, folder: Path, names: Sequence[str], caption: str | None) -> None:
    """Forget what is known of some rewards, before they are scored again."""
    for path in _unfinished(folder):
        path.unlink()
    if not out.exists():
        return
    stored = StoredTable(out)
    identities = {name: text for name, text in stored.info.identities.items() if name not in names}
    if stored.info.caption_name != caption or not identities:
        out.unlink()
        return
    info = replace(stored.info, identities=identities)
    if not any(is_credit(text) for text in identities.values()):
        info = replace(info, judge=None, rules=None)
    write_table(out, (stored.rows(state.label) for state in info.shards if state.rows), info)


def _jobs(parts: Sequence[Part], out: Path, folder: Path) -> list[Job]:
    table = out.resolve() if out.exists() else None
    return [Job(part, (folder / f"{part.label}.parquet").resolve(), table) for part in parts]


def _state(job: Job) -> tuple[ShardState | None, TableInfo | None]:
    """What is known of a part: by an interrupted run, or else in the table."""
    for path in (job.path, job.table):
        if path is not None and path.exists():
            info = read_info(path)
            state = next((one for one in info.shards if one.label == job.part.label), None)
            if state is not None:
                return state, info
    return None, None


def _is_complete(job: Job, names: Sequence[str]) -> bool:
    state, info = _state(job)
    if state is None or info is None or state.digest != job.part.digest:
        return False
    return all(name in info.identities and not state.empty.get(name, state.rows) for name in names)


def _assemble(out: Path, folder: Path, parts: Sequence[Part], names: Sequence[str]) -> list[str]:
    """Write the table: the rows of every part, from this run or from the table that is there."""
    jobs = _jobs(parts, out, folder)
    known = _merged([read_info(path) for path in _stored(out, folder)])
    places: list[tuple[Path, ShardState]] = []
    for job in jobs:
        state = _state(job)[0]
        if state is not None:
            places.append((job.path if job.path.exists() else out, state))
    notes = []
    left = _other_parts(out, parts)
    if left:
        places += [(out, state) for state in left]
        notes.append(
            f"{sum(state.rows for state in left):,} rows of parts that are not in this data set, such as {left[0].label}, "
            "stay in the table"
        )
    states = [
        replace(state, empty={name: state.empty.get(name, state.rows) for name in known.identities})
        for _, state in places
    ]
    # A reward that was given up before it gave a value is no column.
    before = read_info(out).identities if out.exists() else {}
    kept = [
        name
        for name in known.identities
        if name in names or name in before or any(one.empty[name] < one.rows for one in states)
    ]
    info = replace(known, identities={name: known.identities[name] for name in kept}, shards=tuple(states))
    write_table(out, (StoredTable(path).rows(state.label) for path, state in places if state.rows), info)
    for file in _unfinished(folder):
        file.unlink()
    return notes


def _other_parts(out: Path, parts: Sequence[Part]) -> list[ShardState]:
    """The parts that the table has and the data set has not; pieces of a folder are not told apart from those of another."""
    if not out.exists() or any(isinstance(part, FolderPiece) for part in parts):
        return []
    labels = {part.label for part in parts}
    return [state for state in read_info(out).shards if state.label not in labels]
