"""The round on disk: results, pictures as they were judged, and pictures with boxes."""

from __future__ import annotations

import json
from pathlib import Path

from geneval_reward.callback.tracking.record import ScoreRecord
from geneval_reward.results import ResultWriter
from geneval_reward.results.drawing import draw_verdict


def round_folder(log_dir: str | Path, name: str, step: int) -> Path:
    """Where a round's files lie."""
    return Path(log_dir) / name / f"step-{step:08d}"


def write_round(record: ScoreRecord, folder: Path) -> Path:
    """Write `results.jsonl` (all images), `summary.json`, the shown pictures, and the same with boxes under `boxes/`.

    Args:
        record: The round.
        folder: Made if it is not there; an earlier round of the same step is replaced.

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
            # Lossless all the same, and four times as fast as the default; training waits for it.
            picture.save(path, compress_level=1)
    return results
