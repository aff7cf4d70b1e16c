"""Load judges by their names on the command line and in options."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from geneval_reward.errors import UsageError
from geneval_reward.scorer import GenEvalScorer, LazyScorer, Scorer
from geneval_reward.support.imports import is_import_path

if TYPE_CHECKING:
    from geneval_reward.judges.vqa import ImageTextModel


def open_model(name: str, *, cache: str | Path | None = None, **options: Any) -> ImageTextModel:
    """Open an image-text model.

    Args:
        name: A folder or hub name of a transformers model, or a server's address, optionally with the model's name:
            `http://localhost:8000/v1#Qwen/Qwen2.5-VL-7B-Instruct`.
        cache: Folder for a server's answers.
        **options: Arguments of `LocalModel.from_pretrained` or of `ServerModel`.
    """
    from geneval_reward.judges.local import LocalModel
    from geneval_reward.judges.server import ServerModel

    if name.startswith(("http://", "https://")):
        url, _, model = name.partition("#")
        return ServerModel(url, model or None, cache=cache, **options)
    if cache is not None:
        raise UsageError(f"cache: expected it with a server's address, got the model {name!r}")
    return LocalModel.from_pretrained(name, **options)


def load_scorer(backend: str, *, checkpoint: str | None = None, **options: Any) -> Scorer:
    """Load a scorer by what `--backend` takes: `vqa`, a backend of `GenEvalScorer`, or the import path of a scorer of one's own.

    Args:
        backend: The name or import path.
        checkpoint: With `vqa` the model, as `open_model` takes it; else the detector's checkpoint.
        **options: Options of `GenEvalScorer.from_pretrained`. `vqa` takes `device`, `precision` and `cache`.

    Raises:
        UsageError: If `vqa` has no model, or `vqa` or a scorer of one's own gets an option that it does not take.
    """
    if is_import_path(backend):
        return LazyScorer(backend, checkpoint=checkpoint, **options).load()
    if backend != "vqa":
        detector: dict[str, Any] = {} if checkpoint is None else {"checkpoint": checkpoint}
        return GenEvalScorer.from_pretrained(backend, **options, **detector)
    if checkpoint is None:
        raise UsageError(
            "checkpoint: expected the model of the vqa backend (a folder, a hub name or a server's address), got none; "
            "give it as --checkpoint"
        )
    kept = {name: value for name, value in options.items() if value not in (None, False)}
    if checkpoint.startswith(("http://", "https://")):
        # A server decides its own device and precision.
        kept = {
            name: value for name, value in kept.items() if not (name in ("device", "precision") and value == "auto")
        }
    known = {"device", "precision", "cache", "mean", "timeout", "key"}
    if unknown := sorted(set(kept) - known):
        raise UsageError(
            f"{unknown[0]}: expected no {unknown[0]} with the vqa backend, got {kept[unknown[0]]!r}; leave it out"
        )
    from geneval_reward.judges.vqa import VQAScorer

    return VQAScorer(checkpoint, **kept)
