"""Measure the pocket token model: step curve, levels, questions, ceiling, sizes and CPU time. Prints the tables of the docs.

    python tools/pocket/measure_tokens.py --each 2 --out out/pocket_tokens

All scores are by the true scenes that codes stand for, on the pocket suite, except for the row and the sheet of images that
the `lite` detector judges.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import torch
from measure import sheet
from PIL import Image
from torch import Tensor

from geneval_reward import GenEvalScorer
from geneval_reward.generate import seed_for
from geneval_reward.pocket import PocketTokens, load_tokens, pocket_suite
from geneval_reward.pocket.codes import LEVELS, decode, draw, encode
from geneval_reward.pocket.questions import is_true, question_of
from geneval_reward.pocket.scene import Scene, fulfils
from geneval_reward.pocket.tokens_file import TOKENS_FOLDER
from geneval_reward.pocket.world import sample_scene
from geneval_reward.prompts import TAGS, PromptSpec

HEAD = "| " + " | ".join(["", "single", "two", "counting", "colors", "position", "colour attr.", "overall"]) + " |"


def row(name: str, specs: Sequence[PromptSpec], right: Sequence[bool]) -> str:
    """One line of a table: the share of right images by task and their mean."""
    table = [float(np.mean([ok for spec, ok in zip(specs, right, strict=True) if spec.tag == tag])) for tag in TAGS]
    cells = [f"{value:.2f}".removeprefix("0") for value in table]
    return f"| {name} | {' | '.join(cells)} | **{np.mean(table):.3f}** |"


class Suite:
    """The pocket suite, `each` images per prompt, with the same seeds for every setting."""

    def __init__(self, model: PocketTokens, each: int, seed: int) -> None:
        self.model = model
        self.specs = [spec for spec in pocket_suite() for _ in range(each)]
        self.seeds = [seed_for(seed, spec.prompt, index % each) for index, spec in enumerate(self.specs)]

    def codes(self, **options: object) -> Tensor:
        """Paint all prompts."""
        parts = []
        for first in range(0, len(self.specs), 100):
            rows = slice(first, first + 100)
            generators = [torch.Generator().manual_seed(seed) for seed in self.seeds[rows]]
            prompts = [spec.prompt for spec in self.specs[rows]]
            parts.append(self.model(prompts, generator=generators, output_type="latent", **options).images)
        return torch.cat(parts)

    def right(self, scenes: Sequence[Scene]) -> list[bool]:
        """Whether each scene shows what its prompt asks for."""
        return [fulfils(scene, spec) for scene, spec in zip(scenes, self.specs, strict=True)]

    def relation(self, scenes: Sequence[Scene]) -> str:
        """Of position prompts: the share with both objects, and of those the share in the right relation."""
        rows = [(scene, spec) for scene, spec in zip(scenes, self.specs, strict=True) if spec.tag == "position"]
        both = [row for row in rows if set(row[1].class_names) <= {item.class_name for item in row[0].items}]
        held = np.mean([fulfils(*row) for row in both])
        return f"both objects in {len(both) / len(rows):.2f} of {len(rows)}, of those the relation right in {held:.2f}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=2, help="images per prompt of the suite")
    parser.add_argument("--steps", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 3.0])
    parser.add_argument("--folder", type=Path, default=TOKENS_FOLDER)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for sheets of samples, which lite judges too")
    args = parser.parse_args()
    started = perf_counter()
    model = load_tokens(folder=args.folder)
    loaded = perf_counter() - started
    suite = Suite(model, args.each, args.seed)
    rng = np.random.default_rng(args.seed)
    clean = [sample_scene(spec, rng) for spec in suite.specs]
    clean_codes = encode(clean)
    size = sum(path.stat().st_size for path in args.folder.glob("*.safetensors"))
    parameters = sum(p.numel() for p in model.transformer.parameters())
    print(
        f"{parameters} parameters, {size / 1e6:.2f} MB, loaded in {loaded:.2f} s, {len(suite.specs)} images per row\n"
    )

    print(HEAD + "\n" + "|---" * 8 + "|")
    print(row("clean scenes, coded (the ceiling)", suite.specs, suite.right(decode(clean_codes))))
    for guidance in args.guidance:
        for steps in args.steps:
            begun = process_time()
            codes = suite.codes(num_inference_steps=steps, guidance_scale=guidance)
            spent = 1000 * (process_time() - begun) / len(codes)
            distinct = np.mean([len({tuple(c) for c in part.tolist()}) for part in codes.split(args.each)]) / args.each
            scenes = decode(codes)
            print(row(f"guidance {guidance:g}, {steps} steps", suite.specs, suite.right(scenes)))
            print(f"    {spent:.1f} CPU ms per image, {distinct:.2f} of images distinct; {suite.relation(scenes)}")
    print()
    levelled = {}
    for guidance in args.guidance:
        levelled[guidance] = suite.codes(decoding="levels", guidance_scale=guidance)
        print(row(f"level by level, guidance {guidance:g}", suite.specs, suite.right(decode(levelled[guidance]))))

    print(
        "\n| levels | clean scenes right | samples right | correlation with the final verdict, within prompts |\n"
        "|---|---|---|---|"
    )
    # Many samples of a few prompts, because the correlation is taken among images of one prompt.
    few, many = list(pocket_suite())[::8], 16
    specs = [spec for spec in few for _ in range(many)]
    generators = [torch.Generator().manual_seed(seed_for(1, s.prompt, i % many)) for i, s in enumerate(specs)]
    state = model.start([spec.prompt for spec in specs], generators)
    for _ in range(LEVELS):
        state = model.advance(state)
    final = np.array([fulfils(a, b) for a, b in zip(decode(state.codes), specs, strict=True)], float)
    for level in range(1, LEVELS + 1):
        now = np.array([fulfils(a, b) for a, b in zip(decode(state.codes, level), specs, strict=True)], float)
        known = np.mean(suite.right(decode(clean_codes, level)))
        a, b = (x.reshape(-1, many) - x.reshape(-1, many).mean(1, keepdims=True) for x in (now, final))
        phi = (a * b).sum() / max(np.sqrt((a * a).sum() * (b * b).sum()), 1e-9)
        print(f"| {level} | {known:.3f} | {now.mean():.3f} | {phi:.2f} |")

    questions = [question_of(spec) for spec in suite.specs]
    asked = [question for question, _ in questions]
    print("\nquestions\n" + HEAD + "\n" + "|---" * 8 + "|")
    painted = suite.codes()
    for name, codes in (("clean scenes", clean_codes), ("its own samples, 16 steps", painted)):
        begun = process_time()
        answers = model.answer(codes, asked)
        spent = 1000 * (process_time() - begun) / len(codes)
        right = [is_true(q, a, s) for q, a, s in zip(asked, answers, decode(codes), strict=True)]
        print(row(f"{name}: answer true", suite.specs, right))
        expected = [a == b for a, (_, b) in zip(answers, questions, strict=True)]
        print(row(f"{name}: answer as the prompt says", suite.specs, expected))
        print(f"    {spent:.1f} CPU ms per answer")
    if args.out is None:
        return
    args.out.mkdir(parents=True, exist_ok=True)
    scorer = GenEvalScorer.from_pretrained("lite", device="cpu")
    best = suite.codes(guidance_scale=args.guidance[-1])
    print("\njudged by lite\n" + HEAD + "\n" + "|---" * 8 + "|")
    for name, codes in (
        ("clean scenes, coded", clean_codes),
        ("16 steps", painted),
        (f"16 steps, guidance {args.guidance[-1]:g}", best),
    ):
        images = [Image.fromarray(picture) for picture in draw(codes)]
        print(row(name, suite.specs, [verdict.correct for verdict in scorer.score(images, suite.specs)]))
    picks = [int(n) for n in np.linspace(0, len(pocket_suite()) - 1, 36)]
    prompts = [pocket_suite()[n].prompt for n in picks]
    first = [n * args.each for n in picks]
    sheet([Image.fromarray(p) for p in draw(painted[first])], prompts, 6, args.out / "pocket_tokens_samples.jpg")
    sheet([Image.fromarray(p) for p in draw(best[first])], prompts, 6, args.out / "pocket_tokens_guided.jpg")
    steps = [Image.fromarray(draw(state.codes[n : n + 1], k)[0]) for n in range(0, 6 * many, many) for k in range(1, 7)]
    captions = [f"{spec.prompt}, {k}" for spec in few[:6] for k in range(1, 7)]
    sheet(steps, captions, 6, args.out / "pocket_tokens_levels.jpg")


if __name__ == "__main__":
    main()
