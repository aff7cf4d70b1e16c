"""`score_dataset`: a whole data set on a Ray cluster, resumable by shard.

Ray Data runs a pool of actors over the list of shards. An actor holds one scorer and writes one results file a shard, so a
killed actor, node or driver costs the batch it was at: Ray starts the actor again and gives it the shard anew, and the shard's
file says what is done.
"""

from __future__ import annotations

import logging
import pickle
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geneval_reward.errors import GenEvalError, ResultsError, UsageError
from geneval_reward.ray.runtime import Recipe, cluster, import_ray, share
from geneval_reward.ray.shards import Shard, Source, open_source
from geneval_reward.ray.work import ShardReport, done_path, score_shard
from geneval_reward.results.merge import merge_shards
from geneval_reward.results.record import failures_path

if TYPE_CHECKING:
    from geneval_reward.scorer import GenEvalScorer

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DatasetScores:
    """What became of a data set.

    Attributes:
        path: Its results file.
        images: Images with a row.
        failed: Images that could not be scored; they stand with their reason in `<name>.failed.jsonl`.
        shards: Number of shards.
        taken: Shards that an earlier run had finished.
        problems: What a folder lacks, a sentence each.
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
    scorer: str | Callable[[], GenEvalScorer] = "lite",
    *,
    metadata: str | Path | None = None,
    workers: int | None = None,
    cpus_per_worker: float = 1,
    gpus_per_worker: float | None = None,
    shard_size: int = 256,
    resume: bool = False,
    overwrite: bool = False,
    address: str | None = None,
    progress: Callable[[ShardReport], None] | None = None,
    **options: Any,
) -> DatasetScores:
    """Score a data set with one actor a GPU, or a CPU where there is none.

    Args:
        source: A folder of images (the benchmark's layout, or flat with `metadata`); WebDataset tar files, whose samples hold
            an image (`png`, `jpg`, `webp`) and a `json` with the record, its prompt text, or either under `metadata`
            (or a `txt` with the text); parquet files with a column `image` of bytes, or `{"bytes": ...}`, and the record
            in the column `metadata` or in `tag`, `include`, `exclude`, `prompt`. One file, a list, or a folder of them.
            Or what `geneval_reward.ray.shards.open_source` gave. Paths must be the same on all nodes.
        out: The results file. Those of the shards are kept in `<out>.shards/`.
        scorer: The name of a backend, or a function that makes a scorer.
        metadata: For a flat folder, see `geneval_reward.results.layout.read_folder`.
        workers: Number of actors; None: as many as there is room for.
        cpus_per_worker: CPUs of each.
        gpus_per_worker: GPUs of each; None: one where there are any.
        shard_size: Images in a shard of a folder.
        resume: Go on with what `<out>.shards/` holds.
        overwrite: Begin anew.
        address: Of a cluster, such as `auto`. None: that of this process, of `RAY_ADDRESS`, or a new one on this machine.
        progress: Is told of each shard when it is finished.
        **options: Passed to `GenEvalScorer.from_pretrained`.

    Returns:
        Counts and the results file. The order of rows is that of the data set, whoever scored them.

    Raises:
        ModuleNotFoundError: Without the extra `geneval_reward[ray]`.
        FileExistsError: If results are there and neither `resume` nor `overwrite` is set.
        ResultsError: If there is nothing to score, or shards of an earlier run were judged by another judge.
        GenEvalError: If a worker cannot make its scorer or score a shard; what the others have done is kept.
    """
    import_ray()
    recipe = Recipe(scorer, options)
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
        with cluster(address) as ray:
            for report in _run(ray, recipe, todo, files, share(ray, workers, cpus_per_worker, gpus_per_worker)):
                if progress is not None:
                    progress(report)
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
    """Whether a shard is finished, and nothing in it is to be tried again."""
    return done_path(path).exists() and not failures_path(path).exists()


def _run(ray: Any, recipe: Recipe, shards: Sequence[Shard], files: dict[str, Path], how: Any) -> Iterator[ShardReport]:
    import ray.data

    rows = [{"task": pickle.dumps((shard, files[shard.name].resolve()))} for shard in shards]
    workers = min(how.workers, len(rows))
    context = ray.data.DataContext.get_current()
    bars, context.enable_progress_bars = context.enable_progress_bars, False
    # Shards are reported one by one; Ray Data's account of its plan is for whoever asks Ray for it.
    log = logging.getLogger("ray.data")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        data = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _ShardScorer,
            fn_constructor_args=(recipe,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=how.cpus,
            num_gpus=how.gpus,
        )
        for row in data.iter_rows():
            answer = pickle.loads(row["report"])
            if isinstance(answer, str):
                raise GenEvalError(f"ray: {answer}")
            yield answer
    finally:
        context.enable_progress_bars = bars
        log.setLevel(level)


class _ShardScorer:
    """An actor of Ray Data: one scorer, a shard a call."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.scorer: GenEvalScorer | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        # What goes wrong comes back as a value: an exception here would reach the driver as a page of Ray's own.
        answers: list[ShardReport | str] = []
        for task in batch["task"]:
            shard, path = pickle.loads(bytes(task))
            try:
                if self.scorer is None:
                    self.scorer = self.recipe.make()
                answers.append(score_shard(self.scorer, shard, path))
            except Exception as error:  # noqa: BLE001 - see above
                _log.exception("ray: shard %s failed", shard.name)
                answers.append(f"{shard.name}: {error}")
        return {"report": np.array([pickle.dumps(answer) for answer in answers], dtype=object)}
