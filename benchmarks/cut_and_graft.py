"""Cuts and grafts of the pocket model beside their controls: score on the same noise, bytes, FLOPs, held-out errors.

    python recipes/hierarchical_prune.py rank --prompts 400 --how zero identity --out out/cut_and_graft/contributions.jsonl
    python benchmarks/cut_and_graft.py run --tables prune graft --seeds 0
    python benchmarks/cut_and_graft.py run --tables prune graft --seeds 1 2
    python benchmarks/cut_and_graft.py judge
    python benchmarks/cut_and_graft.py table

`run` writes one line per (table, row, seed) to out/cut_and_graft/rows.jsonl and goes on where it stopped; a seed is that of the
training data. Models are scored on the 200 prompts of the pocket suite, one image each, 8 steps, the same noise, by the truth of
their scenes; `judge` scores models of seed 0 by `lite`, or quantises them first. Calibration and training prompts are not in
the suite.
"""

import argparse
import json
import random
import time
import warnings
from functools import cached_property
from pathlib import Path

import numpy as np
from lightning.pytorch import Trainer
from safetensors.torch import load_file, save_file

from geneval_reward import GenEvalScorer, surgery, train
from geneval_reward.pocket import pocket_suite
from geneval_reward.pocket.codec import decode_scenes
from geneval_reward.prompts import TAGS
from geneval_reward.results.notation import difference_text, points_with_interval, share_text
from geneval_reward.results.tables import markdown_table
from geneval_reward.stats import compare_paired
from geneval_reward.surgery.scores import FixedNoise
from geneval_reward.surgery.seams import run_once
from geneval_reward.surgery.sizes import count_operations
from geneval_reward.train.recipes import load_recipe

warnings.filterwarnings("ignore")
prune, graft = load_recipe("hierarchical_prune"), load_recipe("grafting")
BATCH = 32
DISTIL, REGRESS, TUNE = 5e-4, 1e-3, 3e-4  # learning rates
BUDGETS, MIDDLE = (0.26, 0.51, 0.64), 0.51  # two, four and five of eight blocks
TASK = {"task_weight": 1.0, "output_weight": 0.0, "feature_weight": 0.0}


def new_policy():
    policy = train.FlowPolicy("pocket")
    policy.pipeline.set_progress_bar_config(disable=True)
    return policy


def fit(module, seed, steps):
    trainer = Trainer(
        max_steps=steps, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu", gradient_clip_val=1.0,
    )  # fmt: skip
    trainer.fit(module, train.Captions(batch_size=BATCH, seed=seed))
    return {name: round(float(value), 4) for name, value in trainer.callback_metrics.items()}


