from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from tiny_painter import QUIET, RECORDS, data, make_painter, make_trainer, scorer

from geneval_reward.callback import GenEvalCallback
from geneval_reward.callback.progress import RoundBar

pytestmark = QUIET


class Task:
    """What rich's `Progress` offers."""

    def __init__(self) -> None:
        self.log: list[Any] = []

    def add_task(self, name: str, total: int) -> int:
        self.log.append((name, total))
        return 4

    def update(self, task: int, advance: int) -> None:
        self.log.append((task, advance))

    def refresh(self) -> None: ...

    def remove_task(self, task: int) -> None:
        self.log.append(task)


def test_a_task_in_richs_bar() -> None:
    task = Task()
    trainer = SimpleNamespace(progress_bar_callback=SimpleNamespace(progress=task), is_global_zero=True)
    with RoundBar(trainer, "geneval", 5) as bar:
        bar.advance(4)
        bar.advance(4)
    assert task.log == [("geneval", 5), (4, 4), (4, 1), 4]


@pytest.mark.parametrize(("host", "zero"), [(None, True), ("disabled", True), ("bar", False)])
def test_silent(host: Any, zero: bool, capsys: pytest.CaptureFixture[str]) -> None:
    callback = None if host is None else SimpleNamespace(is_disabled=host == "disabled", process_position=0)
    with RoundBar(SimpleNamespace(progress_bar_callback=callback, is_global_zero=zero), "geneval", 5) as bar:
        bar.advance(5)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("kind", [TQDMProgressBar, RichProgressBar, None])
def test_in_a_trainer(tmp_path: Path, kind: Any, capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[bool] = []
    shown: list[Any] = []

    def sample(module: Any, prompts: list[str], seeds: list[int]) -> Any:
        host = module.trainer.progress_bar_callback
        if kind is RichProgressBar:
            shown.extend((task.description, task.total) for task in host.progress.tasks)
        seen.append(host is not None)
        return module.generate(prompts, seeds)

    callback = GenEvalCallback(scorer(), RECORDS, every_n_epochs=1, sample_fn=sample, log_images=0, name="score")
    others = [] if kind is None else [kind()]
    make_trainer(tmp_path, callbacks=[callback, *others], enable_progress_bar=kind is not None).fit(
        make_painter(), data(2)
    )
    out = "".join(capfd.readouterr())
    assert seen == [kind is not None]
    if kind is RichProgressBar:
        assert ("score", 8) in shown
    else:
        assert ("score:" in out) == (kind is TQDMProgressBar)
