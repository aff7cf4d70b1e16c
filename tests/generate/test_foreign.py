import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from geneval_reward.errors import GeneratorError, UsageError
from geneval_reward.generate import ForeignGenerator, Generator
from geneval_reward.generate import foreign as foreign_module
from geneval_reward.generate.foreign import WORKER, child_environment
from geneval_reward.generate.identity import identify

MODEL = """
import os, random, signal, subprocess, sys, time
from PIL import Image

class Gray:
    seeding = "given"
    batch_size = 4
    template = "A picture of {prompt}"
    negative_prompt = "blurry"

    def __init__(self, size=8, limit=99):
        self.size, self.limit, self.settings = size, limit, {"size": size}
        print("printed while loading")

    def generate(self, prompts, seeds):
        print("printed while painting", flush=True)
        assert sys.stdin.read() == ""
        if len(prompts) > self.limit:
            raise RuntimeError("CUDA error: out of memory")
        return [Image.new("RGB", (self.size * (1 + ("wide" in prompt)), self.size), (seed % 256, len(prompt), 0))
                for prompt, seed in zip(prompts, seeds)]

class Global:
    def generate(self, prompts, seeds):
        import numpy
        assert len(prompts) == 1
        red, green = random.randrange(256), numpy.random.randint(256)
        return numpy.full((2, 2, 3), (red, green, 7), dtype="uint8")[None]

class Odd:
    seeding = "given"
    def __init__(self, how):
        self.how = how
        print("some last words", file=sys.stderr)
    def generate(self, prompts, seeds):
        how = prompts[0] if self.how == "prompt" else self.how
        if how == "dies":
            os.kill(os.getpid(), signal.SIGSEGV)
        if how == "leaves":
            os._exit(3)
        if how == "quits":
            sys.exit("cannot go on")
        if how == "hangs":
            time.sleep(1000)
        if how == "raises":
            raise KeyError("no such weight")
        if how == "few":
            return []
        if how == "bits":
            return [Image.new("L", (4, 4))]
        if how == "floats":
            import numpy
            return [numpy.zeros((4, 4, 3))]
        if how == "spoils":
            class Picture:
                def save(self, file, format):
                    file.write(b"not a picture")
            return [Picture()]
        return [Image.new("RGB", (4, 4))]

class Sleeper:
    def generate(self, prompts, seeds):
        grandchild = subprocess.Popen(["sleep", "1000"])
        with open(prompts[0], "w") as file:
            file.write(f"{os.getpid()} {grandchild.pid}")
        time.sleep(1000)
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "models.py"
    path.write_text(MODEL)
    return path


@pytest.fixture
def start(file):
    made = []

    def make(name, **arguments):
        made.append(ForeignGenerator(f"{file}:{name}", python=sys.executable, **arguments))
        return made[-1]

    yield make
    for generator in made:
        generator.close()


def colors(images):
    return [image.getpixel((0, 0)) for image in images]


def test_images_come_back_in_order_whatever_the_batch(start) -> None:
    generator = start("Gray", options={"size": 6})
    prompts, seeds = ["a", "bb", "ccc", "dddd", "eeeee"], [5, 4, 3, 2, 2**63 - 1]
    images = generator.generate(prompts, seeds)
    assert isinstance(generator, Generator)
    assert colors(images) == [(5, 1, 0), (4, 2, 0), (3, 3, 0), (2, 4, 0), (255, 5, 0)]
    assert {(image.mode, image.size) for image in images} == {("RGB", (6, 6))}
    assert generator.batch_size == 4
    assert colors(start("Gray", batch_size=1).generate(prompts, seeds)) == colors(images)


def test_the_handshake_says_what_is_in_effect(start) -> None:
    about = start("Gray", options={"size": 6}).about
    assert about.python == ".".join(map(str, sys.version_info[:3]))
    assert (about.settings["size"], about.seeding, about.batch_size) == (6, "given", 4)
    assert (about.notes.template, about.notes.negative_prompt) == ("A picture of {prompt}", "blurry")


def test_global_generators_are_seeded_for_every_image(start) -> None:
    generator = start("Global", batch_size=8)
    seeds = [2**62 + 3, 1, 2**62 + 3]
    first = colors(generator.generate(["a", "b", "c"], seeds))
    assert first[0] == first[2] != first[1]
    assert colors(generator.generate(["c"], seeds[2:])) == first[2:]
    assert generator.batch_size == 1


def test_torch_is_seeded_and_the_working_folder_is_imported_from(tmp_path) -> None:
    # A stand-in for torch: importing the real one takes seconds.
    (tmp_path / "torch.py").write_text(
        "from types import SimpleNamespace\nseeds = []\nmanual_seed = seeds.append\n"
        "cuda = SimpleNamespace(manual_seed_all=seeds.append, empty_cache=lambda: None)\n__version__ = '0.1'\n"
    )
    (tmp_path / "mine.py").write_text(
        "import os, torch\nfrom PIL import Image\nclass Mine:\n    def generate(self, prompts, seeds):\n"
        "        assert torch.seeds == [seeds[0]] * 2, torch.seeds\n        assert os.environ['MINE'] == 'yes'\n"
        "        return [Image.new('RGB', (4, 4))]\n"
    )
    with ForeignGenerator("mine:Mine", python=sys.executable, cwd=tmp_path, env={"MINE": "yes"}) as generator:
        assert generator.about.versions["torch"] == "0.1"
        assert len(generator.generate(["a"], [2**40])) == 1


def test_out_of_memory_halves_the_batch(start) -> None:
    generator = start("Gray", options={"limit": 1})
    assert colors(generator.generate(["a", "b", "c"], [1, 2, 3])) == [(1, 1, 0), (2, 1, 0), (3, 1, 0)]
    assert generator.batch_size == 1
    with pytest.raises(torch.OutOfMemoryError, match="expected room for one image"):
        start("Gray", options={"limit": 0}).generate(["a"], [1])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("dies", r"got the end of the process \(SIGSEGV\)"),
        ("leaves", r"got the end of the process \(exit code 3\)"),
        ("quits", "got SystemExit: cannot go on"),
        ("hangs", r"expected an answer within 1 s, got none; give it more time"),
        ("raises", "expected images of prompt 'a dog', seed 7, got KeyError: 'no such weight'"),
        ("few", r"got ValueError: expected one image per prompt \(1\), got 0"),
        ("bits", "expected an RGB image of prompt 'a dog', seed 7, got mode L"),
        ("floats", r"got TypeError: expected PIL images or \(height, width, 3\) uint8 arrays, got float64"),
        ("spoils", "expected a PNG file of prompt 'a dog', seed 7, got none that can be read"),
    ],
)
def test_what_goes_wrong_is_named_with_the_last_words(start, how, message) -> None:
    generator = start("Odd", options={"how": how}, timeout=20)
    _ = generator.about
    generator.timeout = 1 if how == "hangs" else 20
    with pytest.raises(GeneratorError, match=message) as caught:
        generator.generate(["a dog"], [7])
    assert "| some last words" in str(caught.value)
    assert "models.py:Odd" in str(caught.value)


def test_the_next_call_starts_another_process(start) -> None:
    generator = start("Odd", options={"how": "prompt"})
    with pytest.raises(GeneratorError, match="SIGSEGV"):
        generator.generate(["dies"], [0])
    assert len(generator.generate(["a dog"], [0])) == 1


def test_a_model_that_cannot_be_loaded(file, start) -> None:
    with pytest.raises(GeneratorError, match=r"expected the model to be loaded, got TypeError.*colour"):
        start("Gray", options={"colour": "red"}).generate(["a"], [0])
    with pytest.raises(GeneratorError, match="expected the model to be loaded, got AttributeError"):
        _ = start("Missing").about
    with pytest.raises(GeneratorError, match="make an object with generate"):
        _ = ForeignGenerator("collections:OrderedDict", python=sys.executable).about


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("print('Welcome to conda')", "expected JSON objects on standard output, got 'Welcome to conda'"),
        ("print('[1, 2]')", "expected JSON objects"),
        ("print('{\"protocol\": 99}')", "expected a worker of protocol 1, got .*99.*--print-worker"),
        ("import no_such_package", "ModuleNotFoundError"),
        ("pass", "got the end of the process"),
        ("print('{\"protocol\": 1}', flush=True); input(); print('{\"id\": 5}')", "expected the answer to request 0"),
        (
            "print('{\"protocol\": 1}', flush=True); input(); print('{\"id\": 0}')",
            "expected a description of the model",
        ),
    ],
)
def test_another_worker_is_named(tmp_path, start, program, message) -> None:
    (tmp_path / "worker.py").write_text(program)
    with pytest.raises(GeneratorError, match=f"(?s){message}"):
        _ = start("Gray", worker=tmp_path / "worker.py").about


def test_a_change_of_size_is_said(start) -> None:
    with pytest.warns(UserWarning, match=r"expected images of \(8, 8\) pixels like those before, got \(16, 8\)"):
        start("Gray").generate(["a", "wide"], [0, 0])


def test_a_restart_with_other_settings_is_refused(start) -> None:
    generator = start("Gray")
    generator.generate(["a"], [0])
    generator.options["size"] = 16
    generator.close()
    with pytest.raises(GeneratorError, match="expected the model as it was before"):
        generator.generate(["a"], [0])


def test_wrong_arguments(file, tmp_path) -> None:
    good = f"{file}:Gray"
    for arguments, message in [
        ({"model": "owner/name"}, "model: expected file.py:NAME, module:NAME or one of bagel"),
        ({"model": f"{tmp_path}/none.py:Gray"}, "model: expected a Python file"),
        ({"python": "/no/such/python"}, "python: expected an interpreter, got '/no/such/python'"),
        ({"python": str(file)}, "python: expected an interpreter"),
        ({"worker": tmp_path / "none.py"}, "worker: expected a Python file"),
        ({"cwd": tmp_path / "none"}, "cwd: expected a folder"),
        ({"timeout": 0}, "timeout: expected seconds > 0"),
        ({"batch_size": 0}, "batch_size: expected an integer >= 1"),
        ({"device": "mps"}, "device: expected auto, cpu, cuda"),
        ({"device": "cuda:99"}, "device: expected one of the"),
    ]:
        with pytest.raises(UsageError, match=message):
            ForeignGenerator(**{"model": good, "python": sys.executable} | arguments)


def test_a_packaged_file_is_found_by_its_name() -> None:
    generator = ForeignGenerator("unilip", python=sys.executable, options={"path": "/none"})
    assert generator.model.endswith("/generators/unilip.py:UniLIP")
    assert identify("unilip") == identify(generator.model) != ""


def test_a_process_sees_the_gpu_of_its_rank_and_not_our_interpreter(monkeypatch) -> None:
    monkeypatch.setattr(foreign_module.torch.cuda, "device_count", lambda: 4)
    for name, value in {"PYTHONPATH": "/ours", "RANK": "2", "WORLD_SIZE": "8", "LOCAL_RANK": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = child_environment("auto", {"HF_HOME": "/hub"})
    assert (found["CUDA_VISIBLE_DEVICES"], found["HF_HOME"]) == ("2", "/hub")
    assert not {"PYTHONPATH", "RANK", "WORLD_SIZE", "LOCAL_RANK"} & found.keys()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert child_environment("auto", {})["CUDA_VISIBLE_DEVICES"] == "6"
    assert child_environment("cuda:1", {})["CUDA_VISIBLE_DEVICES"] == "5"
    assert child_environment("cpu", {})["CUDA_VISIBLE_DEVICES"] == ""


def test_a_copy_starts_a_process_of_its_own(start) -> None:
    generator = start("Gray")
    images = generator.generate(["a"], [3])
    with pickle.loads(pickle.dumps(generator)) as copy:
        assert colors(copy.generate(["a"], [3])) == colors(images)


def test_the_worker_is_python_3_8_and_stands_alone() -> None:
    import ast

    tree = ast.parse(WORKER.read_text(), feature_version=(3, 8))
    imported = {
        name.name.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names
    }
    imported |= {node.module.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported - {"PIL", "__future__"} <= set(sys.stdlib_module_names)


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_the_host_is_killed(file, tmp_path, sent) -> None:
    note = tmp_path / "pids"
    program = textwrap.dedent(f"""
        import sys
        from geneval_reward.generate import ForeignGenerator
        ForeignGenerator("{file}:Sleeper", python=sys.executable).generate(["{note}"], [0])
    """)
    host = subprocess.Popen(
        [sys.executable, "-c", program],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        # A shell that starts pytest in the background has SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        wait_until(lambda: note.exists() and len(note.read_text().split()) == 2)
        pids = [int(text) for text in note.read_text().split()]
        assert all(map(is_running, pids))
        host.send_signal(sent)
        host.wait(timeout=30)
        wait_until(lambda: not any(map(is_running, pids)), 10)
    finally:
        host.kill()
        host.wait()


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_the_process_ends_with_its_generator(start) -> None:
    generator = start("Gray")
    _ = generator.about
    pid = generator._child._process.pid
    assert is_running(pid)
    generator.close()
    assert not is_running(pid)


def test_the_snippets_of_the_docs_run(tmp_path, monkeypatch, capsys) -> None:
    page = (Path(__file__).parents[2] / "docs" / "foreign_generators.md").read_text()
    use, model = re.findall(r"```python[^\n]*\n(.*?)```", page, re.DOTALL)
    (tmp_path / "noise.py").write_text(model)
    monkeypatch.chdir(tmp_path)
    exec(use, {})
    assert capsys.readouterr().out == "(64, 64) {'size': 64}\n"
