"""Score against cost of searches on the pocket models: every method, its control, and one plain image of the same sampler.

    python benchmarks/search_curve.py run --model pocket --prompts 30
    python benchmarks/search_curve.py run --model pocket-tokens --guidance 3 --prompts 30
    python benchmarks/search_curve.py previews --model pocket
    python benchmarks/search_curve.py table

`run` writes one line per (model, prompt, seed, method, n) to out/search_curve/ and goes on where it stopped; prompts come in
turn from all tasks, so a run that is cut short is still spread over them. Candidates are selected by `lite`; every result is
judged by the second detector, `nanodet`, and by the world's truth (the scene that was drawn). `previews` asks on other prompts
how well a preview's verdict foretells the final one.
"""

import argparse
import hashlib
import json
import time
import warnings
from collections import defaultdict
from concurrent.futures import Future
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch

from geneval_reward import GenEvalScorer
from geneval_reward.generate import seed_for, stratified_subset
from geneval_reward.pocket import iter_pocket_prompts, pocket_suite
from geneval_reward.pocket.codec import decode_scenes
from geneval_reward.pocket.scene import fulfils
from geneval_reward.results.notation import difference_text
from geneval_reward.results.tables import markdown_table
from geneval_reward.reward import GenEvalReward, RewardBatch
from geneval_reward.search import load_steps, named_plan, search
from geneval_reward.search.load import CreditReward
from geneval_reward.stats import compare_paired

OUT = Path("out/search_curve")
METHODS = ("best-of-n", "importance", "random", "cluster", "resample", "tts-var", "fk")
SEEDS = (0, 1, 2)


def work(sizes, fk_sizes, plain_sizes):
    """(method, n) in the order in which they share what is cached."""
    pairs = [("best-of-n", n) for n in plain_sizes] + [("importance", n) for n in plain_sizes if n > 1]
    pairs += [(method, n) for n in sizes for method in ("random", "resample", "cluster", "tts-var")]
    return pairs + [("fk", n) for n in fk_sizes]


class Watched:
    """Steps that remember the scenes of the finished candidates."""

    def __init__(self, steps):
        self.steps, self.scenes = steps, []

    def __getattr__(self, name):
        return getattr(self.steps, name)

    def images(self, state):
        self.scenes = scenes_of(state)
        return self.steps.images(state)


def scenes_of(state, preview=False):
    """The scenes that candidates show, or whose previews show, straight from the model's state."""
    if hasattr(state, "model"):  # tokens
        from geneval_reward.pocket.codes import decode

        return decode(state.model.codes, state.model.level)
    return decode_scenes(state.x0 if preview else state.x)


class Cached:
    """A reward that judges a picture once; methods that share candidates ask about the same ones."""

    def __init__(self, reward):
        self.reward, self.known = reward, {}

    def submit(self, images, specs, /):
        keys = [hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest() for image in images]
        new = {key: index for index, key in enumerate(keys) if key not in self.known}
        if new:
            rows = list(new.values())
            found = self.reward.submit([images[row] for row in rows], [specs[row] for row in rows]).result()
            self.known |= zip(new, zip(found.rewards, found.verdicts, strict=True), strict=True)
        rewards, verdicts = zip(*(self.known[key] for key in keys), strict=True)
        done = Future()
        done.set_result(RewardBatch(list(rewards), list(verdicts), [None] * len(keys)))
        return done

    def close(self):
        self.reward.close()


def in_turn(specs):
    """Prompts of the tasks in turn."""
    by_tag = defaultdict(list)
    for spec in specs:
        by_tag[spec.tag].append(spec)
    return [spec for row in zip_longest(*by_tag.values()) for spec in row if spec is not None]


