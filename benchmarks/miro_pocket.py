"""MIRO on the pocket world with its controls, three seeds: python benchmarks/miro_pocket.py train|measure|table

    python benchmarks/miro_pocket.py train --arm tokens --seed 0        # one of nine runs, about 8 CPU minutes
    python benchmarks/miro_pocket.py measure                            # goes on where it stopped; about 20 CPU minutes
    python benchmarks/miro_pocket.py table                              # the tables of docs/miro.md

Arms: `none` has no reward tokens, `tokens` is MIRO, `shuffled` is MIRO with the rewards of other images. All have the same
images, captions, batches, times and noise. The rewards come from `lite`; what is reported is judged by the scene that each
image really shows, over the 200 prompts of the pocket suite, none of whose compositions was trained on (single objects apart).
The knobs are chosen on other prompts.
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
from geneval_reward.results.notation import difference_text, points_text, share_text
from geneval_reward.results.tables import markdown_table
from geneval_reward.stats import compare_paired
from geneval_reward.study.figures import new_figure, save_figure, style_of, tidy
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

WEIGHTS = (0.5, 1.0, 2.0, 4.0, 8.0)
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


# Tables.

Rows = Mapping[tuple[str, str], dict[str, Any]]


def difference(
    rows: Rows, seeds: Sequence[int], base: tuple[str, str], other: tuple[str, str], key: str = "correct"
) -> str:
    """Write a difference over all seeds with its interval, and that of each seed."""
    specs, _ = prompts_for("suite")
    prompts, tags = [spec.prompt for spec in specs], [spec.tag for spec in specs]
    pairs = [(rows[f"{base[0]}-{s}", base[1]][key], rows[f"{other[0]}-{s}", other[1]][key]) for s in seeds]
    whole = compare_paired(
        [value for a, _ in pairs for value in a],
        [value for _, b in pairs for value in b],
        prompts * len(seeds),
        tags * len(seeds),
        draws=2000,
    )
    each = [mean_of_tasks(b, specs) - mean_of_tasks(a, specs) for a, b in pairs]
    return f"{difference_text(whole.overall)} ({', '.join(points_text(one) for one in each)})"


def mean_over(rows: Rows, arm: str, seeds: Sequence[int], name: str, key: str = "score") -> float:
    """Mean of a figure over the seeds."""
    return float(np.mean([rows[f"{arm}-{seed}", name][key] for seed in seeds]))


def tables(root: Path, seeds: Sequence[int], figure: Path | None) -> str:
    """Make all tables of the documentation, as Markdown."""
    rows = Measured(root / "measured.jsonl").rows
    text = []

    plain, cfg = ("none", "plain"), ("none", "cfg")
    shown = [
        (plain, 8, plain),
        (("tokens", "unknown"), 8, plain),
        (("tokens", "s+"), 8, plain),
        (("tokens", "s-"), 8, plain),
        (("shuffled", "s+"), 8, plain),
        (("none", "plain, 16 steps"), 16, cfg),
        (cfg, 16, cfg),
        (("tokens", "s+, 16 steps"), 16, cfg),
        (("tokens", "guided, same caption"), 16, cfg),
        (("tokens", "guided, empty caption"), 16, cfg),
        (("tokens", "guided, knob"), 16, cfg),
        (("shuffled", "guided, same caption"), 16, cfg),
    ]
    table = []
    for (arm, name), passes, base in shown:
        options = rows[f"{arm}-{seeds[0]}", name]["options"]
        table.append(
            [
                arm,
                name + (f", w {options['scale']:g}" if options.get("scale") else ""),
                passes,
                share_text(mean_over(rows, arm, seeds, name)),
                "" if (arm, name) == base else difference(rows, seeds, base, (arm, name)),
                share_text(mean_over(rows, arm, seeds, name, "lite_score")),
                f"{mean_over(rows, arm, seeds, name, 'colorfulness'):.1f}",
                f"{mean_over(rows, arm, seeds, name, 'brightness'):.0f}",
            ]
        )
    head = [
        "arm",
        "sampling",
        "forward passes",
        "GenEval, true scene",
        "points from the baseline of equal passes (each seed)",
    ]
    text.append(markdown_table([*head, "GenEval, `lite`", "colourfulness", "brightness"], table))

    tuned = sorted({(run.rpartition("-")[0], name) for run, name in rows if name.startswith("tune ")})
    text.append(
        markdown_table(
            ["arm", "knob", "value", "GenEval on training prompts"],
            [[arm, *name.split()[1:], share_text(mean_over(rows, arm, seeds, name))] for arm, name in tuned],
        )
    )

    found = {}
    for reward in (*GENEVAL, *LOOKS):
        found[reward] = [
            [mean_over(rows, "tokens", seeds, f"response {reward} {level}", key) for level in LEVELS]
            for key in ("score", *LOOKS)
        ]
    text.append(
        markdown_table(
            ["target of", "figure", *(f"{level:g}" for level in LEVELS)],
            [
                [reward, figure_name, *(share_text(v) if row == 0 else f"{v:.1f}" for v in values)]
                for reward, curves in found.items()
                for row, (figure_name, values) in enumerate(zip(("GenEval", *LOOKS), curves, strict=True))
            ],
        )
    )

    keys = {"geneval": "score", "colorfulness": "colorfulness", "brightness": "brightness"}
    for first, second in (("geneval", "colorfulness"), ("geneval", "brightness"), ("colorfulness", "brightness")):
        cells = []
        for a in (0.0, 0.5, 1.0):
            cell = []
            for b in (0.0, 0.5, 1.0):
                values = [
                    mean_over(rows, "tokens", seeds, f"pair {first} {a} {second} {b}", keys[one])
                    for one in (first, second)
                ]
                cell.append(
                    " / ".join(
                        f"{v:.3f}" if one == "geneval" else f"{v:.1f}"
                        for one, v in zip((first, second), values, strict=True)
                    )
                )
            cells.append([f"{first} {a:g}", *cell])
        text.append(markdown_table([f"{first} / {second}", *(f"{second} {b:g}" for b in (0.0, 0.5, 1.0))], cells))

    curves = [
        ("none", "plain"),
        ("tokens", "s+"),
        ("shuffled", "s+"),
        ("none", "cfg"),
        ("tokens", "guided, same caption"),
        ("shuffled", "guided, same caption"),
    ]
    steps = sorted(
        int(name.rpartition(" at ")[2])
        for run, name in rows
        if run == f"none-{seeds[0]}" and name.startswith("plain at ")
    )
    scores = {(arm, name): [mean_over(rows, arm, seeds, f"{name} at {step}") for step in steps] for arm, name in curves}
    reached = []
    for arm, name in curves:
        last = scores[plain if name in ("plain", "s+") else cfg][-1]
        first_step = next((step for step, score in zip(steps, scores[arm, name], strict=True) if score >= last), None)
        reached.append([arm, name, *(share_text(score) for score in scores[arm, name]), first_step or "not reached"])
    text.append(
        markdown_table(
            ["arm", "sampling", *(f"step {step}" for step in steps), "baseline's final score at step"], reached
        )
    )

    losses = {arm: np.mean([losses_of(root / f"{arm}-{seed}", steps) for seed in seeds], 0) for arm in ARMS}
    text.append(
        markdown_table(
            ["loss of", *(f"up to step {step}" for step in steps)],
            [[arm, *(f"{v:.4f}" for v in losses[arm])] for arm in ARMS],
        )
    )
    if figure is not None:
        draw(figure, found, steps, scores)
    return "\n\n".join(text) + "\n"


def losses_of(folder: Path, steps: Sequence[int]) -> list[float]:
    """Mean of the logged losses over the 100 steps before each of some steps."""
    found = {}
    for file in sorted(folder.glob("log/*/metrics.csv")):
        with file.open(encoding="utf-8") as lines:
            found |= {int(row["step"]): float(row["loss"]) for row in csv.DictReader(lines) if row["loss"]}
    return [float(np.mean([loss for step, loss in found.items() if last - 100 <= step < last])) for last in steps]


def draw(
    path: Path, found: Mapping[str, Any], steps: Sequence[int], scores: Mapping[tuple[str, str], Sequence[float]]
) -> None:
    """Draw the response of GenEval to targets, and its rise over the steps of training."""
    figure = new_figure(9, 3.4)
    left, right = figure.subplots(1, 2)
    for number, (reward, curves) in enumerate(found.items()):
        color, marker = style_of(number)
        left.plot(LEVELS, curves[0], color=color, marker=marker, label=reward)
    left.set(xlabel="target of one reward, the others unknown", ylabel="GenEval, true scene")
    for number, ((arm, name), values) in enumerate(scores.items()):
        color, marker = style_of(number)
        right.plot(steps, values, color=color, marker=marker, label=f"{arm}, {name}")
    right.set(xlabel="step of training")
    for axes in (left, right):
        tidy(axes, "both")
        axes.legend(fontsize=7)
    save_figure(figure, path)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["train", "measure", "table"])
    parser.add_argument(
        "--root", type=Path, default=Path("runs/miro"), help="folder of the data set, the runs and what was measured"
    )
    parser.add_argument("--arm", choices=ARMS, help="train this arm only")
    parser.add_argument("--seed", type=int, help="train this seed only")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--images", type=int, default=20_000, help="images of the data set")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of training")
    parser.add_argument("--no-detector", action="store_true", help="measure without the second judge")
    parser.add_argument("--figure", type=Path, help="also draw the curves into this file")
    args = parser.parse_args()
    seeds = range(args.seeds) if args.seed is None else [args.seed]
    if args.step == "train":
        for seed in seeds:
            for arm in ARMS if args.arm is None else [args.arm]:
                train(arm, seed, args.root, args.images, args.steps)
    elif args.step == "measure":
        measure(args.root, seeds, not args.no_detector)
    else:
        sys.stdout.write(tables(args.root, seeds, args.figure))


if __name__ == "__main__":
    main()
