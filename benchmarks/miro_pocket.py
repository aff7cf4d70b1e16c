"""MIRO on the pocket world with its controls, three seeds: python benchmarks/miro_pocket.py train|tune|measure|table|pictures

    python benchmarks/miro_pocket.py train --arm tokens --seed 0        # one of nine runs, about 8 CPU minutes
    python benchmarks/miro_pocket.py measure                            # goes on where it stopped; about 45 CPU minutes
    python benchmarks/miro_pocket.py table                              # the tables of docs/miro.md
    python benchmarks/miro_pocket.py table --root benchmarks/miro       # the same from what was measured for them

Seeds may be measured in processes of their own: `tune --seed N` for each, then `measure --seed N`.

Arms: `none` has no reward tokens, `tokens` is MIRO, `shuffled` is MIRO with the rewards of other images. All have the same
images, captions, batches, times and noise. The rewards come from `lite`; what is reported is judged by the scene that each
image really shows, over the 200 prompts of the pocket suite, none of whose compositions was trained on (single objects apart).
The knobs are chosen on other prompts.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from PIL import Image, ImageDraw

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
from geneval_reward.train import AnnotatedImages, FlowPolicy, load_recipe

ARMS, STEPS, KEPT = ("none", "tokens", "shuffled"), 1000, 200


def train(arm: str, seed: int, root: Path, images: int, steps: int) -> None:
    """Train one arm; goes on from its last checkpoint, and does nothing if it is finished."""
    miro, folder = load_recipe("miro"), root / f"{arm}-{seed}"
    if (folder / "miro.safetensors").exists():
        return
    rewards = () if arm == "none" else miro.REWARDS
    data = AnnotatedImages(str(root / "data"), images=images, rewards=rewards, shuffled=arm == "shuffled", seed=seed)
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
    found: dict[str, Any] = {"options": options, "score": mean_of_tasks(correct, specs), "correct": digits(correct)}
    found |= {name: float(np.mean(getattr(miro, name)(pictures))) for name in LOOKS}
    if scorer is not None:
        judged = [int(verdict.correct) for verdict in scorer.score(pictures, specs)]
        found |= {"lite": digits(judged), "lite_score": mean_of_tasks(judged, specs)}
    return found


def digits(correct: Sequence[int]) -> str:
    """Write verdicts in the order of the images as a text of 0 and 1."""
    return "".join(map(str, correct))


def mean_of_tasks(correct: Sequence[int], specs: Sequence[PromptSpec]) -> float:
    """Mean of the tasks' means, as the benchmark has it."""
    by_task: dict[str, list[int]] = {}
    for right, spec in zip(correct, specs, strict=True):
        by_task.setdefault(spec.tag, []).append(right)
    return float(np.mean([np.mean(one) for one in by_task.values()]))


def look(level: float | None) -> Options:
    """All of GenEval's rewards high, led away from low ones, at one level of the rewards of the look."""
    looks = {} if level is None else dict.fromkeys(LOOKS, level)
    return {"target": dict.fromkeys(GENEVAL, 1.0) | looks, "away": dict.fromkeys(GENEVAL, 0.0) | looks}


KNOBS: dict[str, tuple[str, dict[str, Options]]] = {
    "cfg": ("none", {f"{w:g}": {"scale": w} for w in WEIGHTS}),
    "guided, same caption": ("tokens", {f"{w:g}": {"scale": w} for w in WEIGHTS}),
    "guided, empty caption": ("tokens", {f"{w:g}": {"scale": w, "negative": "empty"} for w in WEIGHTS}),
    "shuffled, same caption": ("shuffled", {f"{w:g}": {"scale": w} for w in WEIGHTS}),
    "shuffled, empty caption": ("shuffled", {f"{w:g}": {"scale": w, "negative": "empty"} for w in WEIGHTS}),
    "look": ("tokens", {"unknown": look(None)} | {f"{level:g}": look(level) for level in LEVELS}),
}
"""Settings to choose among: the arm, and the options by name. The weights of guidance with the chosen look come later."""


