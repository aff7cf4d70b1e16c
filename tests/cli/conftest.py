"""A small folder of images in the benchmark's layout, and the command line in this process."""

import json
import warnings

import pytest
from PIL import Image
from typer.testing import CliRunner

from geneval_reward.cli import app
from geneval_reward.errors import GenEvalError
from geneval_reward.prompts import PromptSpec
from geneval_reward.results.layout import write_prompt_folder
from geneval_reward.vision.photos import PHOTOS, photo


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run a command in an empty folder; errors of ours come back as exit code 2, as `main` has it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*args):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            result = CliRunner().invoke(app, [str(arg) for arg in args])
        if isinstance(result.exception, GenEvalError | ValueError | FileExistsError):
            return result, 2, str(result.exception)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result, result.exit_code, result.stderr

    return call


@pytest.fixture
def images(tmp_path):
    """Eight images: each packaged photograph under a true and a false record."""
    root = tmp_path / "images"
    number = 0
    for name, shot in PHOTOS.items():
        for record in (shot.record, shot.false_record):
            picture = photo(name)
            picture.thumbnail((256, 256))
            picture.save(write_prompt_folder(root, number, PromptSpec.parse(record)) / "0000.png")
            number += 1
    return root


@pytest.fixture
def lines():
    """The lines of a results file."""
    return lambda path: [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def flat(tmp_path):
    """A flat folder of three images."""
    root = tmp_path / "flat"
    root.mkdir()
    for name in ("b.png", "a.png", "c.jpg"):
        Image.new("RGB", (64, 48), "white").save(root / name)
    return root
