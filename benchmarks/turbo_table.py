"""Show-o Turbo on the pocket token model: steps x guidance x sampler for the teacher and students, and the tables of the docs.

    recipe="python recipes/show_o_turbo.py fit --config configs/show_o_turbo_pocket.yaml"
    measure="python benchmarks/turbo_table.py measure"
    for seed in 0 1 2; do
      $recipe --data.seed $seed --model.save out/turbo/seed-$seed
      $measure --name seed-$seed --folder out/turbo/seed-$seed/segments-1 --samplers greedy "top-k 4" --judge 1:1 4:1
      $measure --name "seed-$seed on training prompts" --folder out/turbo/seed-$seed/segments-1 --guidance 1 --steps 1 2 4
    done
    $recipe --data.seed 0 --model.save out/turbo/no-text --model.text_weight 0
    $measure --name no-text --folder out/turbo/no-text/segments-1 --guidance 1 --samplers "top-k 4"
    $measure --name first-stage --folder out/turbo/seed-0/segments-8 --guidance 1 --samplers "top-k 4"
    $measure --name teacher --guidance 1 2 5 --samplers greedy "top-k 64" "top-k 16" "top-k 4" --judge 1:1 4:1 16:2
    $measure --name "teacher on training prompts" --guidance 1 --steps 1 2 4
    python benchmarks/turbo_table.py table

`measure` adds one line per cell to benchmarks/turbo_cells.jsonl and goes on where it stopped. All cells have the 200 prompts
of the pocket suite, which no training prompt equals in meaning, and the same seeds, so they are paired image by image.
Verdicts are by the true scene that codes stand for, and those of `--judge` by `lite` too.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from geneval_reward.generate import seed_for
from geneval_reward.pocket import load_tokens, pocket_suite
from geneval_reward.pocket.codes import decode, draw, encode
from geneval_reward.pocket.questions import is_true, question_of
from geneval_reward.pocket.scene import fulfils
from geneval_reward.pocket.tokens_file import TOKENS_FOLDER
from geneval_reward.pocket.world import sample_scene
from geneval_reward.prompts import TAGS
from geneval_reward.results.notation import DASH, difference_text, share_text
from geneval_reward.results.tables import markdown_table
from geneval_reward.stats import compare_paired
from geneval_reward.train.data import read_training_prompts

CELLS = Path(__file__).with_name("turbo_cells.jsonl")
STEPS = (1, 2, 4, 8, 16)
SAMPLERS = {
    "plain": {},
    "top-k 64": {"top_k": 64},
    "top-k 16": {"top_k": 16},
    "top-k 4": {"top_k": 4},
    "greedy": {"temperature": 0.0, "choice_noise": 0.0},
}
SUITE = pocket_suite()
TRAINING = " on training prompts"
"""Ending of the names of runs that are measured on 200 prompts of the training's."""


def specs_of(name):
    """The prompts that a run is measured on."""
    if not name.endswith(TRAINING):
        return SUITE
    distinct = {spec.prompt: spec for spec in read_training_prompts("pocket", 0)}
    return tuple(distinct.values())[: len(SUITE)]


def images_each(steps):
    """Images per prompt: more where they are cheap, since few steps are what this is about."""
    return 4 if steps <= 4 else 2


def cells_of(options):
    """(steps, guidance, sampler) to measure, cheapest first."""
    plain = [(steps, guidance, "plain") for steps in options.steps for guidance in options.guidance]
    others = [
        (steps, guidance, name)
        for name in options.samplers
        for steps in options.steps
        for guidance in options.sampler_guidance
        if steps <= 8 or name == "greedy"
    ]
    return sorted(plain + others, key=lambda cell: cell[0] * (1 if cell[1] == 1 else 2))


def paint(model, specs, steps, guidance, sampler):
    """Codes for the prompts, image by image of each prompt, and CPU seconds per image."""
    each = 1 if sampler == "greedy" else images_each(steps)
    jobs = [(spec.prompt, seed_for(0, spec.prompt, index)) for spec in specs for index in range(each)]
    begun, parts = time.process_time(), []
    for first in range(0, len(jobs), 100):
        prompts, seeds = zip(*jobs[first : first + 100], strict=True)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        parts.append(model.paint(prompts, generators, steps=steps, guidance=guidance, **SAMPLERS[sampler]).codes)
    return torch.cat(parts), (time.process_time() - begun) / len(jobs)


def layout(scene):
    """What is where: class, colour and quarter of every object. Two pictures with equal layouts are alike."""
    return tuple(sorted((item.class_name, str(item.color), item.x > 0.5, item.y > 0.5) for item in scene.items))


