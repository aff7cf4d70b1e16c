"""Small runs with pictures: made-up verdicts on real prompts."""

import json

import numpy as np
import pytest
from made_up_results import synthetic_rows
from PIL import Image
from simulated_runs import simulate_runs

from geneval_reward.results import ResultWriter

PROMPTS = {"single_object": 3, "two_object": 3, "counting": 3, "colors": 3, "position": 3, "color_attr": 3}
ACCURACIES = (dict.fromkeys(PROMPTS, 0.4), dict.fromkeys(PROMPTS, 0.7))


@pytest.fixture(scope="session")
def simulated():
    return simulate_runs(ACCURACIES, prompts=PROMPTS, images_per_prompt=2, seed=5)


@pytest.fixture(scope="session")
def rows(simulated):
    """Rows of two runs on the same prompts and seeds."""
    return [list(synthetic_rows(simulated, run)) for run in (0, 1)]


def paint(path, number, size=(64, 64)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 255, (4, 4, 3), np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def write(tmp_path):
    """Write rows and, unless told otherwise, their pictures; gives the results file."""

    def make(name, rows, *, pictures=True, size=(64, 64), duplicate=None):
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        with ResultWriter(folder / f"{name}.jsonl") as writer:
            writer.write(rows)
        for number, row in enumerate(rows):
            if pictures:
                paint(folder / row.filename, number, size)
        if duplicate is not None:
            with (folder / f"{name}.jsonl").open("a") as file:
                file.write(duplicate.to_json() + "\n")
        return folder / f"{name}.jsonl"

    return make


@pytest.fixture
def official():
    """A line of the official script's own file for a row."""

    def make(row):
        record = json.loads(row.to_json())
        return json.dumps(
            {name: record[name] for name in ("filename", "tag", "prompt", "correct", "reason", "metadata", "details")}
        )

    return make
