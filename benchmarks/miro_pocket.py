"""MIRO on the pocket world with its controls, three seeds: python benchmarks/miro_pocket.py train|measure|table

    python benchmarks/miro_pocket.py train --arm tokens --seed 0        # one of nine runs, about 8 CPU minutes
    python benchmarks/miro_pocket.py measure                            # goes on where it stopped; about 20 CPU minutes
    python benchmarks/miro_pocket.py table                              # the tables of docs/miro.md

Arms: `none` has no reward tokens, `tokens` is MIRO, `shuffled` is MIRO with the rewards of other images. All have the same
images, captions, batches, times and noise. The rewards come from `lite`; what is reported is judged by the scene that each image really
shows, over the 200 prompts of the pocket suite, none of whose compositions was trained on. The weight of the guidance is chosen
on other prompts.
"""

from __future__ import annotations

import json
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
    kept = ModelCheckpoint(folder / "kept", "{step}", every_n_train_steps=KEPT, save_top_k=-1)
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


# Measuring.

WEIGHTS = (0.5, 1.0, 2.0, 4.0)
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
GENEVAL = ("geneval_official", "geneval_partial")
LOOKS = ("colorfulness", "brightness")
Options = dict[str, Any]


class Measured:
    """Settings that were measured, one JSON line each; what the file holds is not measured again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = [json.loads(line) for _, line in read_lines(path)] if path.exists() else []
        self.rows = {(line["run"], line["name"]): line for line in lines}

    def add(self, run: str, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the figures of a setting."""
        if (run, name) not in self.rows:
            found = {"run": run, "name": name, **measure()}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(found) + "\n")
            self.rows[run, name] = found
            print(f"{run} {name}: {found['score']:.3f}", flush=True)
        return self.rows[run, name]


def prompts_for(what: str) -> tuple[list[PromptSpec], list[int]]:
    """Prompts and seeds: `suite`, four images of each; `half`, two; `tuning`, 360 prompts of the training set, one of each."""
    if what == "tuning":
        rng, pools = np.random.default_rng(7), training_specs()
        drawn = [pools[tag][row] for tag in TAGS for row in rng.integers(len(pools[tag]), size=60)]
        return drawn, [seed_for(7, spec.prompt, number) for number, spec in enumerate(drawn)]
    copies = 4 if what == "suite" else 2
    specs = [spec for spec in pocket_suite() for _ in range(copies)]
    return specs, [seed_for(0, spec.prompt, number % copies) for number, spec in enumerate(specs)]


def figures(model: Any, what: str, options: Options, scorer: Any = None) -> dict[str, Any]:
    """Sample and judge: correct images by the true scene, the means of the look, and correct images by a detector if asked."""
    specs, seeds = prompts_for(what)
    scenes: list[Any] = []
    for first in range(0, len(specs), 128):
        rows = slice(first, first + 128)
        prompts = [spec.prompt for spec in specs[rows]]
        scenes += decode_scenes(model.sample_latents(prompts, seeds[rows], **options))
    correct = [int(fulfils(scene, spec)) for scene, spec in zip(scenes, specs, strict=True)]
    miro, pictures = load_recipe("miro"), [render(scene) for scene in scenes]
    found: dict[str, Any] = {"options": options, "score": mean_of_tasks(correct, specs), "correct": correct}
    found |= {name: float(np.mean(getattr(miro, name)(pictures))) for name in LOOKS}
    if scorer is not None:
        found["lite"] = [int(verdict.correct) for verdict in scorer.score(pictures, specs)]
        found["lite_score"] = mean_of_tasks(found["lite"], specs)
    return found


def mean_of_tasks(correct: Sequence[int], specs: Sequence[PromptSpec]) -> float:
    """Mean of the tasks' means, as the benchmark has it."""
    by_task: dict[str, list[int]] = {}
    for right, spec in zip(correct, specs, strict=True):
        by_task.setdefault(spec.tag, []).append(right)
    return float(np.mean([np.mean(one) for one in by_task.values()]))


