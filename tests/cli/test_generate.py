"""`geneval-reward generate`: the benchmark's layout, resumed, and refusals."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from geneval_reward.generate.foreign import WORKER
from geneval_reward.pocket import load_pipeline, pocket_suite
from geneval_reward.results import read_results
from geneval_reward.results.layout import read_folder


@pytest.fixture
def few(tmp_path):
    """Three prompts of the pocket suite as a file."""
    specs = [pocket_suite()[index] for index in (0, 40, 150)]
    path = tmp_path / "few.jsonl"
    path.write_text("".join(spec.to_json() + "\n" for spec in specs))
    return path, specs


def make(run, few, out, *args):
    return run("generate", "pocket", "--suite", few[0], "--out", out, "-n", 2, "--steps", 2, *args)


def test_layout_and_resuming(run, few, tmp_path) -> None:
    result, code, _ = make(run, few, tmp_path / "a")
    assert code == 0
    assert "6 images of 3 prompts" in result.stdout
    folder = read_folder(tmp_path / "a")
    assert [item.spec for item in folder.items] == [spec for spec in few[1] for _ in range(2)]
    assert [item.filename for item in folder.items[:2]] == ["00000/samples/0000.png", "00000/samples/0001.png"]
    before = {item.filename: item.path.read_bytes() for item in folder.items}
    assert len(set(before.values())) == 6
    lost = folder.items[3].path
    lost.unlink()
    result, code, messages = make(run, few, tmp_path / "a", "--batch-size", 1)
    assert code == 0
    assert "5 of 6 images are there already" in messages
    assert {item.filename: item.path.read_bytes() for item in read_folder(tmp_path / "a").items} == before
    make(run, few, tmp_path / "b", "--seed", 1)
    assert before["00000/samples/0000.png"] != (tmp_path / "b" / "00000/samples/0000.png").read_bytes()


def test_a_saved_pipeline_makes_the_same_images(run, few, tmp_path) -> None:
    load_pipeline().save_pretrained(tmp_path / "saved")
    make(run, few, tmp_path / "a")
    _, code, _ = run(
        "generate",
        tmp_path / "saved",
        "--suite",
        few[0],
        "-o",
        tmp_path / "b",
        "-n",
        2,
        "--steps",
        2,
        "--device",
        "cpu",
    )
    assert code == 0
    for one, other in zip(read_folder(tmp_path / "a").items, read_folder(tmp_path / "b").items, strict=True):
        assert one.path.read_bytes() == other.path.read_bytes()


@pytest.mark.slow
def test_the_pocket_suite_in_full(run, tmp_path) -> None:
    _, code, _ = run("generate", "pocket", "--suite", "pocket", "-o", tmp_path / "a", "-n", 1, "--steps", 1)
    assert code == 0
    assert [item.spec for item in read_folder(tmp_path / "a").items] == list(pocket_suite())


def test_one_folder_holds_one_run(run, few, tmp_path) -> None:
    make(run, few, tmp_path / "a")
    _, code, messages = make(run, few, tmp_path / "a", "--seed", 7)
    assert code == 2
    assert "expected seed 0, got 7; choose another folder" in " ".join(messages.split())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    _, code, messages = make(run, few, tmp_path / "full")
    assert code == 2
    assert "expected a new or empty folder" in " ".join(messages.split())
    assert json.loads((tmp_path / "a" / "generate.json").read_text())["seed"] == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("nothing-here", "--suite", "pocket"), "expected 'pocket', 'pocket-tokens', the folder of a diffusers"),
        (("pocket", "--suite", "pockets"), "--suite: expected 'suite', 'pocket', a number of prompts"),
        (
            ("pocket", "--suite", "pocket", "--precision", "fp8"),
            "precision: expected one of auto, fp32, fp16, bf16, got 'fp8'",
        ),
        (("pocket", "--suite", "empty.jsonl"), "expected at least one prompt, got none"),
        (("pocket", "--suite", "broken.jsonl"), "expected one of single_object"),
    ],
)
def test_bad_input(run, tmp_path, args, message) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "broken.jsonl").write_text('{"tag": "colours"}\n')
    _, code, messages = run("generate", *args, "--out", tmp_path / "out")
    assert code == 2
    assert message in " ".join(messages.replace("│", " ").split())


def test_shards_make_the_same_images(run, few, tmp_path, monkeypatch) -> None:
    make(run, few, tmp_path / "whole")
    result, code, _ = make(run, few, tmp_path / "parts", "--shard", "1/2")
    assert code == 0
    assert "2 images of 1 prompt (shard 1/2)" in result.stdout
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert make(run, few, tmp_path / "parts")[1] == 0
    parts, whole = read_folder(tmp_path / "parts"), read_folder(tmp_path / "whole")
    assert parts.problems == []
    assert parts.ignored == 0
    assert [(item.filename, item.seed) for item in parts.items] == [(item.filename, item.seed) for item in whole.items]
    assert [item.path.read_bytes() for item in parts.items] == [item.path.read_bytes() for item in whole.items]


def test_rewritten_prompts_are_said_everywhere(run, few, tmp_path) -> None:
    specs = few[1]
    texts = ["a photo of a teddy bear", specs[1].prompt, "a photo of a clock and a red vase"]
    lines = [{"prompt": spec.prompt, "rewritten": text} for spec, text in zip(specs, texts, strict=True)]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    _, code, messages = make(run, few, tmp_path / "a", "--rewrites", tmp_path / "new.jsonl")
    assert code == 0
    assert "2 prompts are rewritten" in messages
    make(run, few, tmp_path / "b")
    new, plain = read_folder(tmp_path / "a").items, read_folder(tmp_path / "b").items
    assert [item.spec for item in new] == [item.spec for item in plain], "the record is kept"
    assert [item.seed for item in new] == [item.seed for item in plain], "and so is the noise"
    assert [item.rewritten for item in new] == [texts[0]] * 2 + [None] * 2 + [texts[2]] * 2
    same = [a.path.read_bytes() == b.path.read_bytes() for a, b in zip(new, plain, strict=True)]
    assert same == [False, False, True, True, False, False]
    assert json.loads((tmp_path / "a" / "generate.json").read_text())["rewrites"]["prompts"] == 2
    _, _, messages = run("score", tmp_path / "a", "--out", "a.jsonl")
    assert "4 images were generated from rewritten prompts" in messages
    _, _, messages = run("summary", "a.jsonl")
    assert "4 images were generated from rewritten prompts" in messages
    results = read_results("a.jsonl")
    assert results.rewritten.tolist() == [True, True, False, False, True, True]
    assert results.seeds == [item.seed for item in new]
    _, code, messages = make(run, few, tmp_path / "a")
    assert code == 2
    assert "expected rewrites {" in " ".join(messages.split())


def test_a_subset_is_said_and_can_grow(run, tmp_path) -> None:
    common = ("generate", "pocket", "--suite", "pocket", "-o", tmp_path / "a", "-n", 1, "--steps", 1)
    _, code, messages = run(*common, "--subset", "1/task")
    assert code == 0
    assert "a stratified subset of 6 of 200 prompts: expect a standard error of about 16" in messages
    assert "not the full suite" in messages
    _, _, messages = run("score", tmp_path / "a", "--out", "a.jsonl")
    assert "a stratified subset: 6 of 200 prompts of the pocket suite; its score is an estimate" in messages
    before = {item.spec: item.path.read_bytes() for item in read_folder(tmp_path / "a").items}
    _, code, messages = run(*common, "--subset", "12")
    assert code == 0
    assert "6 of 12 images are there already" in messages
    after = {item.spec: item.path.read_bytes() for item in read_folder(tmp_path / "a").items}
    assert before.items() <= after.items()
    run(*common, "--subset", "6")
    assert read_folder(tmp_path / "a").subset == "12 of 200 prompts of the pocket suite"


def test_part_of_the_official_suite_is_not_called_complete(run, tmp_path) -> None:
    run("generate", "pocket", "-o", tmp_path / "a", "-n", 1, "--steps", 1, "--subset", "6")
    result, code, _ = run("score", tmp_path / "a", "--out", "a.jsonl")
    assert code == 1
    assert "NOT the full suite: 6 of 553 prompts" in result.stdout


def test_other_models_and_arguments(run, few, tmp_path) -> None:
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "from geneval_reward.generate import CallableGenerator\n"
        "def grey():\n"
        "    return CallableGenerator(lambda prompts, seeds: [np.full((8, 8, 3), s % 256, np.uint8) for s in seeds])\n"
        "def nothing():\n"
        "    return 3\n"
    )
    _, code, _ = run("generate", "mine.py:grey", "--suite", few[0], "-o", tmp_path / "a", "-n", 1)
    assert code == 0
    assert len(read_folder(tmp_path / "a").items) == 3
    for args, message in [
        (("mine.py:nothing",), "model: expected 'mine.py:nothing' to give a pipeline or an object with generate"),
        (("mine.py:grey", "--steps", 3), "num_inference_steps: expected it to be left out for 'mine.py:grey'"),
        (("no.such.module:thing",), "model: expected module:attribute or file.py:attribute to import"),
        (("pocket", "--set", "heigth=3"), "heigth: expected an argument that PocketPipeline takes"),
        (("pocket", "--lora", "x"), "lora: expected a pipeline that loads LoRA weights, got PocketPipeline"),
        (("pocket", "--lora-scale", "0.5"), "lora_scale: expected it to be left out without lora"),
    ]:
        _, code, messages = run("generate", *args, "--suite", few[0], "-o", tmp_path / "b")
        assert (code, message in " ".join(messages.split())) == (2, True), messages
        assert not (tmp_path / "b").exists(), "a model that cannot be loaded leaves nothing behind"


@pytest.mark.parametrize("kind", ["folder", "file.py"])
def test_a_folder_of_images_does_not_outlive_the_weights_they_were_made_with(run, few, tmp_path, kind) -> None:
    """An evaluation loop over ./checkpoint-last must not show the first checkpoint's score for ever."""
    if kind == "folder":
        model = changed = tmp_path / "saved"
        pipe = load_pipeline()
        pipe.save_pretrained(model)
    else:
        changed = tmp_path / "m.py"
        model = f"{changed}:make"
        changed.write_text("from geneval_reward.pocket import load_pipeline as make\n")
    options = ("generate", model, "--suite", few[0], "-o", tmp_path / "a", "-n", 1, "--steps", 1, "--device", "cpu")
    assert run(*options)[1] == 0
    _, code, messages = run(*options)
    assert code == 0
    assert "3 of 3 images are there already" in messages
    if kind == "folder":
        next(pipe.transformer.parameters()).data += 1
        pipe.save_pretrained(model)
    else:
        changed.write_text("from geneval_reward.pocket import load_pipeline as make  # another\n")
    _, code, messages = run(*options)
    assert code == 2
    assert "holds images that were made with other weights: expected the model" in messages
    assert "choose another folder" in messages


