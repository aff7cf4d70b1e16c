"""UniRL on the pocket token model: both variants and their controls, over several seeds, by truth and by detector.

    OMP_NUM_THREADS=1 python benchmarks/unirl_table.py --out runs/unirl                 # runs what is missing, then prints
    OMP_NUM_THREADS=1 python benchmarks/unirl_table.py --out runs/unirl --table docs/unirl_table.json

Prompts of training and of the pocket suite, which measures, have no meaning in common (single objects apart). All pictures of a
seed have the same noise before and after and in every arm. Every run leaves one JSON file, so a run that was stopped goes on
with the next one. Intervals resample prompts; a prompt has the pictures of all seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import Future
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from PIL import Image

from geneval_reward import GenEvalScorer
from geneval_reward.generate import seed_for
from geneval_reward.judges import grade_answer
from geneval_reward.pocket import pocket_suite
from geneval_reward.pocket.codes import decode, draw, encode
from geneval_reward.pocket.questions import is_true
from geneval_reward.pocket.scene import fulfils
from geneval_reward.pocket.world import sample_scene
from geneval_reward.prompts import TAGS, PromptSpec
from geneval_reward.results.notation import points_with_interval, share_text, share_with_interval
from geneval_reward.reward import RewardBatch
from geneval_reward.stats import clustered_bootstrap, compare_paired
from geneval_reward.support.files import write_whole
from geneval_reward.train import PocketUnified, PromptGroups, load_recipe
from geneval_reward.train.reader_audit import Agreement


class RandomReward:
    """A reward that knows nothing: uniform random numbers."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def submit(self, images: Any, specs: Sequence[PromptSpec], /) -> Future[RewardBatch]:
        future: Future[RewardBatch] = Future()
        values = torch.rand(len(specs), generator=self.generator).tolist()
        future.set_result(RewardBatch(values, [None] * len(specs), [None] * len(specs)))
        return future

    def close(self) -> None:
        pass


class Scenes(PocketUnified):
    """The model with the scenes that its codes stand for in place of pictures, for a reward that knows the truth."""

    def images(self, tokens: torch.Tensor) -> Any:
        return decode(tokens)


class TrueReward:
    """Half for a scene that fulfils its record, half for the share of the record's objects that it shows as asked."""

    def submit(self, scenes: Any, specs: Sequence[PromptSpec], /) -> Future[RewardBatch]:
        values: list[float | None] = []
        for scene, spec in zip(scenes, specs, strict=True):
            clauses = [{k: v for k, v in c.items() if k != "position"} for c in spec.to_record()["include"]]
            alone = [PromptSpec.parse({"tag": spec.tag, "include": [c], "prompt": spec.prompt}) for c in clauses]
            shown = float(np.mean([fulfils(scene, one) for one in alone]))
            values.append((float(fulfils(scene, spec)) + shown) / 2)
        future: Future[RewardBatch] = Future()
        future.set_result(RewardBatch(values, [None] * len(specs), [None] * len(specs)))
        return future

    def close(self) -> None:
        pass


ARMS: dict[str, dict[str, Any]] = {
    "GRPO": {},
    "SFT": {"variant": "sft"},
    "GRPO, true reward": {"reward": TrueReward, "learn": "painting"},
    "GRPO, frozen reader": {"reader": "frozen", "learn": "painting"},
    "GRPO, random reward": {"reward": RandomReward},
    "GRPO, painting alone": {"learn": "painting"},
    "GRPO, questions alone": {"learn": "questions"},
    "SFT, painting alone": {"variant": "sft", "learn": "painting"},
    "SFT, questions alone": {"variant": "sft", "learn": "questions"},
    "GRPO, detector reward": {"reward": "lite", "credit": {"official": 1.0, "partial": 1.0}, "learn": "painting"},
}
LAST = "GRPO, detector reward"
"""The arm that costs most."""
BY_DETECTOR = ("base", "GRPO", "SFT", "GRPO, detector reward")
"""What the detector judges too; the others are judged by truth."""