def tune(root: Path, seeds: Sequence[int], own: Sequence[int]) -> dict[str, Options]:
    """Choose the knobs on prompts of the training set, one value for all seeds; measures what is missing of some seeds."""
    miro, kept = load_recipe("miro"), {seed: Measured(root / f"measured-{seed}.jsonl") for seed in seeds}
    models = {(arm, seed): miro.load(root / f"{arm}-{seed}") for arm in ARMS for seed in own}
    chosen: dict[str, Options] = {}

    def choose(knob: str, arm: str, choices: Mapping[str, Options]) -> None:
        for seed in own:
            for name, options in choices.items():
                measured = partial(figures, models[arm, seed], "tuning", options)
                kept[seed].add(f"{arm}-{seed}", f"tune {knob}: {name}", measured)
        found = {
            name: [kept[seed].rows.get((f"{arm}-{seed}", f"tune {knob}: {name}")) for seed in seeds] for name in choices
        }
        if all(all(rows) for rows in found.values()):
            means = {name: float(np.mean([row["score"] for row in rows if row])) for name, rows in found.items()}
            chosen[knob] = choices[max(means, key=lambda name: means[name])]

    for knob, (arm, choices) in KNOBS.items():
        choose(knob, arm, choices)
    if "look" in chosen:
        for negative in ("same", "empty"):
            weights = {f"{w:g}": chosen["look"] | {"scale": w, "negative": negative} for w in WEIGHTS}
            choose(f"look, guided, {negative} caption", "tokens", weights)
    return chosen


def headline(chosen: Mapping[str, Options]) -> list[tuple[str, str, Options, bool]]:
    """Arm, name, options, and whether the detector judges too."""
    longer = {"num_inference_steps": 16}
    return [
        ("none", "plain", {}, True),
        ("tokens", "unknown", {"target": None}, False),
        ("tokens", "s+", {}, True),
        ("tokens", "s-", {"target": 0.0}, False),
        ("tokens", "look", chosen["look"], True),
        ("shuffled", "s+", {}, False),
        ("none", "plain, 16 steps", longer, False),
        ("none", "cfg", chosen["cfg"], True),
        ("tokens", "s+, 16 steps", longer, False),
        ("tokens", "guided, same caption", chosen["guided, same caption"], False),
        ("tokens", "guided, empty caption", chosen["guided, empty caption"], False),
        ("tokens", "look, 16 steps", chosen["look"] | longer, False),
        ("tokens", "look, guided, same caption", chosen["look, guided, same caption"], False),
        ("tokens", "look, guided, empty caption", chosen["look, guided, empty caption"], True),
        ("shuffled", "guided, same caption", chosen["shuffled, same caption"], False),
        ("shuffled", "guided, empty caption", chosen["shuffled, empty caption"], False),
    ]


CURVES = (
    ("none", "plain"),
    ("none", "cfg"),
    ("tokens", "s+"),
    ("tokens", "look"),
    ("tokens", "look, guided, empty caption"),
)
PAIRS = (("geneval", "colorfulness"), ("geneval", "brightness"), ("colorfulness", "brightness"))