class Bench:
    def __init__(self, options):
        self.options, self.out = options, options.out
        self.out.mkdir(parents=True, exist_ok=True)
        self.path = self.out / "rows.jsonl"
        self.truth = FixedNoise(pocket_suite(), "truth", num_inference_steps=8)

    @cached_property
    def contributions(self):
        score = FixedNoise(prune.calibration_prompts("pocket", 400), "truth", num_inference_steps=8)
        path, pipeline = self.out / "contributions.jsonl", new_policy().pipeline
        return prune.measure_contributions(pipeline, score, path, hows=("zero", "identity"))

    def lines(self):
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    # The cuts.

    def chosen(self, budget, **more):
        return prune.choose_cut(new_policy().pipeline, self.contributions, budget, **more)

    def random_cut(self, budget, draw):
        blocks = [one for one in self.contributions if one.block is None]
        chosen = set(self.chosen(budget).removed)
        rng = random.Random(draw)
        while True:
            removed = set(rng.sample(sorted(one.unit for one in blocks), len(chosen)))
            if removed != chosen:
                break
        kept = [one for one in blocks if one.unit not in removed]
        first = min(one.place for one in blocks if one.unit in removed)
        plan = self.chosen(budget)
        return surgery.BlockPlan(
            part=plan.part, model=plan.model, removed=tuple(sorted(removed)), frozen_before=f"transformer_blocks.{first}",
            rates={name: rate for name, rate in prune.block_rates(kept).items() if int(name[-1]) > first},
            chosen_by=f"random draw {draw}",
        )  # fmt: skip

    def cut_rows(self):
        """(row, plan, arguments of the distillation or None, seeds or None for all)"""
        rows = [("dense", None, None, (0,)), ("dense, trained as long", None, TASK, None)]
        for budget in BUDGETS:
            plan, name = self.chosen(budget), f"cut {budget:g}"
            rows += [
                (f"{name}: prune only", plan, None, (0,)),
                (f"{name}: + freeze, distil, rates by block", plan, {}, None),
            ]
            if budget == MIDDLE:
                rows += [
                    (f"{name}: + freeze, data alone", plan, TASK | {"scale_rates": False}, None),
                    (f"{name}: + freeze, distil", plan, {"scale_rates": False}, None),
                    (f"{name}: distil, nothing frozen", plan, {"freeze": False, "scale_rates": False}, None),
                ]
            for draw in range(3):
                random_cut = self.random_cut(budget, draw)
                rows.append((f"{name}: random cut {draw}", random_cut, None, (0,)))
                rows.append((f"{name}: random cut {draw}, freeze, distil, rates", random_cut, {}, (0,)))
            for position in ("none", "late_first", "published"):
                other = self.chosen(budget, position=position, order="absolute")
                if other.removed != plan.removed:
                    word = f"{name}: absolute" if position == "none" else f"{name}: {position}"
                    rows.append((word, other, None, (0,)))
                    if budget == MIDDLE:
                        rows.append((f"{word}, freeze, distil, rates", other, {}, (0,)))
        parts = self.chosen(0.26, units="parts")
        rows.append(("cut 0.26 of parts: prune only", parts, None, (0,)))
        rows.append(("cut 0.26 of parts: + freeze, distil", parts, {"scale_rates": False}, None))
        return rows

    def run_cut(self, row, plan, how, seed):
        policy = new_policy()
        found = {"plan": plan.to_json() if plan else None}
        if how is None:
            if plan:
                plan.apply(policy.pipeline)
        else:
            module = prune.Distillation(policy, plan=plan, learning_rate=DISTIL, **how)
            found["losses"] = fit(module, seed, self.options.steps)
        self.keep("prune", row, seed, policy, found)

    # The grafts.

    def graft_rows(self):
        """(row, units, operator, layers, options, seeds or None for all)"""
        half = {"ratio": 0.5}
        return [
            ("MLP of half width, all", "ff", "mlp", "all", half, None),
            ("self-graft of MLP, all", "ff", "renew", "all", {}, None),
            ("linear attention, all", "attn", "linear_attention", "all", {}, None),
            ("parallel pairs, all", "pair", "parallel", "all", {}, None),
            ("MLP of half width, interleaved", "ff", "mlp", "interleaved", half, None),
            ("MLP of half width, top 4 by error", "ff", "mlp", "top:4", half, None),
            ("self-graft of attention, all", "attn", "renew", "all", {}, None),
            ("parallel pairs, interleaved", "pair", "parallel", "interleaved", {}, None),
        ]

    def dropped_rows(self):
        pipeline = new_policy().pipeline
        ff, attn = surgery.graft_units(pipeline, "ff"), surgery.graft_units(pipeline, "attn")
        blocks = [f"transformer_blocks.{index}" for index in range(8)]
        return [
            ("MLP", "MLP dropped, all", ff),
            ("MLP", "MLP dropped, interleaved", ff[1::2]),
            ("linear", "attention dropped, all", attn),
            ("parallel", "second of each pair dropped, all", blocks[1::2]),
            ("parallel", "second of each pair dropped, interleaved", blocks[3::4]),
        ]

    def plan_of(self, unit, operator, layers, options, seed):
        errors = None
        if layers.startswith("top"):
            whole = [
                line
                for line in self.lines()
                if line["row"] == "MLP of half width, all, stage 1" and line["seed"] == seed
            ]
            errors = whole[0]["errors"]
        return surgery.plan_graft(new_policy().pipeline, unit, operator, layers=layers, options=options, errors=errors)

    def run_graft(self, row, unit, operator, layers, options, seed):
        plan = self.plan_of(unit, operator, layers, options, seed)
        policy = new_policy()
        module = graft.Grafting(policy, stage="regress", plan=plan, learning_rate=REGRESS)
        losses = fit(module, seed, self.options.steps)
        found = {"plan": plan.to_json(), "losses": losses, "errors": module.errors}
        self.keep("graft", f"{row}, stage 1", seed, policy, found)
        tuned = new_policy()
        weights = str(self.file(f"{row}, stage 1", seed))
        module = graft.Grafting(tuned, stage="tune", plan=plan, weights=weights, learning_rate=TUNE, warmup=20)
        losses = fit(module, seed + 100, self.options.steps)
        self.keep("graft", f"{row}, stage 2", seed, tuned, {"plan": plan.to_json(), "losses": losses})

    def run_stage_2(self, row, plan, seed):
        policy = new_policy()
        module = graft.Grafting(policy, stage="tune", plan=plan, learning_rate=TUNE, warmup=20)
        found = {"plan": plan.to_json() if plan else None, "losses": fit(module, seed + 100, self.options.steps)}
        self.keep("graft", f"{row}, stage 2", seed, policy, found)

    # What is kept.

    def file(self, row, seed):
        name = "".join(letter if letter.isalnum() or letter == "." else "_" for letter in row)
        return self.out / "weights" / f"{name}-{seed}.safetensors"

    def keep(self, table, row, seed, policy, found):
        model = policy.transformer
        file = self.file(row, seed)
        file.parent.mkdir(exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, file)
        scores = self.truth(policy.pipeline)
        line = {"table": table, "row": row, "seed": seed, "truth": scores, **found}
        line |= {
            "parameters": sum(weight.numel() for weight in model.parameters()),
            "bytes": surgery.stored_bytes(model),
        }
        line |= {"flops": count_operations(policy.pipeline, lambda: run_once(policy.pipeline))["transformer"]}
        with self.path.open("a") as out:
            out.write(json.dumps(line) + "\n")
        print(
            f"{time.strftime('%T')} {row} seed {seed}: {self.truth.mean(scores):.3f}, {time.process_time():.0f} CPU s",
            flush=True,
        )

    def run(self):
        for seed in self.options.seeds:
            done = {(line["row"], line["seed"]) for line in self.lines()}
            if "prune" in self.options.tables:
                for row, plan, how, seeds in self.cut_rows():
                    if (row, seed) not in done and seed in (seeds or (seed,)):
                        self.run_cut(row, plan, how, seed)
            if "graft" in self.options.tables:
                if ("dense, stage 2", seed) not in done:
                    self.run_stage_2("dense", None, seed)
                for row, unit, operator, layers, options, seeds in self.graft_rows():
                    if (f"{row}, stage 2", seed) not in done and seed in (seeds or (seed,)):
                        self.run_graft(row, unit, operator, layers, options, seed)
                    for kind, dropped, removed in self.dropped_rows():
                        if row.startswith(kind) and (f"{dropped}, stage 2", seed) not in done:
                            model = surgery.fingerprint(new_policy().transformer)
                            plan = surgery.BlockPlan(part="transformer", model=model, removed=tuple(removed))
                            self.run_stage_2(dropped, plan, seed)
                            done.add((f"{dropped}, stage 2", seed))

    def load(self, line):
        policy = new_policy()
        if line["plan"]:
            surgery.Plan.from_json(line["plan"]).apply(policy.pipeline)
        policy.transformer.load_state_dict(load_file(self.file(line["row"], line["seed"])))
        return policy

    def judge(self):
        """Score models of seed 0 by `lite`, or quantised ones by truth."""
        nf4 = self.options.nf4
        score = self.truth
        if not nf4:
            scorer = GenEvalScorer.from_pretrained("lite", device="cpu")
            score = FixedNoise(pocket_suite(), scorer, num_inference_steps=8)
        path = self.out / "judged.jsonl"
        done = {json.loads(line)["row"] for line in path.read_text().splitlines()} if path.exists() else set()
        for line in [line for line in self.lines() if line["seed"] == 0]:
            name = line["row"] + (", nf4" if nf4 else "")
            if name in done or (self.options.only and not any(word in name for word in self.options.only)):
                continue
            pipeline = self.load(line).pipeline
            if nf4:
                surgery.quantize(pipeline, "transformer", "nf4").apply(pipeline)
            correct = score(pipeline)
            found = {
                "row": name,
                "truth" if nf4 else "lite": correct,
                "bytes": surgery.stored_bytes(pipeline.transformer),
            }
            with path.open("a") as out:
                out.write(json.dumps(found) + "\n")
            print(f"{name}: {self.truth.mean(correct):.3f}", flush=True)

    def objects(self):
        """Print how many objects pictures show; the benchmark does not mind those that nobody asked for."""
        asked = np.mean([sum(clause.count for clause in spec.include) for spec in self.truth.specs])
        print(f"asked: {asked:.2f}")
        for line in [line for line in self.lines() if line["seed"] == 0]:
            if not self.options.only or any(word in line["row"] for word in self.options.only):
                pipeline = self.load(line).pipeline
                latents = self.truth.images(pipeline, slice(None), "latent")
                print(
                    f"{line['row']}: {np.mean([len(scene.items) for scene in decode_scenes(latents)]):.2f}", flush=True
                )

    # The tables.

    def table(self):
        rows, path = {}, self.out / "judged.jsonl"
        for line in self.lines():
            rows.setdefault(line["row"], []).append(line)
        judged = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        lite = {line["row"]: self.truth.mean(line["lite"]) for line in judged if "lite" in line}
        quantised = [line for line in judged if "truth" in line]
        rows |= {line["row"]: [rows[line["row"].removesuffix(", nf4")][0] | line] for line in quantised}
        order = [row for row, *_ in self.cut_rows()] + ["dense, stage 2"]
        order += [f"{row}, stage {stage}" for row, *_ in self.graft_rows() for stage in (1, 2)]
        order += [f"{row}, stage 2" for _, row, _ in self.dropped_rows()]
        names = sorted(rows, key=lambda row: (order.index(row.removesuffix(", nf4")), row))
        dense, tuned = rows["dense"], rows["dense, stage 2"]
        self.contribution_table()
        for kind in ("prune", "graft"):
            header = ["model", "score", "`lite`", "seeds", "from dense, points"]
            header += ["from dense with stage 2, points", "held-out error"] if kind == "graft" else []
            mine, table = [name for name in names if rows[name][0]["table"] == kind], []
            for row in mine:
                lines = rows[row]
                cells = [row, share_text(np.mean([self.truth.mean(line["truth"]) for line in lines]))]
                cells += [share_text(lite[row]) if row in lite else "", len(lines), self.difference(dense, lines)]
                if kind == "graft":
                    errors = [error for line in lines for error in line.get("errors", {}).values()]
                    cells += [self.difference(tuned, lines)]
                    cells += [f"{min(errors):.3f} to {max(errors):.3f}" if errors else ""]
                cells += [f"{lines[0]['bytes']:,}", f"{lines[0]['flops'] / 1e6:.1f}"]
                table.append(cells)
            print(markdown_table([*header, "bytes", "million operations"], table), end="\n\n")
            print(markdown_table(["model", *TAGS], [[row, *self.tasks(rows[row])] for row in mine]), end="\n\n")

    def difference(self, base, lines):
        """Difference of truth in points with a 95 % interval; the seeds of training count as images of a prompt."""
        if base is lines:
            return ""
        start = [base[min(index, len(base) - 1)]["truth"] for index in range(len(lines))]
        ids, tags = (
            [spec.prompt for spec in self.truth.specs] * len(lines),
            [spec.tag for spec in self.truth.specs] * len(lines),
        )
        found = compare_paired(
            np.concatenate(start), np.concatenate([line["truth"] for line in lines]), ids, tags, draws=2000
        ).overall
        return difference_text(found)

    def tasks(self, lines):
        tags = np.array([spec.tag for spec in self.truth.specs])
        return [f"{np.mean([np.array(line['truth'])[tags == tag].mean() for line in lines]):.2f}" for tag in TAGS]

    def contribution_table(self):
        cells = {}
        for one in self.contributions:
            name = one.unit.split(".")[2] if one.block else "block"
            text = points_with_interval(one.dp, one.low, one.high)
            cells[one.place, name + (f" ({one.how})" if name in ("attn", "ff", "ff_context") else "")] = text
        names = sorted({name for _, name in cells}, key=lambda name: (name != "block", name))
        print(
            markdown_table(
                ["block", *names], [[place, *(cells.get((place, name), "") for name in names)] for place in range(8)]
            )
        )
        print()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["run", "judge", "objects", "table"])
    parser.add_argument("--tables", nargs="+", default=["prune", "graft"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--only", nargs="*", help="words of the rows to judge")
    parser.add_argument("--nf4", action="store_true", help="judge quantised models, by truth")
    parser.add_argument("--out", type=Path, default=Path("out/cut_and_graft"))
    options = parser.parse_args()
    getattr(Bench(options), options.step)()


if __name__ == "__main__":
    main()
