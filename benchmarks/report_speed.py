"""Time and size of a report of 553 x 4 images: python benchmarks/report_speed.py [FOLDER] [--compare] [--per-prompt 4]

Makes two synthetic runs on the official prompts (verdicts of a simulated model, boxes to match) with 512 x 512 PNG images of
photographic grain, then reports them. With FOLDER, everything is kept there and made only once.
"""

import argparse
import os
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from made_up_results import write_synthetic
from PIL import Image, ImageDraw
from simulated_runs import simulate_runs

from geneval_reward.generate.subset import TYPICAL_ACCURACY
from geneval_reward.results import ResultRow, read_results
from geneval_reward.study.report.collect import collect
from geneval_reward.study.report.html import write_html
from geneval_reward.vision.photos import PHOTOS, photo

SIDE = 512


def picture(row: ResultRow, number: int) -> Image.Image:
    """A cut of a photograph with a disc for every object, in the colour that was seen."""
    rng = np.random.default_rng(number)
    ground = photo(list(PHOTOS)[number % len(PHOTOS)])
    reach = int(rng.integers(200, min(ground.size)))
    left, top = (int(rng.integers(0, side - reach + 1)) for side in ground.size)
    image = ground.crop((left, top, left + reach, top + reach)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    grain = rng.normal(0, 5, (SIDE, SIDE, 1))
    image = Image.fromarray(np.clip(np.asarray(image, np.float64) + grain, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    verdict = row.verdict()
    for boxes in verdict.objects().values():
        for x1, y1, x2, y2, _ in boxes:
            shade = tuple(int(v) for v in rng.integers(30, 230, 3))
            draw.ellipse((x1 + 4, y1 + 4, x2 - 4, y2 - 4), fill=shade, outline="white", width=3)
    return image


def write_images(results: Path, folder: Path, start: int, step: int) -> None:
    for number, row in enumerate(read_results(results).rows()):
        if number % step == start:
            path = folder / row.filename
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(row, number).save(path, compress_level=1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--per-prompt", type=int, default=4)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    better = {tag: min(1.0, value + 0.04) for tag, value in TYPICAL_ACCURACY.items()}
    runs = simulate_runs(
        [TYPICAL_ACCURACY, better], images_per_prompt=options.per_prompt, seed=1, prompt_correlation=0.95
    )
    paths, images = [], []
    for number, name in enumerate(("base", "tuned")[: 2 if options.compare else 1]):
        paths.append(folder / f"{name}.jsonl")
        images.append(folder / name)
        if not paths[-1].exists():
            write_synthetic(paths[-1], runs, number)
            workers = os.cpu_count() or 1
            with ProcessPoolExecutor(workers) as pool:
                jobs = [pool.submit(write_images, paths[-1], images[-1], start, workers) for start in range(workers)]
                for job in jobs:
                    job.result()
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    made = collect(paths, images)
    middle = time.perf_counter()
    page = write_html(made, folder / "report.html")
    end = time.perf_counter()
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    count = sum(len(run.images) for run in made.runs)
    sys.stdout.write(
        f"{count} images: read and reckoned in {middle - start:.1f} s, page in {end - middle:.1f} s, "
        f"together {end - start:.1f} s ({cpu:.1f} s of CPU on {os.cpu_count()} cores), "
        f"{page.stat().st_size / 1e6:.2f} MB, {after.ru_maxrss / 1024:.0f} MiB resident\n{page}\n"
    )


if __name__ == "__main__":
    main()
