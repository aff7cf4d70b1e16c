"""A bar of its own for a round, below the trainer's."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self


class RoundBar:
    """Progress of a round in whatever bar the trainer shows: a task in Rich's, a nested tqdm bar otherwise.

    Nothing is shown on other ranks than 0, with `enable_progress_bar=False`, or where the trainer's own bar is disabled.

    Args:
        trainer: The Lightning trainer.
        name: What is shown in front.
        total: Number of images, of all ranks.
    """

    def __init__(self, trainer: Any, name: str, total: int) -> None:
        self._host = trainer.progress_bar_callback if trainer.is_global_zero else None
        if self._host is not None and getattr(self._host, "is_disabled", False):
            self._host = None
        self._name, self._total = name, total
        self._done = 0
        self._rich: Any = None
        self._task: Any = None
        self._tqdm: Any = None

    def __enter__(self) -> Self:
        if self._host is None:
            return self
        self._rich = getattr(self._host, "progress", None)
        if self._rich is not None:
            self._task = self._rich.add_task(self._name, total=self._total)
            return self
        from tqdm.auto import tqdm  # type: ignore[import-untyped, unused-ignore]

        # Below Lightning's own bars, which take two lines for each process position.
        position = 2 * getattr(self._host, "process_position", 0) + 1
        self._tqdm = tqdm(desc=self._name, total=self._total, position=position, leave=False, unit="image")
        return self

    def advance(self, images: int) -> None:
        """So many more images are done, by all ranks together; never goes past the total."""
        step = min(images, self._total - self._done)
        self._done += step
        if self._task is not None:
            self._rich.update(self._task, advance=step)
            self._rich.refresh()
        elif self._tqdm is not None:
            self._tqdm.update(step)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._rich.remove_task(self._task)
            self._task = None
        if self._tqdm is not None:
            self._tqdm.close()
            self._tqdm = None
