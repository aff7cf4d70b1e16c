"""How far the packaged judges agree with the world's truth, and with each other, on pocket images.

    python benchmarks/judge_agreement.py --each 4 --threads 1

The pocket model paints its suite; the true objects of every painting are known. Prints per task the share that the truth and each
judge find correct, agreement and Cohen's kappa with 95 % intervals (prompts drawn within tasks), and CPU seconds per image.
"""

import argparse
import json
import time

import torch
from PIL import Image

from geneval_reward import GenEvalScorer
from geneval_reward.generate import seed_for
from geneval_reward.pocket import load_pipeline, pocket_suite
from geneval_reward.pocket.codec import decode_scenes
from geneval_reward.pocket.render import render
from geneval_reward.pocket.scene import fulfils
from geneval_reward.prompts import TAGS
from geneval_reward.stats import clustered_bootstrap, cohen_kappa


def paint(each, seed):
    """Specs, images and truths of `each` paintings per prompt."""
    specs = [spec for spec in pocket_suite() for _ in range(each)]
    seeds = [seed_for(seed, spec.prompt, index % each) for index, spec in enumerate(specs)]
    pipe = load_pipeline()
    pipe.set_progress_bar_config(disable=True)
    scenes = []
    for first in range(0, len(specs), 64):
        part = slice(first, first + 64)
        generator = [torch.Generator().manual_seed(one) for one in seeds[part]]
        prompts = [spec.prompt for spec in specs[part]]
        latents = pipe(prompts, generator=generator, num_inference_steps=8, output_type="latent").images
        scenes += decode_scenes(latents)
    images = [Image.fromarray(render(scene)) for scene in scenes]
    return specs, images, [fulfils(scene, spec) for scene, spec in zip(scenes, specs, strict=True)]


def agreement(a, b, specs):
    """Agreement and kappa with their intervals."""
    prompts, tags = [spec.to_json() for spec in specs], [spec.tag for spec in specs]
    same = [float(one == other) for one, other in zip(a, b, strict=True)]
    share = clustered_bootstrap(same, prompts, tags).micro
    kappa, low, high = cohen_kappa(a, b, prompts, tags)
    return {
        "images": len(specs),
        "agreement": [round(x, 3) for x in (share.value, share.interval.low, share.interval.high)],
        "kappa": [None if x != x else round(x, 3) for x in (kappa, low, high)],
        "rates": [round(sum(one) / len(one), 3) for one in (a, b)],
        "only_first": sum(one and not other for one, other in zip(a, b, strict=True)),
        "only_second": sum(other and not one for one, other in zip(a, b, strict=True)),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=4, help="paintings per prompt")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    specs, images, truth = paint(args.each, args.seed)
    said, seconds = {"truth": truth}, {}
    for name in ("lite", "nanodet"):
        scorer = GenEvalScorer.from_pretrained(name, device="cpu")
        start = time.process_time()
        said[name] = [verdict.correct for verdict in scorer.score(images, specs)]
        seconds[name] = round((time.process_time() - start) / len(images), 4)
    table = {}
    for first, second in (("truth", "lite"), ("truth", "nanodet"), ("lite", "nanodet")):
        table[f"{first} / {second}"] = {
            tag: agreement(*([said[who][row] for row in rows] for who in (first, second)), [specs[row] for row in rows])
            for tag in (*TAGS, "all")
            if (rows := [row for row, spec in enumerate(specs) if tag in (spec.tag, "all")])
        }
    both = [one and other for one, other in zip(said["lite"], said["nanodet"], strict=True)]
    right = [true for true, one in zip(truth, both, strict=True) if one]
    print(
        json.dumps(
            {"cpu_seconds_per_image": seconds, "truth_if_both_say_right": sum(right) / len(right), **table}, indent=1
        )
    )


if __name__ == "__main__":
    main()
