"""LightningCLI: every argument from YAML, printed and read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import yaml
from tiny_painter import QUIET, RECORDS, data, make_painter

pytest.importorskip("jsonargparse")
from lightning.pytorch.cli import LightningCLI

from geneval_reward.callback import GenEvalCallback

pytestmark = [*QUIET, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture(autouse=True)
def _no_arguments_of_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["fit"])


class Painter(type(make_painter())):  # type: ignore[misc]
    """A module that the CLI can name."""


class Data(pl.LightningDataModule):
    def train_dataloader(self) -> Any:
        return data(2)


def run(root: Path, callback: dict[str, Any], *arguments: str) -> Any:
    config = {
        "seed_everything": 1,
        "trainer": {
            "accelerator": "cpu",
            "max_epochs": 1,
            "default_root_dir": str(root),
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": [callback],
        },
    }
    file = root / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    return LightningCLI(Painter, Data, args=["fit", "--config", str(file), *arguments], save_config_callback=None)


FULL: dict[str, Any] = {
    "class_path": "geneval_reward.callback.GenEvalCallback",
    "init_args": {
        "scorer": "lite",
        "rules": {"confidence": 0.4, "max_objects": 8},
        "prompts": RECORDS[:2],
        "images_per_prompt": 2,
        "every_n_epochs": 1,
        "sample_kwargs": None,
        "max_seconds": 60.0,
        "log_images": 1,
        "on_error": "raise",
        "name": "geneval_cli",
    },
}


@pytest.mark.filterwarnings("ignore:.*images of a round are wrong")
def test_fit_with_nested_rules(tmp_path: Path) -> None:
    cli = run(tmp_path, FULL)
    callback = next(item for item in cli.trainer.callbacks if isinstance(item, GenEvalCallback))
    assert cli.trainer.callback_metrics["geneval_cli/n"] == 4
    assert callback.scorer.rules.confidence == 0.4
    assert callback.scorer.rules.max_objects == 8


@pytest.mark.parametrize(
    "scorer",
    [
        "lite",
        {
            "class_path": "geneval_reward.GenEvalScorer.from_pretrained",
            "init_args": {"backend": "lite", "device": "cpu", "rules": {"confidence": 0.4}},
        },
    ],
    ids=["name", "class_path"],
)
def test_print_config_round_trips(tmp_path: Path, capsys: pytest.CaptureFixture[str], scorer: Any) -> None:
    callback = {"class_path": FULL["class_path"], "init_args": {"scorer": scorer, "every_n_train_steps": 5}}
    with pytest.raises(SystemExit):
        run(tmp_path, callback, "--print_config")
    first = capsys.readouterr().out
    printed = yaml.safe_load(first)["trainer"]["callbacks"][0]
    assert printed["class_path"] == FULL["class_path"]
    assert printed["init_args"]["prompts"] == "suite"
    assert printed["init_args"]["every_n_train_steps"] == 5
    given = printed["init_args"]["scorer"]
    assert given == scorer if isinstance(scorer, str) else given["init_args"]["rules"]["confidence"] == 0.4
    file = tmp_path / "printed.yaml"
    file.write_text(first)
    with pytest.raises(SystemExit):
        LightningCLI(Painter, Data, args=["fit", "--config", str(file), "--print_config"], save_config_callback=None)
    assert capsys.readouterr().out == first


def test_scorer_by_class_path_is_built(tmp_path: Path) -> None:
    scorer = {
        "class_path": "geneval_reward.GenEvalScorer.from_pretrained",
        "init_args": {"backend": "lite", "device": "cpu", "rules": "geneval,confidence=0.45"},
    }
    arguments = {"scorer": scorer, "prompts": RECORDS[:1], "every_n_epochs": 1, "log_images": 0}
    cli = run(tmp_path, {"class_path": FULL["class_path"], "init_args": arguments})
    callback = next(item for item in cli.trainer.callbacks if isinstance(item, GenEvalCallback))
    assert callback.scorer.rules.confidence == 0.45


@pytest.mark.parametrize(("text", "expected"), [("suite", "suite"), ("4", 4)])
def test_prompts_from_the_command_line(tmp_path: Path, text: str, expected: Any) -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser()
    parser.add_class_arguments(GenEvalCallback, "callback")
    parsed = parser.parse_args([f"--callback.prompts={text}", "--callback.every_n_epochs=1"])
    assert parsed.callback.prompts == expected
