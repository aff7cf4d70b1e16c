import json
from pathlib import Path

import pytest

MODEL = """
import sys
sys.path.insert(0, {tests!r})
from tests.search.conftest import ToySteps, number

def make():
    return ToySteps()

class Both(ToySteps):
    def generate(self, prompts, seeds):
        return [self.images(self.start(prompt, [seed]))[0] for prompt, seed in zip(prompts, seeds)]

def plain():
    return Both()

def bright(images):
    return [number(image) for image in images]

def broken(images):
    raise RuntimeError("no weights")
"""


def test_search_goes_on_where_it_stopped_and_refuses_other_settings(tmp_path, run) -> None:
    file = tmp_path / "toy.py"
    file.write_text(MODEL.format(tests=str(Path(__file__).parents[2])))
    out = tmp_path / "out"

    def search(*more, reward="bright", method="tts-var", subset="6"):
        words = ["--suite", "official", "--subset", subset, "--images-per-prompt", "1", "--n", "2", "-o", str(out)]
        return run("search", f"{file}:make", *words, "--method", method, "--reward", f"{file}:{reward}", *more)

    done, code, messages = search()
    assert code == 0, messages
    assert "6 images of 6 prompts" in done.stdout
    assert "tts-var, n 2: 16 candidates at first" in messages
    record = json.loads(next(out.glob("*/generation.json")).read_text())["search"]["0000.png"]
    assert record["selected_by"].endswith("bright")
    assert record["lineage"][0]["method"] == "cluster"
    times = {path: path.stat().st_mtime_ns for path in out.glob("*/samples/*.png")}
    assert search(subset="12")[1] == 0
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert len(list(out.glob("*/samples/*.png"))) == 12
    assert [search("--shard", f"{i}/2", subset="18")[1] for i in (0, 1)] == [0, 0]
    assert len(list(out.glob("*/samples/*.png"))) == 18

    _, code, message = search(method="fk")
    assert code == 2
    assert "expected search {'method': 'tts-var'}, got {'method': 'fk'}" in message


def test_a_plain_folder_and_one_of_a_search_are_not_mixed(tmp_path, run) -> None:
    file = tmp_path / "toy.py"
    file.write_text(MODEL.format(tests=str(Path(__file__).parents[2])))
    words = [f"{file}:plain", "--subset", "6", "--images-per-prompt", "1", "-o", str(tmp_path / "out")]
    assert run("generate", *words)[1] == 0
    _, code, message = run("search", *words, "--reward", f"{file}:bright")
    assert code == 2
    assert "holds images of another run: expected search None" in message


def test_a_broken_reward_and_a_wrong_option_are_named(tmp_path, run) -> None:
    file = tmp_path / "toy.py"
    file.write_text(MODEL.format(tests=str(Path(__file__).parents[2])))
    words = ["search", f"{file}:make", "--subset", "6", "--images-per-prompt", "1", "--n", "2"]
    _, code, message = run(*words, "-o", tmp_path / "out", "--reward", f"{file}:broken", "--method", "best-of-n")
    assert code == 2
    assert "no weights" in message
    for more, text in (
        (["--method", "beam"], "method: expected one of tts-var"),
        (["--set", "height=3"], "--set: expected resolution"),
        (["--reward", "beauty"], "reward: expected one of lite"),
        (["--guidance", "3"], "guidance: expected it to be left out"),
    ):
        _, code, message = run(*words, "-o", tmp_path / "none", *more)
        assert code == 2
        assert text in message
        assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(("option", "value"), [("--method", "beam"), ("--reward", "beauty")])
def test_a_misspelled_name_is_told_before_the_model_is_loaded(tmp_path, run, option, value) -> None:
    file = tmp_path / "toy.py"
    file.write_text("def make():\n    raise RuntimeError('the model was loaded')\n")
    _, code, message = run("search", f"{file}:make", "--subset", "6", "-o", tmp_path / "out", option, value)
    assert code == 2
    assert f"{option[2:]}: expected one of" in message