def evaluate(model: PocketUnified, specs: Sequence[PromptSpec], each: int, seed: int) -> dict[str, Any]:
    """Paint `each` pictures per prompt: which are right by truth, and which the reader's answers call right."""
    asked = [spec for spec in specs for _ in range(each)]
    seeds = [seed_for(seed, spec.prompt, n) for spec in specs for n in range(each)]
    tokens = torch.cat(
        [
            model.paint([s.prompt for s in asked[k : k + 100]], seeds[k : k + 100]).tokens
            for k in range(0, len(asked), 100)
        ]
    )
    scenes = decode(tokens)
    qas = [model.ask(spec) for spec in asked]
    answers = model.answer(tokens, [qa.question for qa in qas])
    grades = [grade_answer(qa, answer) for qa, answer in zip(qas, answers, strict=True)]
    return {
        "right": [fulfils(scene, spec) for scene, spec in zip(scenes, asked, strict=True)],
        "said": [grade.mean == 1 for grade in grades],
        "answer_true": [is_true(qa.question, a, scene) for qa, a, scene in zip(qas, answers, scenes, strict=True)],
        "unparsed": sum(not grade.parsed for grade in grades),
        "distinct": float(
            np.mean([len(set(map(str, scenes[k : k + each]))) / each for k in range(0, len(scenes), each)])
        ),
        "objects": float(np.mean([len(scene.items) for scene in scenes])),
        "tokens": tokens,
    }


def read_clean(model: PocketUnified, specs: Sequence[PromptSpec], each: int, seed: int) -> dict[str, Any]:
    """Ask about clean scenes, which the model did not paint: is the answer true of the scene?"""
    rng = np.random.default_rng(seed)
    asked = [spec for spec in specs for _ in range(each)]
    scenes = [sample_scene(spec, rng) for spec in asked]
    qas = [model.ask(spec) for spec in asked]
    answers = model.answer(encode(scenes), [qa.question for qa in qas])
    return {
        "true": [is_true(qa.question, a, scene) for qa, a, scene in zip(qas, answers, scenes, strict=True)],
        "expected": [grade_answer(qa, answer).mean == 1 for qa, answer in zip(qas, answers, strict=True)],
    }


class Watch(Callback):
    """Counts groups without spread at every step, and every few steps how the reader judges held-out pictures."""

    def __init__(self, specs: Sequence[PromptSpec], every: int, seed: int) -> None:
        self.specs, self.every, self.seed = specs, every, seed
        self.curve: list[dict[str, float]] = []
        self.steps: list[dict[str, float]] = []

    def look(self, module: Any, epoch: int) -> None:
        found = evaluate(module.unified, self.specs, 1, self.seed)
        self.curve.append(point(epoch, found, read_clean(module.unified, self.specs, 1, self.seed)))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        names = ("reward/mean", "zero_std_ratio", "painting_loss", "answer_loss", "grad_norm", "ratio_deviation")
        names += ("painting_clipfrac", "answer_clipfrac", "empty_answers", "unparsed_answers", "reward_std_mean")
        seen = {name: float(trainer.callback_metrics[name]) for name in names if name in trainer.callback_metrics}
        self.steps.append({"epoch": trainer.current_epoch + 1, **seen})
        done = trainer.current_epoch + 1
        if done % 10 == 0:
            print(f"  epoch {done} {time.process_time():.0f} CPU s {seen}", flush=True)
        if done % self.every == 0 and done < trainer.max_epochs:
            self.look(pl_module, done)


def point(epoch: int, painted: dict[str, Any], clean: dict[str, Any]) -> dict[str, float]:
    """What the curves over training hold of one look."""
    found = Agreement.count(painted["said"], painted["right"])
    cells = {name: getattr(found, name) for name in ("both", "judge_only", "reader_only", "neither")}
    return {"epoch": epoch, "clean": float(np.mean(clean["true"])), **cells}