def measure(root: Path, seeds: Sequence[int], own: Sequence[int]) -> None:
    """Measure what the tables need of some seeds; the knobs come from all."""
    from geneval_reward import GenEvalScorer

    chosen = tune(root, seeds, own)
    if len(chosen) < len(KNOBS) + 2:
        print("the other seeds' knobs are not measured yet: run `measure` again when they are")
        return
    miro, scorer = load_recipe("miro"), GenEvalScorer.from_pretrained("lite", device="cpu")
    for seed in own:
        kept = Measured(root / f"measured-{seed}.jsonl")
        models = {arm: miro.load(root / f"{arm}-{seed}") for arm in ARMS}
        rows = headline(chosen)
        for arm, name, options, detector in rows:
            measured = partial(figures, models[arm], "suite", options, scorer if detector else None)
            kept.add(f"{arm}-{seed}", name, measured)
        targets: dict[str, Options] = {
            f"response {reward} {level}": {"target": {reward: level}}
            for reward in (*GENEVAL, *LOOKS)
            for level in LEVELS
        }
        for first, second in PAIRS:
            for a, b in product((0.0, 0.5, 1.0), repeat=2):
                target = (dict.fromkeys(GENEVAL, a) if first == "geneval" else {first: a}) | {second: b}
                targets[f"pair {first} {a} {second} {b}"] = {"target": target}
        for name, options in targets.items():
            kept.add(f"tokens-{seed}", name, partial(figures, models["tokens"], "half", options))
        for arm in ARMS:
            for file in (root / f"{arm}-{seed}" / "kept").glob("*.ckpt"):
                step = int(file.stem.partition("=")[2])
                kept.add(f"{arm}-{seed}", f"loss at {step}", partial(loss_before, root / f"{arm}-{seed}", step))
        options_of = {(arm, name): options for arm, name, options, _ in rows}
        for arm, name in CURVES:
            for file in (root / f"{arm}-{seed}" / "kept").glob("*.ckpt"):
                measured = partial(figures_at, models[arm], file, options_of[arm, name])
                kept.add(f"{arm}-{seed}", f"{name} at {file.stem.partition('=')[2]}", measured)


def loss_before(folder: Path, last: int) -> dict[str, Any]:
    """Mean of the logged losses over the 100 steps before a step."""
    found = {}
    for file in sorted(folder.glob("log/*/metrics.csv")):
        with file.open(encoding="utf-8") as lines:
            found |= {int(row["step"]): float(row["loss"]) for row in csv.DictReader(lines) if row["loss"]}
    return {"score": float(np.mean([loss for step, loss in found.items() if last - 100 <= step < last]))}


def figures_at(model: Any, file: Path, options: Options) -> dict[str, Any]:
    """Measure the averaged weights of a checkpoint."""
    other = copy.deepcopy(model)
    other.load_state_dict(torch.load(file, map_location="cpu", weights_only=False)["state_dict"])
    return figures(other, "half", options)


# Tables.

Rows = Mapping[tuple[str, str], dict[str, Any]]