def test_a_core_install_names_the_extra(run, few, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    _, code, messages = make(run, few, tmp_path / "a")
    assert code == 2
    assert "pocket: expected the package diffusers" in messages
    assert "pip install 'geneval-reward[diffusers]'" in messages
    assert not (tmp_path / "a").exists()


def test_images_are_not_given_to_other_prompts(run, few, tmp_path) -> None:
    """The file of the prompt set may change under its name."""
    make(run, few, tmp_path / "a")
    few[0].write_text("".join(spec.to_json() + "\n" for spec in reversed(few[1])))
    before = (tmp_path / "a" / "00000" / "metadata.jsonl").read_text()
    _, code, messages = make(run, few, tmp_path / "a")
    assert code == 2
    assert "the prompt set has changed: choose another folder" in messages
    assert (tmp_path / "a" / "00000" / "metadata.jsonl").read_text() == before


@pytest.mark.parametrize("change", [{"identity": 5}, {"identity": None}, {"subset": 5}, {"images_per_prompt": "x"}])
def test_an_odd_setup_is_named(run, few, tmp_path, change) -> None:
    make(run, few, tmp_path / "a")
    file = tmp_path / "a" / "generate.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    _, code, messages = make(run, few, tmp_path / "a")
    assert code == 2
    assert f"generate.json: expected {next(iter(change))} as this command writes it" in messages


def test_square_brackets_are_no_markup(run) -> None:
    _, code, messages = run("generate", "[/x]", "-o", "a")
    assert code == 2
    assert "got '[/x]'" in messages


MODEL = """
from PIL import Image
class Gray:
    seeding = "given"
    template = "Draw {prompt}"
    settings = {"size": 8}
    def __init__(self, steps=1, limit=99):
        self.steps, self.limit = steps, limit
    def generate(self, prompts, seeds):
        self.limit -= 1
        if self.limit < 0:
            raise ValueError("enough")
        return [Image.new("RGB", (8, 8), (seed % 256, self.steps, 0)) for seed in seeds]
class Global(Gray):
    seeding = "global"
    trained_on_template = True
    def generate(self, prompts, seeds):
        import random
        assert len(prompts) == 1
        return [Image.new("RGB", (8, 8), (random.randrange(256), 0, 0))]
"""


def pixels(root):
    with_notes = [(item.filename, item.generator.to_dict()) for item in read_folder(root).items]
    return [Image.open(root / name).getpixel((0, 0)) for name, _ in with_notes], [notes for _, notes in with_notes]


def test_a_model_in_another_python(run, few, tmp_path) -> None:
    (tmp_path / "gray.py").write_text(MODEL)
    common = ("--suite", few[0], "-n", 2, "--generator-python", sys.executable, "--steps", 7)
    _, code, message = run("generate", "gray.py:Gray", "-o", tmp_path / "a", *common, "--set", "limit=2")
    assert code == 2
    assert "gray.py:Gray: expected images of prompt" in message
    assert "got ValueError: enough" in message
    assert len(read_folder(tmp_path / "a").items) == 2, "what was made stays"
    (tmp_path / "a" / "generate.json").write_text(
        (tmp_path / "a" / "generate.json").read_text().replace('"limit": 2', '"limit": 99')
    )
    _, code, _ = run("generate", "gray.py:Gray", "-o", tmp_path / "a", *common, "--set", "limit=99")
    assert code == 0
    colors, notes = pixels(tmp_path / "a")
    assert len(colors) == 6
    assert [color[1] for color in colors] == [7] * 6
    assert notes == [{"template": "Draw {prompt}"}] * 6
    setup = json.loads((tmp_path / "a" / "generate.json").read_text())
    assert setup["process"]["settings"] == {"size": 8}
    assert setup["process"]["python"] == ".".join(map(str, sys.version_info[:3]))
    # Nothing is to be made, so nothing is started.
    (tmp_path / "gray.py").write_text(MODEL)
    assert run("generate", "gray.py:Gray", "-o", tmp_path / "a", *common, "--set", "limit=99")[1] == 0


def test_the_same_file_in_this_process(run, few, tmp_path) -> None:
    (tmp_path / "gray.py").write_text(MODEL)
    common = ("--suite", few[0], "-n", 2)
    for name, options in (("a", ("--generator-python", sys.executable)), ("b", ())):
        assert run("generate", "gray.py:Global", "-o", tmp_path / name, *common, *options)[1] == 0
    assert pixels(tmp_path / "a") == pixels(tmp_path / "b")
    assert pixels(tmp_path / "b")[1][0] == {"template": "Draw {prompt}", "trained_on_template": True}


def test_options_of_another_python_need_one(run, few, tmp_path) -> None:
    for option, message in [
        (("--worker", "w.py"), "expected them with --generator-python"),
        (
            ("--generator-python", sys.executable, "--generator-env", "NAME"),
            "--generator-env: expected NAME=VALUE, got 'NAME'",
        ),
        (("--generator-python", "/no/python"), "python: expected an interpreter, got '/no/python'"),
        (("--generator-python", sys.executable, "--lora", "x"), "lora: expected it to be left out"),
    ]:
        _, code, text = run("generate", "json:loads", "-o", tmp_path / "x", "--suite", few[0], *option)
        assert code == 2
        assert message in text
        assert not (tmp_path / "x").exists()


def test_the_worker_is_printed_as_it_is(run) -> None:
    result, code, _ = run("generate", "--print-worker")
    assert code == 0
    assert result.stdout == WORKER.read_text()


def test_a_negative_prompt_is_recorded(run, few, tmp_path) -> None:
    make(run, few, tmp_path / "a", "--set", "negative_prompt=blurry", "--trained-on-template")
    assert pixels(tmp_path / "a")[1] == [{"negative_prompt": "blurry", "trained_on_template": True}] * 6


SLOW = """
import os, time
from PIL import Image
class Slow:
    seeding = "given"
    def __init__(self, note, slow=True):
        self.note, self.slow = note, slow
    def generate(self, prompts, seeds):
        if self.slow and os.path.exists(self.note):
            with open(self.note, "a") as file:
                file.write(f"{os.getpid()}")
            time.sleep(1000)
        open(self.note, "w").close()
        return [Image.new("RGB", (8, 8), (seed % 256, 0, 0)) for seed in seeds]
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_ctrl_c_leaves_no_process_and_what_was_made(run, few, tmp_path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    note, out = tmp_path / "note", tmp_path / "a"
    arguments = [
        "slow.py:Slow",
        "-o",
        str(out),
        "--suite",
        str(few[0]),
        "-n",
        "2",
        "--generator-python",
        sys.executable,
    ]
    command = [sys.executable, "-m", "geneval_reward", "generate", *arguments, "--set", f"note={note}"]
    host = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        # A shell that starts pytest in the background has SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        end = time.monotonic() + 200
        while not (note.exists() and note.read_text()):
            assert host.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)
        child = int(note.read_text())
        assert os.path.isdir(f"/proc/{child}")
        host.send_signal(signal.SIGINT)
        assert host.wait(timeout=60) != 0
        end = time.monotonic() + 10
        while os.path.isdir(f"/proc/{child}"):
            assert time.monotonic() < end, "the model's process must not outlive the command"
            time.sleep(0.1)
    finally:
        host.kill()
        host.wait()
    made = {item.filename: item.path.read_bytes() for item in read_folder(out).items}
    assert len(made) == 1
    note.unlink()
    setup = json.loads((out / "generate.json").read_text())
    setup["arguments"]["slow"] = False
    (out / "generate.json").write_text(json.dumps(setup))
    assert run("generate", *arguments, "--set", f"note={note}", "--set", "slow=false")[1] == 0
    now = {item.filename: item.path.read_bytes() for item in read_folder(out).items}
    assert len(now) == 6
    assert now.items() >= made.items()