def run(arm: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train one arm with one seed, and measure it; `base` is not trained."""
    begun = time.process_time()
    torch.manual_seed(seed)
    model = PocketUnified(steps=args.steps)
    suite = list(pocket_suite())
    row: dict[str, Any] = {"arm": arm, "seed": seed, "each": args.each}
    if arm != "base":
        options = dict(ARMS[arm])
        if callable(options.get("reward")):
            options["reward"] = options["reward"]()
        rate = args.sft_rate if options.get("variant") == "sft" else args.rate
        trained = Scenes(model.model, steps=args.steps) if arm == "GRPO, true reward" else model
        module = load_recipe("unirl").UniRL(trained, learning_rate=rate, updates_per_epoch=args.updates, **options)
        watch = Watch(suite, args.every, seed)
        trainer = Trainer(
            max_epochs=args.epochs,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            log_every_n_steps=1,
            callbacks=[watch],
        )
        size = args.groups * args.group_size
        trainer.fit(
            module,
            PromptGroups("pocket", args.groups, args.group_size, batch_size=size // args.updates, seed=seed),
        )
        row |= {"curve": watch.curve, "steps": watch.steps}
    row["training_cpu_seconds"] = time.process_time() - begun
    found = evaluate(model, suite, args.each, seed)
    tokens = found.pop("tokens")
    row |= {"painted": found, "clean": read_clean(model, suite, args.each, seed)}
    if arm in BY_DETECTOR:
        first = tokens[:: args.each]
        scorer = GenEvalScorer.from_pretrained("lite", device="cpu")
        images = [Image.fromarray(picture) for picture in draw(first)]
        row["detector"] = [verdict.correct for verdict in scorer.score(images, suite)]
    picks = [int(n) for n in np.linspace(0, len(suite) - 1, 24)]
    row["shown"] = {suite[n].prompt: tokens[n * args.each].tolist() for n in picks}
    row["cpu_seconds"] = time.process_time() - begun
    return row


def report(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Summarise all arms whose every seed is there, each against the base of the same seeds."""
    suite = list(pocket_suite())
    by_arm: dict[str, dict[int, dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: ["base", *ARMS].index(row["arm"])):
        by_arm.setdefault(row["arm"], {})[row["seed"]] = row
    base = by_arm["base"]
    table: dict[str, Any] = {}
    for arm, runs in by_arm.items():
        seeds = [seed for seed in sorted(runs) if seed in base]
        each = runs[seeds[0]]["each"]
        ids = [n for _ in seeds for n in range(len(suite)) for _ in range(each)]
        tags = [suite[n].tag for n in ids]

        def column(which: dict[int, dict[str, Any]], *path: str, seeds: list[int] = seeds) -> list[bool]:
            values: list[bool] = []
            for seed in seeds:
                found: Any = which[seed]
                for name in path:
                    found = found[name]
                values += found
            return values

        def compared(*path: str, ids: list[int] = ids, tags: list[str] = tags, runs: Any = runs) -> dict[str, Any]:
            result = compare_paired(column(base, *path), column(runs, *path), ids, tags).overall
            per_seed = [
                float(np.mean([np.mean(v) for v in by_tag(column({s: runs[s]}, *path, seeds=[s]))])) for s in runs
            ]
            return {
                "before": result.a,
                "after": result.b,
                "difference": result.value,
                "interval": [result.interval.low, result.interval.high],
                "after_by_seed": per_seed,
            }

        def by_tag(values: list[bool], tags: list[str] = tags) -> list[list[bool]]:
            return [[v for v, tag in zip(values, tags, strict=False) if tag == name] for name in TAGS]

        right, said = np.array(column(runs, "painted", "right")), np.array(column(runs, "painted", "said"))
        read = np.array(column(runs, "clean", "expected")) & np.array(column(runs, "clean", "true"))
        entry: dict[str, Any] = {
            "seeds": seeds,
            "truth": compared("painted", "right"),
            "clean": compared("clean", "true"),
        }
        entry["clean_by_task"] = dict(
            zip(TAGS, [round(float(np.mean(v)), 3) for v in by_tag(column(runs, "clean", "true"))], strict=True)
        )
        entry["truth_by_task"] = dict(
            zip(TAGS, [round(float(np.mean(v)), 3) for v in by_tag(column(runs, "painted", "right"))], strict=True)
        )
        entry["says_right"] = float(said.mean())
        entry["missed"] = share(~said, right, ids)  # UniRL's painting -> understanding
        entry["flattered"] = share(said, ~right, ids)
        entry["not_painted"] = share(~right, read, ids)  # understanding -> painting
        entry["distinct"] = float(np.mean([runs[s]["painted"]["distinct"] for s in seeds]))
        entry["objects"] = float(np.mean([runs[s]["painted"]["objects"] for s in seeds]))
        entry["unparsed"] = int(sum(runs[s]["painted"]["unparsed"] for s in seeds))
        if all("detector" in runs[s] for s in seeds):
            first = [n for _ in seeds for n in range(len(suite))]
            result = compare_paired(
                column(base, "detector"), column(runs, "detector"), first, [suite[n].tag for n in first]
            ).overall
            entry["detector"] = {
                "before": result.a,
                "after": result.b,
                "difference": result.value,
                "interval": [result.interval.low, result.interval.high],
            }
        if arm != "base":
            entry["flattered_over_training"] = over_training(
                [
                    [
                        point(0, base[s]["painted"], base[s]["clean"]),
                        *runs[s]["curve"],
                        point(len(runs[s]["steps"]), runs[s]["painted"], runs[s]["clean"]),
                    ]
                    for s in seeds
                ]
            )
            spread = [step["zero_std_ratio"] for s in seeds for step in runs[s]["steps"] if "zero_std_ratio" in step]
            entry["groups_without_spread"] = float(np.mean(spread)) if spread else None
            entry["training_cpu_seconds"] = float(np.mean([runs[s]["training_cpu_seconds"] for s in seeds]))
        table[arm] = entry
    return table


def share(event: Any, given: Any, ids: Sequence[int]) -> dict[str, float]:
    """P(event | given) with its counts and an interval that resamples prompts."""
    rows = np.flatnonzero(given)
    if not len(rows):
        return {"value": math.nan, "low": math.nan, "high": math.nan, "count": 0, "of": 0}
    found = clustered_bootstrap(event[rows], [ids[n] for n in rows], ["all"] * len(rows)).overall
    return {
        "value": found.value,
        "low": found.interval.low,
        "high": found.interval.high,
        "count": int(event[rows].sum()),
        "of": len(rows),
    }


def lines(table: dict[str, Any]) -> list[str]:
    """Write the tables of docs/unified.md."""

    def changed(found: dict[str, Any] | None) -> str:
        if found is None:
            return ""
        low, high = found["interval"]
        return f"{share_text(found['after'])}, {points_with_interval(found['difference'], low, high)}"

    def rate(found: dict[str, float]) -> str:
        share = share_with_interval(found["value"], found["low"], found["high"])
        return f"{share}, {found['count']} of {found['of']}"

    text = ["| | score by truth | by `lite` | questions, clean scenes | says right | objects | seeds |"]
    text.append("|---" * 7 + "|")
    for arm, one in table.items():
        base = (
            f"{one['truth']['after']:.3f} | {one['detector']['after']:.3f} | {one['clean']['after']:.3f}"
            if arm == "base"
            else ""
        )
        cells = base or f"{changed(one['truth'])} | {changed(one.get('detector'))} | {changed(one['clean'])}"
        text.append(f"| {arm} | {cells} | {one['says_right']:.3f} | {one['objects']:.2f} | {len(one['seeds'])} |")
    text += [
        "",
        "| | expected answer, wrong picture | other answer, right picture | read right, painted wrong | no spread |",
    ]
    text.append("|---" * 5 + "|")
    for arm, one in table.items():
        spread = one.get("groups_without_spread")
        cells = [rate(one[name]) for name in ("flattered", "missed", "not_painted")]
        text.append(f"| {arm} | {' | '.join(cells)} | {'' if spread is None else f'{spread:.2f}'} |")
    text += ["", "| epoch | " + " | ".join(arm for arm in table if arm != "base") + " |"]
    text.append("|---" * len(table) + "|")
    curves = [one["flattered_over_training"] for arm, one in table.items() if arm != "base"]
    for points in zip(*curves, strict=True):
        text.append(f"| {points[0]['epoch']} | " + " | ".join(f"{point['flattered']:.3f}" for point in points) + " |")
    return text


def over_training(curves: Sequence[Sequence[dict[str, float]]]) -> list[dict[str, float]]:
    """Pool the seeds: P(reader says right | wrong) and question accuracy on clean scenes, by epoch."""
    points = []
    for same in zip(*curves, strict=True):
        wrong = sum(p["reader_only"] + p["neither"] for p in same)
        images = wrong + sum(p["both"] + p["judge_only"] for p in same)
        points.append(
            {
                "epoch": same[0]["epoch"],
                "flattered": sum(p["reader_only"] for p in same) / wrong,
                "right": 1 - wrong / images,
                "says_right": sum(p["both"] + p["reader_only"] for p in same) / images,
                "clean": float(np.mean([p["clean"] for p in same])),
            }
        )
    return points


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/unirl"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="*", default=["base", *ARMS], help="none: print only")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--updates", type=int, default=2, help="optimizer steps per epoch")
    parser.add_argument("--rate", type=float, default=2e-4, help="learning rate of GRPO")
    parser.add_argument("--sft-rate", type=float, default=2e-4)
    parser.add_argument("--steps", type=int, default=4, help="steps of masked decoding")
    parser.add_argument("--each", type=int, default=2, help="pictures and clean scenes per prompt of the suite")
    parser.add_argument("--every", type=int, default=12, help="epochs between looks at the reader")
    parser.add_argument("--table", type=Path, help="where to write the summary")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning, module="lightning")
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    for arms in ([arm for arm in args.arms if arm != LAST], [arm for arm in args.arms if arm == LAST]):
        for seed, arm in product(args.seeds, arms):
            path = args.out / f"{seed}-{arm.replace(', ', '-').replace(' ', '_')}.json"
            if not path.exists():
                print(f"{arm}, seed {seed}", flush=True)
                write_whole(path, json.dumps(run(arm, seed, args)) + "\n")
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(args.out.glob("*.json"))]
    table = report(rows)
    print("\n".join(lines(table)), flush=True)
    if args.table:
        settings = {name: value for name, value in vars(args).items() if name not in ("out", "table", "seeds", "arms")}
        write_whole(args.table, json.dumps({"settings": settings, "arms": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
