"""MIRO on the pocket world with its controls, three seeds: python benchmarks/miro_pocket.py train|measure|table

    python benchmarks/miro_pocket.py train --arm tokens --seed 0        # one of nine runs, about 8 CPU minutes
    python benchmarks/miro_pocket.py measure                            # goes on where it stopped; about 20 CPU minutes
    python benchmarks/miro_pocket.py table                              # the tables of docs/miro.md

Arms: `none` has no reward tokens, `tokens` is MIRO, `shuffled` is MIRO with the rewards of other images. All have the same images,
captions, batches, times and noise. The rewards come from `lite`; what is reported is judged by the scene that each image really
shows, over the 200 prompts of the pocket suite, none of whose compositions was trained on. The weight of the guidance is chosen
on other prompts.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from geneval_reward.generate import seed_for
from geneval_reward.pocket import pocket_suite
from geneval_reward.pocket.codec import decode_scenes
from geneval_reward.pocket.prompts import training_specs
from geneval_reward.pocket.render import render
from geneval_reward.pocket.scene import fulfils
from geneval_reward.prompts import TAGS, PromptSpec
from geneval_reward.support.files import read_lines
from geneval_reward.train import FlowPolicy, load_recipe

ARMS, STEPS, KEPT = ("none", "tokens", "shuffled"), 1000, 200


def train(arm: str, seed: int, root: Path, images: int, steps: int) -> None:
    """Train one arm; goes on from its last checkpoint, and does nothing if it is finished."""
    miro, folder = load_recipe("miro"), root / f"{arm}-{seed}"
    if (folder / "miro.safetensors").exists():
        return
    rewards = () if arm == "none" else miro.REWARDS
    data = miro.AnnotatedImages(
        str(root / "data"), images=images, rewards=rewards, shuffled=arm == "shuffled", seed=seed
    )
    model = miro.Miro(
        FlowPolicy("pocket"),
        rewards=rewards,
        place="append",
        from_nothing=True,
        seed=seed,
        learning_rate=1e-3,
        muon_rate=3e-3,
        warmup=50,
        out=str(folder),
    )
    kept = ModelCheckpoint(folder / "kept", "{step}", every_n_train_steps=KEPT, save_top_k=-1, save_weights_only=True)
    last = ModelCheckpoint(folder, every_n_train_steps=100, save_last=True, save_top_k=0)
    trainer = lightning.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        devices=1,
        gradient_clip_val=1.0,
        callbacks=[kept, last, EMAWeightAveraging(decay=0.995)],
        logger=CSVLogger(folder, "log"),
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=10,
    )
    trainer.fit(model, data, ckpt_path=str(folder / "last.ckpt") if (folder / "last.ckpt").exists() else None)
