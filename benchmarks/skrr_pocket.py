"""Skrr and what it must beat on the pocket model, judged by the true slots of its scenes; goes on where it stopped.

    python benchmarks/skrr_pocket.py --out out/skrr

Writes the plans of `recipes/skrr.py`, the verdicts of every plan on the same prompts and noise, and prints a Markdown table with
intervals paired by image. `--every-set` also computes D of all sets of four to six sub-blocks, to see how far the searches are
from the best.
"""

import argparse
import json
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

from geneval_reward.generate import seed_for
from geneval_reward.pocket import load_pipeline, pocket_suite
from geneval_reward.pocket.codec import decode_scenes
from geneval_reward.pocket.scene import fulfils
from geneval_reward.results.notation import bare_p, difference_text, points_text, share_text
from geneval_reward.results.tables import markdown_table
from geneval_reward.stats import compare_paired, holm
from geneval_reward.surgery import load_plan, quantize, save_plan, stored_bytes
from geneval_reward.train.recipes import load_recipe

QUANTISED = ("nf4", "qint4", "qint8")


def verdicts(pipeline, images, steps):
    """Whether the true scenes fulfil the prompts, `(200 * images,)`, and their prompts' numbers."""
    right = []
    for spec in pocket_suite():
        seeds = [seed_for(0, spec.prompt, index) for index in range(images)]
        right += [(spec, seed) for seed in seeds]
    found = []
    for start in range(0, len(right), 64):
        part = right[start : start + 64]
        with torch.no_grad():
            latents = pipeline(
                [spec.prompt for spec, _ in part],
                num_inference_steps=steps,
                generator=[torch.Generator().manual_seed(seed) for _, seed in part],
                output_type="latent",
            ).images
        scaled = latents / pipeline.vae.config.scaling_factor + pipeline.vae.config.shift_factor
        found += [fulfils(scene, spec) for scene, (spec, _) in zip(decode_scenes(scaled), part, strict=True)]
    return np.array(found)


def every_set(recipe, pipeline, prompts, path):
    """D of all sets of four to six sub-blocks."""
    found = json.loads(path.read_text()) if path.exists() else {}
    measure = recipe.Discrepancy(pipeline, "text_encoder", prompts)
    for size in (4, 5, 6):
        if str(size) not in found:
            sets = sorted((measure(skip), skip) for skip in combinations(range(len(measure.sub_blocks)), size))
            found[str(size)] = [[d, list(skip)] for d, skip in sets]
            path.write_text(json.dumps(found))
            print(f"all {len(sets)} sets of {size}: best D {sets[0][0]:.5f} {sets[0][1]}", flush=True)
    return {int(size): sets for size, sets in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=4, help="images per prompt")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--level", type=float, action="append", help="sparsity; repeatable")
    parser.add_argument("--every-set", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("out/skrr"))
    given = parser.parse_args()
    recipe, pipeline = load_recipe("skrr"), load_pipeline()
    (given.out / "plans").mkdir(parents=True, exist_ok=True)
    prompts = recipe.read_calibration(None, "pocket", 200)
    if not (given.out / "plans" / "done").exists():
        plans = recipe.make_plans(pipeline, prompts, levels=given.level or recipe.LEVELS) | {
            f"{how}": quantize(pipeline, "text_encoder", how) for how in QUANTISED
        }
        for name, plan in plans.items():
            save_plan(plan, given.out / "plans" / f"{name}.json")
        (given.out / "plans" / "done").touch()
    plans = {path.stem: load_plan(path) for path in sorted((given.out / "plans").glob("*.json"))}
    whole = stored_bytes(pipeline.text_encoder)
    rows = {}
    for name, plan in {"dense": None, **plans}.items():
        path = given.out / f"{name}.json"
        if not path.exists():
            if plan is None:
                record = {"sparsity": 0.0, "bytes": 0, "d": 0.0}
                record["right"] = verdicts(pipeline, given.images, given.steps).tolist()
            else:
                with plan.apply(pipeline) as applied:
                    record = {"bytes": applied.removed_bytes, "sparsity": getattr(plan, "sparsity", None)}
                    record["d"] = getattr(plan, "discrepancy", None)
                    record["right"] = verdicts(pipeline, given.images, given.steps).tolist()
            path.write_text(json.dumps(record))
            print(name, f"{np.mean(record['right']):.3f}", flush=True)
        rows[name] = json.loads(path.read_text())
    tags = np.repeat([spec.tag for spec in pocket_suite()], given.images)
    ids = np.repeat(np.arange(len(pocket_suite())), given.images)
    pairs = {
        name: compare_paired(rows["dense"]["right"], row["right"], ids, tags)
        for name, row in rows.items()
        if name != "dense"
    }
    corrected = dict(zip(pairs, holm([pair.overall.p_value for pair in pairs.values()]), strict=True))
    lines = []
    for name, pair in pairs.items():
        row = rows[name]
        lines.append(
            [
                name,
                "–" if row["sparsity"] is None else f"{100 * row['sparsity']:.1f} %",
                f"{whole - row['bytes']:,}",
                "–" if row["d"] is None else f"{row['d']:.4f}",
                share_text(pair.overall.b),
                difference_text(pair.overall),
                bare_p(corrected[name]),
                *(points_text(one.value) for one in pair.tags.values()),
            ]
        )
    one = next(iter(pairs.values()))
    print(f"dense: {share_text(one.overall.a)}; {len(ids)} images, {given.steps} steps, truth; encoder {whole:,} bytes")
    header = [
        "plan",
        "parameters removed",
        "bytes left",
        "D",
        "score",
        "difference in points",
        "p (Holm)",
        *one.tags,
    ]
    print(markdown_table(header, lines))
    lines = []
    for name in pairs:
        rival, _, level = name.rpartition("_")
        if rival not in ("", "skrr"):
            one = compare_paired(rows[f"skrr_{level}"]["right"], rows[name]["right"], ids, tags).overall
            lines.append([name, difference_text(one), bare_p(one.p_value)])
    print(markdown_table(["plan", "minus skrr at the same level, points", "p"], lines))
    cuts = [name for name in pairs if rows[name]["d"] is not None]
    rank = spearmanr([rows[name]["d"] for name in cuts], [pairs[name].overall.value for name in cuts])
    print(f"rank correlation of D and the change of the score over {len(cuts)} plans: {rank.statistic:.2f}")
    if given.every_set:
        for size, sets in every_set(recipe, pipeline, prompts, given.out / "sets.json.txt").items():
            print(f"{size} of 12: best {sets[0]}, median D {sets[len(sets) // 2][0]:.4f}, worst {sets[-1][0]:.4f}")


if __name__ == "__main__":
    main()