def run(options):
    path = OUT / f"{options.model}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(line["prompt"], line["seed"], line["method"], line["n"]) for line in lines}
    steps = Watched(load_steps(options.model, guidance=options.guidance, device="cpu"))
    lite, audit = (GenEvalScorer.from_pretrained(name, device="cpu") for name in ("lite", "nanodet"))
    reward = CreditReward(GenEvalReward(lite), ("official", "dense"))
    shares = OUT / f"{options.model}.cost.json"
    if not shares.exists():
        shares.write_text(json.dumps(measure_cost(steps, reward)) + "\n")
    pairs = work(options.sizes, options.fk_sizes, options.plain_sizes)
    specs = in_turn(stratified_subset(pocket_suite(), options.prompts).specs)
    for spec in specs:
        for seed in SEEDS:
            todo = [(method, n) for method, n in pairs if (spec.prompt, seed, method, n) not in done]
            if not todo:
                continue
            begun, cache = time.process_time(), Cached(reward)
            rows, images = [], {}
            for method, n in todo:
                plan = named_plan(method, n, steps.n_steps)
                found = search(steps, plan, cache, prompt=spec.prompt, spec=spec, seed=seed_for(seed, spec.prompt, 0))
                places = list(range(len(found.images)))
                for check in reversed(found.lineage):
                    if check.step >= steps.n_steps - 1:
                        places = [check.rows[place] for place in places]
                key = found.image.tobytes()
                images[key] = found.image
                rows.append(
                    {
                        "prompt": spec.prompt,
                        "tag": spec.tag,
                        "seed": seed,
                        "method": method,
                        "n": n,
                        "passes": found.cost.passes,
                        "decodes": found.cost.decodes,
                        "rewards": found.cost.rewards,
                        "truth": fulfils(steps.scenes[places[0]], spec),
                        "any_truth": any(fulfils(scene, spec) for scene in steps.scenes),
                        "ancestors": len(set(found.ancestors())),
                        "spread": spread(found.images),
                        "key": key,
                    }
                )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                judged = {
                    name: dict(zip(images, scorer.score(list(images.values()), [spec] * len(images)), strict=True))
                    for name, scorer in (("lite", lite), ("nanodet", audit))
                }
            for row in rows:
                key = row.pop("key")
                row |= {name: verdicts[key].correct for name, verdicts in judged.items()}
            with path.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
            print(f"{spec.prompt} seed {seed}: {time.process_time() - begun:.1f} CPU seconds", flush=True)


def spread(images):
    """Mean distance between the finalists' pictures at 16 x 16 pixels, in [0, 255]; None for a single one."""
    if len(images) == 1:
        return None
    small = np.stack([np.asarray(image.resize((16, 16)), float).ravel() for image in images])
    distances = np.abs(small[:, None] - small).mean(2)
    return float(distances[np.triu_indices(len(small), 1)].mean())


def measure_cost(steps, reward, count=8):
    """What a decode and a reward cost, as shares of a plain image's CPU seconds (steps and decode), in one run."""
    spec = pocket_suite()[40]

    def seconds(call):
        call()
        begun = time.process_time()
        for _ in range(3):
            call()
        return (time.process_time() - begun) / 3 / count

    state = steps.start(spec.prompt, list(range(count)))

    def passes():
        nonlocal state
        state = steps.start(spec.prompt, list(range(count)))
        for step in range(steps.n_steps):
            state = steps.advance(state, step)

    step_seconds = seconds(passes)
    decode_seconds = seconds(lambda: steps.images(state))
    images = list(steps.images(state))
    reward_seconds = seconds(lambda: reward.submit(images, [spec] * count).result())
    plain = step_seconds + decode_seconds
    return {"plain_seconds": plain, "decode": decode_seconds / plain, "reward": reward_seconds / plain}


def previews(options):
    """Correlation of the truth of a preview with that of the image, within prompts that `run` does not use."""
    used = {spec.prompt for spec in pocket_suite()}
    specs = []
    for spec in iter_pocket_prompts(seed=1):
        if spec.prompt not in used and spec.prompt not in {one.prompt for one in specs}:
            specs.append(spec)
        if len(specs) == options.prompts:
            break
    steps = load_steps(options.model, guidance=options.guidance, device="cpu")
    table = []
    for spec in specs:
        state = steps.start(spec.prompt, [seed_for(7, spec.prompt, index) for index in range(options.seeds)])
        rows = []
        for step in range(steps.n_steps):
            state = steps.advance(state, step)
            rows.append([fulfils(scene, spec) for scene in scenes_of(state, preview=True)])
        table.append([*rows, [fulfils(scene, spec) for scene in scenes_of(state)]])
    values = np.array(table, float)  # (prompts, steps + 1, seeds)
    centred = values - values.mean(2, keepdims=True)
    final = centred[:, -1]
    power = np.sqrt((centred**2).sum((0, 2)) * (final**2).sum())
    phi = (centred * final[:, None]).sum((0, 2)) / np.where(power > 0, power, np.nan)
    found = {
        "model": options.model,
        "prompts": len(specs),
        "seeds": options.seeds,
        "share right": [round(share, 3) for share in values.mean((0, 2)).tolist()],
        "phi": [round(value, 3) for value in phi.tolist()],
    }
    (OUT / f"{options.model}.previews.json").write_text(json.dumps(found) + "\n")
    print(json.dumps(found))


