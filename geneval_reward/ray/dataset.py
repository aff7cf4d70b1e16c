"""`score_dataset`: score a whole data set on a Ray cluster, resumable by shard.

Each actor holds one scorer and writes one results file per shard, so that a killed actor, node or driver loses only the current
batch. Ray restarts the actor and repeats the shard, whose file records what is done.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geneval_reward.errors import GenEvalError, ResultsError, ServiceError, UsageError
from geneval_reward.ray.pool import ActorPool
from geneval_reward.ray.runtime import Recipe, Workers, import_ray
from geneval_reward.ray.work import ShardReport, done_path
from geneval_reward.results.merge import merge_shards
from geneval_reward.results.record import failures_path
from geneval_reward.results.shards import Source, open_source

if TYPE_CHECKING:
    from geneval_reward.scorer import Scorer


@dataclass(frozen=True)
class DatasetScores:
    """Results of scoring a data set.

    Attributes:
        path: The results file.
        images: Number of images with a row.
        failed: Number of images that could not be scored; `<name>.failed.jsonl` lists them with the reason.
        shards: Number of shards.
        taken: Number of shards that an earlier run had finished.
        problems: What is missing from a folder, one sentence each.
    """

    path: Path
    images: int
    failed: int
    shards: int
    taken: int
    problems: list[str] = field(default_factory=list)


def score_dataset(
    source: str | Path | Sequence[str | Path] | Source,
    out: str | Path,
    scorer: str | Callable[[], Scorer] = "lite",
    *,
    metadata: str | Path | None = None,
    workers: int | None = None,
    cpus_per_worker: float = 1,
    gpus_per_worker: float | None = None,
    start_timeout: float = 120.0,
    shard_size: int = 256,
    resume: bool = False,
    overwrite: bool = False,
    address: str | None = None,
    progress: Callable[[ShardReport], None] | None = None,
    **options: Any,
) -> DatasetScores:
    """Score a data set with one actor per GPU, or per CPU if there is no GPU.

    Args:
        source: A folder of images (the benchmark's layout, or flat with `metadata`); WebDataset tar files, whose samples hold
            an image (`png`, `jpg`, `webp`) and a `json` with the record, its prompt text, or either under `metadata`
            (or a `txt` with the text); parquet files with a column `image` of bytes, or `{"bytes": ...}`, and the record
            in the column `metadata` or in `tag`, `include`, `exclude`, `prompt`. Pass one file, a list of files, a folder of
            them, or the result of `geneval_reward.results.shards.open_source`. Paths must be the same on all nodes.
        out: The results file. The files of the shards are kept in `<out>.shards/`.
        scorer: The name of a backend, a function that makes a scorer, or its import path.
        metadata: Records for a flat folder, as in `geneval_reward.results.layout.read_folder`.
        workers: Number of actors; None for as many as fit.
        cpus_per_worker: CPUs per actor.
        gpus_per_worker: GPUs per actor; None for one if the cluster has any.
        start_timeout: Seconds that the cluster may take to find room for the actors; loading is not counted.
        shard_size: Number of images per shard of a folder.
        resume: Continue from `<out>.shards/`.
        overwrite: Start over.
        address: Address of a cluster, such as `auto`; None for that of this process, that of `RAY_ADDRESS`, or a new one on
            this machine.
        progress: Called with the report of each finished shard.
        **options: Passed to `GenEvalScorer.from_pretrained`.

    Returns:
        Counts and the results file. Rows are in the order of the data set, regardless of which worker scored them.

    Raises:
        DependencyError: Without the extra `geneval_reward[ray]`.
        FileExistsError: If results are there and neither `resume` nor `overwrite` is set.
        ResultsError: If there is nothing to score, or another scorer judged the shards of an earlier run.
        ServiceError: If Ray cannot be reached or started, or has no room for a worker in time.
        GenEvalError: If a worker cannot make its scorer or score a shard; the results of the others are kept.
    """
    import_ray()
    recipe = Recipe(scorer, options)
    asked = Workers(workers, cpus_per_worker, gpus_per_worker, start_timeout)
    if not isinstance(source, Source):
        source = open_source(source, metadata, shard_size=shard_size)
    out = Path(out)
    folder = out.with_name(out.name + ".shards")
    _make_room(out, folder, resume=resume, overwrite=overwrite)
    files = {shard.name: folder / f"{shard.name}.jsonl" for shard in source.shards}
    todo = [shard for shard in source.shards if not _is_done(files[shard.name])]
    for shard in todo:
        files[shard.name].with_suffix(".tries").unlink(missing_ok=True)
    if todo:
        # Each shard counts the deaths at each place itself, so Ray may repeat its call any number of times.
        pool = ActorPool(recipe, asked, address, max_deaths=None, at_most=len(todo))
        try:
            for number, report in pool.map("score_shard", [(shard, files[shard.name].resolve()) for shard in todo]):
                if isinstance(report, ServiceError):
                    reason = str(report).removeprefix("ray: ")
                    raise GenEvalError(f"ray: {todo[number].name}: {reason}") from report
                if progress is not None:
                    progress(report)
        finally:
            pool.close()
    images = merge_shards(list(files.values()), out)
    failed = failures_path(out)
    count = len(failed.read_bytes().splitlines()) if failed.exists() else 0
    return DatasetScores(out, images, count, len(files), len(files) - len(todo), source.problems)


def _make_room(out: Path, folder: Path, *, resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise UsageError("resume, overwrite: expected at most one of the two, got both")
    if resume and out.exists() and not folder.is_dir():
        raise ResultsError(
            f"{out}: expected its shards in {folder.name} to resume, got none; it was not made with Ray, so resume it without"
        )
    if not (resume or overwrite) and (out.exists() or folder.exists()):
        there = out if out.exists() else folder
        raise FileExistsError(
            f"{there}: expected new results, got some that are there; resume, overwrite or name another file"
        )
    if overwrite:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)


def _is_done(path: Path) -> bool:
    """Return whether a shard is finished and nothing in it should be retried."""
    return done_path(path).exists() and not failures_path(path).exists()
