"""Wrong arguments are refused before torch is imported, which takes seconds."""

import json
import subprocess
import sys
import textwrap

import pytest

from geneval_reward.cli.search import METHODS as NAMES_OF_METHODS
from geneval_reward.search import METHODS

# What to type, and what the sentence says.
WRONG = {
    "score images --out there.jsonl": "--resume or --overwrite",
    "score nothing --out new.jsonl": "expected a folder of images, got nothing",
    "score images --out new.jsonl --backend light": "backend: expected one of lite",
    "score images --out new.jsonl --precision fp8": "precision: expected one of auto",
    "score images --out new.jsonl --rules confidence=7": "confidence: expected a number in",
    "score images --out new.jsonl --rules sureness=0.7": "rules: expected fields of",
    "score images --out new.jsonl --checkpoint w.pth": "--checkpoint: expected none with lite",
    "score images --out new.jsonl --engine cloud": "--engine: expected local or ray",
    "score images --out new.jsonl --resume --overwrite": "expected at most one of the two",
    "summary there.jsonl --plot x.png": "expected lines of results",
    "summary nothing.jsonl": "expected a results file",
    "compare there.jsonl": "at least two",
    "report nothing.jsonl": "expected a results file",
    "generate pocket --out images": "expected a new or empty folder",
    "generate pocket --out there.jsonl": "expected a folder, got the file",
    "generate pocket --out new --suite nothing": "--suite: expected",
    "generate pocket --out new --subset ten": "subset: expected a number of prompts",
    "generate pocket --out new --precision fp8": "precision: expected one of auto",
    "generate pocket --out new --shard 4/2": "shard: expected i/n",
    "generate pocket --out new --set height": "expected name=value",
    "generate pocket --out new --rewrites nothing": "--rewrites: expected a file",
    "search pocket --out new --method beam": "method: expected one of tts-var",
    "search pocket --out new --sampler dpm": "sampler: expected one of cps",
    "search pocket --out images": "expected a new or empty folder",
    "sweep pocket --out new": "expected at least one axis",
    "sweep pocket --out images --grid steps=1": "expected a new or empty folder",
    "sweep pocket --out new --grid steps=1 --backend light": "backend: expected one of lite",
    "sweep pocket --out new --grid steps=1 --suite nothing": "--suite: expected",
    "audit nothing.jsonl --second light": "backend: expected one of lite",
    "audit nothing.jsonl": "expected a results file",
    "prompts --task sorting": "expected one of single_object",
    "serve --backend light": "backend: expected one of lite",
    "serve --rules confidence=7": "confidence: expected a number in",
    "serve --log-level loud": "--log-level: expected debug",
    "serve --compat trl": "--compat: expected flow-grpo",
    "doctor --backend light": "backend: expected one of lite",
    "doctor --precision fp8": "precision: expected one of auto",
    "weights fetch nothing": "expected one of mask2former",
}

RUN = """
import importlib.abc, json, shlex, sys

HEAVY = {"torch", "torchvision", "torchmetrics", "lightning", "diffusers", "transformers", "matplotlib", "ray", "open_clip"}

class Guard(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in HEAVY:
            raise AssertionError(f"imports {name}")

sys.meta_path.insert(0, Guard())
from typer.testing import CliRunner
from geneval_reward.cli import app

found = {}
for line in json.load(sys.stdin):
    result = CliRunner(env={"COLUMNS": "500"}).invoke(app, shlex.split(line))
    error = result.exception
    text = result.stderr if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"
    found[line] = [result.exit_code, text]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def refusals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refusals")
    (folder / "images").mkdir()
    (folder / "images" / "a.txt").write_text("x")
    (folder / "there.jsonl").write_text("")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(RUN)],
        input=json.dumps(list(WRONG)),
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not (folder / "new").exists()
    return json.loads(done.stdout)


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_argument_is_refused_before_torch_is_imported(refusals, line):
    code, text = refusals[line]
    assert code != 0
    assert WRONG[line] in " ".join(text.split())


def test_the_names_of_methods_are_those_of_the_search():
    assert NAMES_OF_METHODS == METHODS
