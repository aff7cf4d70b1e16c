"""Writing a round to disk: results, the judged pictures, and the same pictures with boxes."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from geneval_reward.callback.tracking.record import ScoreRecord
from geneval_reward.results import ResultWriter
from geneval_reward.results.drawing import draw_verdict


def run_folder(trainer: Any, name: str, resumed: str | None = None) -> Path:
    """Choose a folder for a run's rounds that no other run uses.

    As with `ModelCheckpoint`, it is below the first logger's folder for the run: `log_dir` if the logger has one, else
    `<save_dir>/<name>/<version>`. Without a logger it is below `trainer.default_root_dir`, and is numbered if it already
    holds rounds of an earlier run.

    Args:
        trainer: The Lightning trainer.
        name: Name of the folder.
        resumed: The folder's name before the run was resumed; None for a new run.
    """
    if not trainer.loggers:
        root = Path(trainer.default_root_dir)
        if resumed is not None:
            return root / resumed
        for number in itertools.count():
            folder = root / (f"{name}-v{number}" if number else name)
            if not any(folder.glob("step-*")):
                return folder
    logger = trainer.loggers[0]
    if isinstance(log_dir := getattr(logger, "log_dir", None), str):
        return Path(log_dir) / name
    _ = logger.experiment  # starts the run, which determines its id
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    return Path(logger.save_dir or trainer.default_root_dir) / str(logger.name) / version / name


def write_round(record: ScoreRecord, folder: Path) -> Path:
    """Write `results.jsonl` (all images), `summary.json`, the shown pictures, and the same pictures with boxes in `boxes/`.

    The pictures are stored in the benchmark's layout with their records, so `geneval-reward score FOLDER` can judge them again.

    Args:
        record: The round.
        folder: Created if missing; an earlier round of the same step is replaced.

    Returns:
        The results file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / "results.jsonl"
    with ResultWriter(results, overwrite=True) as writer:
        writer.write(record.rows())
    summary = {"step": record.step, "metrics": dict(record.metrics), "fingerprint": dict(record.fingerprint)}
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    for sample in record.shown:
        assert sample.image is not None
        for path, picture in (
            (folder / sample.filename, sample.image),
            (folder / "boxes" / sample.filename.replace("/samples/", "_"), draw_verdict(sample.image, sample.verdict)),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Training waits for this; the setting is still lossless and four times as fast as the default.
            picture.save(path, compress_level=1)
        record_file = folder / Path(sample.filename).parts[0] / "metadata.jsonl"
        record_file.write_text(sample.verdict.spec.to_json() + "\n", encoding="utf-8")
    return results
