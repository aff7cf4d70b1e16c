"""The recipe as a user runs it: trained, scored, shown in W&B offline, kept by score, and resumed from what was kept."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from geneval_reward.callback import GenEvalCallback
from geneval_reward.results import read_results

for _name in ("diffusers", "wandb", "jsonargparse"):
    pytest.importorskip(_name)

pytestmark = [
    pytest.mark.slow,
    # Of Lightning, jsonargparse, diffusers and W&B among themselves.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:There is a wandb run already in progress"),
    # The kept checkpoint is from within an epoch.
    pytest.mark.filterwarnings("ignore:You.re resuming from a checkpoint that ended before the epoch ended"),
]

ROOT = Path(__file__).parents[2]


def load_recipe() -> Any:
    spec = importlib.util.spec_from_file_location("finetune", ROOT / "recipes" / "finetune_with_callback.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def callback_of(cli: Any) -> GenEvalCallback:
    return next(item for item in cli.trainer.callbacks if isinstance(item, GenEvalCallback))


@pytest.mark.filterwarnings("ignore:.*images of a round are wrong")
def test_train_and_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    for name, value in {
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "WANDB_CONSOLE": "off",
        "WANDB_X_DISABLE_STATS": "true",
        "WANDB_CACHE_DIR": str(tmp_path / "cache"),
        "WANDB_DATA_DIR": str(tmp_path / "data"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.argv", ["finetune"])
    text = (ROOT / "configs" / "finetune_with_callback.yaml").read_text()
    settings = yaml.safe_load(text)
    # W&B's service may be running already, in another folder, and resolves relative paths there.
    out = tmp_path / "out"
    text = text.replace(settings["trainer"]["default_root_dir"], str(out))
    file = tmp_path / "config.yaml"
    file.write_text(text)
    recipe = load_recipe()

    first = recipe.main(["fit", "--config", str(file), "--trainer.enable_progress_bar=false"])
    wandb.finish()
    assert first.trainer.global_step == 12
    assert 0 <= first.trainer.callback_metrics["geneval/overall"] <= 1
    # Each W&B run has a folder of its own: PROJECT/VERSION/geneval.
    folders = sorted(out.glob("*/*/geneval/step-*"))
    assert [folder.name for folder in folders] == ["step-00000006", "step-00000012"]
    results = read_results(folders[1] / "results.jsonl")
    assert len(results) == 12
    assert results.identity.backend == "lite"
    assert len(list((folders[1] / "boxes").glob("*.png"))) == 6
    assert len(list(out.glob("wandb/offline-run-*/*.wandb"))) == 1
    # The first of equal scores is kept.
    kept = torch.load(out / "best.ckpt", weights_only=False)
    assert kept["global_step"] == callback_of(first).best_step
    assert {name.partition(".")[0] for name in kept["state_dict"]} == {"transformer"}

    arguments = ["--trainer.max_steps=18", "--trainer.enable_progress_bar=false", f"--ckpt_path={out / 'best.ckpt'}"]
    second = recipe.main(["fit", "--config", str(file), *arguments])
    wandb.finish()
    assert second.trainer.global_step == 18
    assert list(out.glob("*/*/geneval/step-00000018/results.jsonl"))
    assert callback_of(second).best_score >= callback_of(first).best_score
    assert len(list(out.glob("wandb/offline-run-*/*.wandb"))) == 2