def table(options):
    for path in sorted(OUT.glob("*.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        shares = json.loads(path.with_suffix(".cost.json").read_text())
        groups = defaultdict(dict)
        for line in lines:
            groups[line["method"], line["n"]][line["prompt"], line["seed"]] = line
        whole = max(len(found) for found in groups.values())
        keys = sorted(set.intersection(*(set(found) for found in groups.values() if len(found) > whole / 2)))
        prompts = sorted({prompt for prompt, _ in keys})
        print(
            f"\n{path.stem}: {len(prompts)} prompts, {len(keys)} searches each; one plain image takes "
            f"{1000 * shares['plain_seconds']:.0f} CPU ms, of which decoding {shares['decode']:.0%}; a reward takes "
            f"{shares['reward']:.2f} plain images\n"
        )
        controls = {
            "tts-var": "random",
            "cluster": "random",
            "resample": "random",
            "importance": "best-of-n",
            "fk": "best-of-n",
        }
        rows = []
        for method, n in sorted(groups, key=lambda pair: (METHODS.index(pair[0]), pair[1])):
            mine = groups[method, n]
            if not set(keys) <= set(mine):
                continue
            own = [mine[key] for key in keys]
            passes = np.mean([line["passes"] for line in own])
            cost = passes * (1 - shares["decode"]) + shares["decode"] * np.mean([line["decodes"] for line in own])
            cost += shares["reward"] * np.mean([line["rewards"] for line in own])
            row = [method, n, f"{passes:.2f}", f"{cost:.2f}"]
            row += [f"{np.mean([line[judge] for line in own]):.3f}" for judge in ("lite", "nanodet", "truth")]
            base = groups["best-of-n", 1]
            row.append(difference(own, [base[key] for key in keys]) if (method, n) != ("best-of-n", 1) else "")
            control = groups.get((controls.get(method), n))
            row.append(difference(own, [control[key] for key in keys]) if control and set(keys) <= set(control) else "")
            spreads = [line["spread"] for line in own if line["spread"] is not None]
            row += [f"{np.mean([line['ancestors'] for line in own]):.1f}", f"{np.mean(spreads):.0f}" if spreads else ""]
            rows.append(row)
        header = (
            "method|n|passes|cost|lite (selects)|nanodet|truth|truth - plain|truth - control|ancestors|spread".split(
                "|"
            )
        )
        print(markdown_table(header, rows))


def difference(a, b):
    """Difference of truth in points with a 95 % interval, by prompt."""
    own, base = (np.array([line["truth"] for line in lines], float) for lines in (a, b))
    ids = [line["prompt"] for line in a]
    found = compare_paired(base, own, ids, [line["tag"] for line in a], draws=2000).micro
    return difference_text(found)


def main():
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["run", "previews", "table"])
    parser.add_argument("--model", default="pocket", choices=["pocket", "pocket-tokens"])
    parser.add_argument("--prompts", type=int, default=30)
    parser.add_argument("--guidance", type=float, help="guidance of the model; its own if left out")
    parser.add_argument("--seeds", type=int, default=8, help="candidates per prompt of `previews`")

    def numbers(text):
        return [int(number) for number in text.split(",")]

    parser.add_argument("--sizes", type=numbers, default=[1, 2, 4, 8], help="N of tts-var, its parts and its control")
    parser.add_argument("--fk-sizes", type=numbers, default=[2, 4, 8])
    parser.add_argument("--plain-sizes", type=numbers, default=[1, 2, 4, 8], help="N of best-of-n and importance")
    options = parser.parse_args()
    {"run": run, "previews": previews, "table": table}[options.what](options)


if __name__ == "__main__":
    main()