def measure(root: Path, seeds: Sequence[int], detector: bool) -> None:
    """Measure everything that the tables need."""
    from geneval_reward import GenEvalScorer

    miro, kept = load_recipe("miro"), Measured(root / "measured.jsonl")
    models = {f"{arm}-{seed}": miro.load(root / f"{arm}-{seed}") for arm in ARMS for seed in seeds}

    # The knobs, on prompts of the training set; one value for all seeds.
    def tune(arm: str, name: str, choices: Mapping[str, Options]) -> Options:
        means = {
            choice: np.mean(
                [
                    kept.add(
                        f"{arm}-{seed}",
                        f"tune {name} {choice}",
                        lambda o=o, m=models[f"{arm}-{seed}"]: figures(m, "tuning", o),
                    )["score"]  # type: ignore[misc]
                    for seed in seeds
                ]
            )
            for choice, o in choices.items()
        }
        best = max(means, key=lambda choice: means[choice])
        print(f"{arm} {name}: {best} of { ({k: round(float(v), 3) for k, v in means.items()}) }", flush=True)
        return choices[best]

    weights = {str(w): {"scale": w} for w in WEIGHTS}
    cfg = tune("none", "cfg", weights)
    same = tune("tokens", "same", weights)
    empty = tune("tokens", "empty", {k: o | {"negative": "empty"} for k, o in weights.items()})
    false = tune("shuffled", "same", weights)
    looks: dict[str, Options] = {"unknown": {"target": dict.fromkeys(GENEVAL, 1.0)}}
    looks |= {str(t): {"target": dict.fromkeys(GENEVAL, 1.0) | dict.fromkeys(LOOKS, t)} for t in LEVELS}
    knob = tune("tokens", "look", {k: o | {"scale": same["scale"]} for k, o in looks.items()})

    scorer = GenEvalScorer.from_pretrained("lite", device="cpu") if detector else None
    headline: list[tuple[str, str, Options]] = [
        ("none", "plain", {}),
        ("none", "plain, 16 steps", {"num_inference_steps": 16}),
        ("none", "cfg", cfg),
        ("tokens", "unknown", {"target": None}),
        ("tokens", "s+", {}),
        ("tokens", "s+, 16 steps", {"num_inference_steps": 16}),
        ("tokens", "s-", {"target": 0.0}),
        ("tokens", "guided, same caption", same),
        ("tokens", "guided, empty caption", empty),
        ("tokens", "guided, knob", knob),
        ("shuffled", "s+", {}),
        ("shuffled", "guided, same caption", false),
    ]
    for seed in seeds:
        for arm, name, options in headline:
            run = f"{arm}-{seed}"
            kept.add(run, name, lambda r=run, o=options: figures(models[r], "suite", o, scorer))  # type: ignore[misc]
        run = f"tokens-{seed}"
        for reward in (*GENEVAL, *LOOKS):
            for level in LEVELS:
                options = {"target": {reward: level}}
                kept.add(run, f"response {reward} {level}", lambda o=options, r=run: figures(models[r], "half", o))  # type: ignore[misc]
        for first, second in (("geneval", "colorfulness"), ("geneval", "brightness"), ("colorfulness", "brightness")):
            for a in (0.0, 0.5, 1.0):
                for b in (0.0, 0.5, 1.0):
                    target = (dict.fromkeys(GENEVAL, a) if first == "geneval" else {first: a}) | {second: b}
                    name = f"pair {first} {a} {second} {b}"
                    kept.add(run, name, lambda t=target, r=run: figures(models[r], "half", {"target": t}))  # type: ignore[misc]
        for arm, name, options in [row for row in headline if row[1] in ("plain", "cfg", "s+", "guided, same caption")]:
            run = f"{arm}-{seed}"
            for file in sorted((root / run / "kept").glob("*.ckpt")):
                step = int(file.stem.partition("=")[2])
                kept.add(
                    run, f"{name} at {step}", lambda f=file, r=run, o=options: figures(at(models[r], f), "half", o)
                )  # type: ignore[misc]


def at(model: Any, file: Path) -> Any:
    """Return a copy of a model with the averaged weights of a checkpoint."""
    import copy

    other = copy.deepcopy(model)
    other.load_state_dict(torch.load(file, map_location="cpu", weights_only=False)["state_dict"])
    other.policy.transformer = other.transformer
    return other