def measure(options):
    done = {key_of(line) for line in read_cells()}
    model, specs = load_tokens(folder=options.folder), specs_of(options.name)

    def keep(line):
        with CELLS.open("a") as file:
            file.write(json.dumps({"name": options.name} | line) + "\n")
        print(options.name, {name: value for name, value in line.items() if name not in ("right", "lite")}, flush=True)

    if specs == SUITE and (options.name, "questions") not in done:
        keep({"questions": questions(model)})
    scorer = None
    for steps, guidance, sampler in cells_of(options):
        judged = [str(steps), f"{guidance:g}"] in [cell.split(":") for cell in options.judge] and sampler == "plain"
        if (options.name, steps, guidance, sampler, judged) in done:
            continue
        codes, seconds = paint(model, specs, steps, guidance, sampler)
        each = len(codes) // len(specs)
        scenes = decode(codes)
        rows = [spec for spec in specs for _ in range(each)]
        right = [fulfils(scene, spec) for scene, spec in zip(scenes, rows, strict=True)]
        layouts = [
            len({layout(scene) for scene in scenes[first : first + each]}) for first in range(0, len(scenes), each)
        ]
        line = {"steps": steps, "guidance": guidance, "sampler": sampler, "each": each}
        line |= {
            "overall": round(overall(right, rows), 4),
            "seconds": round(seconds, 5),
            "layouts": np.mean(layouts).item(),
        }
        line["right"] = "".join(str(int(ok)) for ok in right)
        if judged:
            if scorer is None:
                from geneval_reward import GenEvalScorer

                scorer = GenEvalScorer.from_pretrained("lite", device="cpu")
            first = [index for index in range(len(rows)) if index % each < 2]
            verdicts = scorer.score([Image.fromarray(p) for p in draw(codes[first])], [rows[index] for index in first])
            line["lite"] = "".join(str(int(verdict.correct)) for verdict in verdicts)
        keep(line)


def questions(model):
    """Verdicts on answers to questions about clean scenes, which no model painted."""
    rng = np.random.default_rng(0)
    rows = [spec for spec in SUITE for _ in range(2)]
    scenes = decode(encode([sample_scene(spec, rng) for spec in rows]))
    codes = encode(scenes)
    asked = [question_of(spec)[0] for spec in rows]
    answers = model.answer(codes, asked)
    return "".join(str(int(is_true(q, a, s))) for q, a, s in zip(asked, answers, scenes, strict=True))


def overall(right, rows):
    """Mean of the task means, over the tasks that there are."""
    by_tag = {spec.tag: [] for spec in rows}
    for ok, spec in zip(right, rows, strict=True):
        by_tag[spec.tag].append(ok)
    return float(np.mean([np.mean(values) for values in by_tag.values()]))


def read_cells():
    return [json.loads(line) for line in CELLS.read_text().splitlines()] if CELLS.exists() else []


def key_of(line):
    if "questions" in line:
        return line["name"], "questions"
    return line["name"], line["steps"], line["guidance"], line["sampler"], "lite" in line


class Cells:
    """Cells by name, with verdicts as numbers per image."""

    def __init__(self):
        self.found = {key_of(line)[:4]: line for line in read_cells()}

    def right(self, names, steps, guidance, sampler="plain", field="right"):
        """Verdicts (images,), averaged over runs of other seeds; None if a run lacks the cell."""
        lines = [self.found.get((name, steps, guidance, sampler)) for name in names]
        if None in lines or any(field not in line for line in lines):
            return None
        return np.mean([[int(bit) for bit in line[field]] for line in lines], 0)

    def questions(self, names):
        return np.mean([[int(bit) for bit in self.found[name, "questions"]["questions"]] for name in names], 0)