def difference(
    rows: Rows, seeds: Sequence[int], base: tuple[str, str], other: tuple[str, str], key: str = "correct"
) -> str:
    """Write a difference over all seeds with its interval, and that of each seed."""
    specs, _ = prompts_for("suite")
    prompts, tags = [spec.prompt for spec in specs], [spec.tag for spec in specs]
    pairs = [
        [[int(digit) for digit in rows[f"{arm}-{seed}", name][key]] for arm, name in (base, other)] for seed in seeds
    ]
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
    kept = {seed: Measured(root / f"measured-{seed}.jsonl").rows for seed in seeds}
    rows = {key: row for one in kept.values() for key, row in one.items()}
    chosen = tune(root, seeds, [])
    text = []

    plain, cfg = ("none", "plain"), ("none", "cfg")
    table = []
    for arm, name, options, detector in headline(chosen):
        long = bool(options.get("scale")) or options.get("num_inference_steps") == 16
        base = cfg if long else plain
        table.append(
            [
                arm,
                name + (f", w {options['scale']:g}" if options.get("scale") else ""),
                16 if long else 8,
                share_text(mean_over(rows, arm, seeds, name)),
                "" if (arm, name) == base else difference(rows, seeds, base, (arm, name)),
                share_text(mean_over(rows, arm, seeds, name, "lite_score")) if detector else "",
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

    tuned = {}
    for run, name in rows:
        if name.startswith("tune "):
            knob, _, value = name.removeprefix("tune ").partition(": ")
            tuned.setdefault((run.rpartition("-")[0], knob), {})[value] = share_text(
                mean_over(rows, run.rpartition("-")[0], seeds, name)
            )
    text.append(
        markdown_table(
            ["arm", "knob", "GenEval on training prompts, by value"],
            [
                [arm, knob, ", ".join(f"{v}: {score}" for v, score in values.items())]
                for (arm, knob), values in tuned.items()
            ],
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
    for first, second in PAIRS:
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

    at_step = [
        int(name.rpartition(" at ")[2])
        for run, name in rows
        if run == f"none-{seeds[0]}" and name.startswith("plain at ")
    ]
    steps = sorted(at_step)
    scores = {(arm, name): [mean_over(rows, arm, seeds, f"{name} at {step}") for step in steps] for arm, name in CURVES}
    reached = []
    for arm, name in CURVES:
        guided = name in ("cfg", "look, guided, empty caption")
        last = scores[cfg if guided else plain][-1]
        first_step = next((step for step, score in zip(steps, scores[arm, name], strict=True) if score >= last), None)
        reached.append([arm, name, *(share_text(score) for score in scores[arm, name]), first_step or "not reached"])
    text.append(
        markdown_table(
            ["arm", "sampling", *(f"step {step}" for step in steps), "baseline's final score at step"], reached
        )
    )

    losses = [[arm, *(f"{mean_over(rows, arm, seeds, f'loss at {step}'):.4f}" for step in steps)] for arm in ARMS]
    text.append(markdown_table(["loss of", *(f"up to step {step}" for step in steps)], losses))
    if figure is not None:
        draw(figure, found, steps, scores)
    return "\n\n".join(text) + "\n"


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


def draw_targets(root: Path, path: Path) -> None:
    """Draw six unpicked prompts of the suite under several targets, all from the same noise."""
    miro = load_recipe("miro")
    base, model = miro.load(root / "none-0"), miro.load(root / "tokens-0")
    high, low = dict.fromkeys(GENEVAL, 1.0), dict.fromkeys(GENEVAL, 0.0)
    columns: list[tuple[str, Any, Options]] = [
        ("baseline", base, {}),
        ("s- (all 0)", model, {"target": 0.0}),
        ("s+ (all 1)", model, {}),
        ("GenEval 1", model, {"target": high}),
        ("GenEval 1, dark", model, {"target": high | {"brightness": 0.0}}),
        ("GenEval 1, guided", model, {"target": high, "away": low, "scale": 4.0, "negative": "empty"}),
    ]
    prompts = [pocket_suite()[row].prompt for row in (3, 20, 37, 60, 110, 160)]
    side = 150
    page = Image.new("RGB", (len(columns) * (side + 4), len(prompts) * (side + 20) + 16), "white")
    words = ImageDraw.Draw(page)
    for column, (name, one, options) in enumerate(columns):
        left = column * (side + 4)
        words.text((left + 4, 2), name, fill="black")
        for row, image in enumerate(one.generate(prompts, range(len(prompts)), **options)):
            picture = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((side, side))
            page.paste(picture, (left, row * (side + 20) + 30))
            if not column:
                words.text((4, row * (side + 20) + 16), prompts[row], fill="black")
    page.save(path, quality=88)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["train", "tune", "measure", "table", "pictures"])
    parser.add_argument(
        "--root", type=Path, default=Path("runs/miro"), help="folder of the data set, the runs and what was measured"
    )
    parser.add_argument("--arm", choices=ARMS, help="train this arm only")
    parser.add_argument("--seed", type=int, help="train, tune or measure this seed only")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--images", type=int, default=20_000, help="images of the data set")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of training")
    parser.add_argument("--figure", type=Path, help="draw the curves of `table`, or the pictures, into this file")
    args = parser.parse_args()
    seeds = list(range(args.seeds))
    own = seeds if args.seed is None else [args.seed]
    if args.step == "train":
        for seed in own:
            for arm in ARMS if args.arm is None else [args.arm]:
                train(arm, seed, args.root, args.images, args.steps)
    elif args.step == "tune":
        tune(args.root, seeds, own)
    elif args.step == "measure":
        measure(args.root, seeds, own)
    elif args.step == "pictures":
        draw_targets(args.root, args.figure or args.root / "targets.jpg")
    else:
        sys.stdout.write(tables(args.root, seeds, args.figure))


if __name__ == "__main__":
    main()