def rows_of(values, specs=SUITE):
    return [spec for spec in specs for _ in range(len(values) // len(specs))]


def score(values, specs=SUITE):
    return share_text(None if values is None else overall(values, rows_of(values, specs)))


def by_task(values):
    rows = rows_of(values)
    return [share_text(np.mean([v for v, s in zip(values, rows, strict=True) if s.tag == tag])) for tag in TAGS]


def gain(base, own, specs=SUITE):
    """Paired difference in points with a 95 % interval, over the images that both have."""
    if base is None or own is None:
        return DASH
    each = min(len(base), len(own)) // len(specs)
    base, own = (values.reshape(len(specs), -1)[:, :each].ravel() for values in (base, own))
    rows = rows_of(own, specs)
    compared = compare_paired(base, own, [spec.prompt for spec in rows], [spec.tag for spec in rows], draws=4000)
    return difference_text(compared.overall)


def table(options):
    cells, students = Cells(), options.students
    everyone = {"teacher": ["teacher"], "student": students}
    names = sorted({key[0] for key in cells.found})
    guidances = sorted({line["guidance"] for line in cells.found.values() if "guidance" in line})
    heads = [f"{steps} steps" for steps in STEPS]

    print("Steps and guidance\n")
    rows = []
    for label, runs in everyone.items():
        for guidance in guidances:
            values = [cells.right(runs, steps, guidance) for steps in STEPS]
            if any(value is not None for value in values):
                rows.append([label, f"{guidance:g}", *map(score, values)])
    print(markdown_table(["", "guidance", *heads], rows))

    print("\nSamplers without guidance\n")
    rows = []
    for label, runs in everyone.items():
        for sampler in SAMPLERS:
            shown = [run for run in runs if (run, 1, 1.0, sampler) in cells.found]
            if shown:
                values = [cells.right(shown, steps, 1.0, sampler) for steps in STEPS]
                alike = [[cells.found.get((run, steps, 1.0, sampler)) for run in shown] for steps in (1, 2, 4)]
                layouts = [
                    DASH if None in lines else f"{np.mean([x['layouts'] for x in lines]):.1f}" for lines in alike
                ]
                rows.append([f"{label}, {sampler}", len(shown), *map(score, values), *layouts])
    print(markdown_table(["", "runs", *heads, *(f"layouts, {steps}" for steps in (1, 2, 4))], rows))

    print("\nEqual forwards\n")
    rows = []
    for forwards in STEPS:
        row: list = [forwards]
        for sampler in ("plain", "top-k 4", "greedy"):
            own, base = (cells.right(runs, forwards, 1.0, sampler) for runs in (students, ["teacher"]))
            row += [score(own), gain(base, own)]
        own = cells.right(students, forwards, 1.0)
        guided = [cells.right(["teacher"], forwards // 2, g) for g in guidances if g > 1]
        best = max((value for value in guided if value is not None), key=lambda v: overall(v, rows_of(v)), default=None)
        rows.append([*row, score(best), gain(best, own)])
    header = ["forwards"]
    for sampler in ("plain", "top-k 4", "greedy"):
        header += [f"student, {sampler}", "- teacher"]
    print(markdown_table([*header, "teacher, guided, half the steps", "student, plain, - it"], rows))

    print("\nBy task\n")
    rows = []
    for label, runs in everyone.items():
        for guidance in (1.0, 2.0):
            for steps in STEPS:
                values = cells.right(runs, steps, guidance)
                if values is not None:
                    lines = [cells.found[run, steps, guidance, "plain"] for run in runs]
                    seconds = f"{1000 * np.mean([line['seconds'] for line in lines]):.1f}"
                    forwards = steps * (1 if guidance == 1 else 2)
                    layouts = f"{np.mean([line['layouts'] for line in lines]):.2f} of {lines[0]['each']}"
                    name = f"{label}, {steps} steps, guidance {guidance:g}"
                    rows.append([name, forwards, seconds, *by_task(values), score(values), layouts])
    print(markdown_table(["", "forwards", "CPU ms", *TAGS, "overall", "layouts"], rows))

    print("\nRuns\n")
    rows = []
    for name in (name for name in names if not name.endswith(TRAINING)):
        values = [cells.right([name], steps, 1.0) for steps in STEPS]
        few = [cells.right([name], steps, 1.0, "top-k 4") for steps in (1, 2, 4)]
        asked, base = cells.questions([name]), cells.questions(["teacher"])
        rows.append([name, *map(score, values), *map(score, few), score(asked), gain(base, asked)])
    print(
        markdown_table(["run", *heads, *(f"top-k 4, {steps}" for steps in (1, 2, 4)), "answers true", "change"], rows)
    )

    print("\nOn training prompts\n")
    rows, specs = [], specs_of(TRAINING)
    for name in (name for name in names if name.endswith(TRAINING)):
        row = [name.removesuffix(TRAINING)]
        for steps in (1, 2, 4):
            own, base = (cells.right([run], steps, 1.0) for run in (name, "teacher" + TRAINING))
            row += [score(own, specs), gain(base, own, specs)]
        rows.append(row)
    print(markdown_table(["run", *(text for steps in (1, 2, 4) for text in (f"{steps} steps", "- teacher"))], rows))

    print("\nBy lite\n")
    rows = []
    for owner, steps, guidance, sampler in sorted(key for key, line in cells.found.items() if "lite" in line):
        cell = ([owner], steps, guidance, sampler)
        truth = cells.right(*cell).reshape(len(SUITE), -1)[:, :2].ravel()
        rows.append([owner, steps, f"{guidance:g}", score(cells.right(*cell, "lite")), score(truth)])
    print(markdown_table(["run", "steps", "guidance", "lite", "truth, same images"], rows))


def main():
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("measure")
    one.set_defaults(run=measure)
    one.add_argument(
        "--name",
        required=True,
        help=f"name of the run in the tables; `teacher` is the one compared with; ...{TRAINING}: on those",
    )
    one.add_argument("--folder", type=Path, default=TOKENS_FOLDER)
    one.add_argument("--steps", type=int, nargs="+", default=STEPS)
    one.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.0])
    one.add_argument("--samplers", nargs="*", default=[], choices=[name for name in SAMPLERS if name != "plain"])
    one.add_argument("--sampler-guidance", type=float, nargs="+", default=[1.0])
    one.add_argument("--judge", nargs="*", default=[], help="cells that lite judges too, as STEPS:GUIDANCE")
    two = commands.add_parser("table")
    two.set_defaults(run=table)
    two.add_argument("--students", nargs="+", default=["seed-0", "seed-1", "seed-2"])
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
