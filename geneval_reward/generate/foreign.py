"""`ForeignGenerator`: a generator whose model runs in a separate process under its own Python."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image

from geneval_reward.errors import FileError, UsageError
from geneval_reward.generate import worker as worker_module
from geneval_reward.generate.batches import Batches
from geneval_reward.generate.child import Child
from geneval_reward.generate.packaged import find_generator
from geneval_reward.results.generator_notes import GeneratorNotes
from geneval_reward.support.imports import is_import_path, source_file

WORKER: Final = Path(worker_module.__file__)
"""The file that runs in the other Python."""
PROTOCOL: Final = worker_module.PROTOCOL

# Variables that describe the interpreter and ranks of this process would mislead the other one.
_NOT_INHERITED: Final = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_NOT_INHERITED_PREFIXES: Final = ("LOCAL_", "GROUP_", "ROLE_", "TORCHELASTIC_")


@dataclass(frozen=True, slots=True)
class ForeignModel:
    """What the other process reports about its model.

    Attributes:
        python: Version of its Python.
        versions: Versions of its packages by name.
        seeding: `given` or `global`; see `geneval_reward.generate.worker`.
        batch_size: Largest number of images per call that it accepts.
        settings: Settings in effect, such as steps and guidance.
        notes: Template, negative prompt, and whether it was trained on the benchmark's wording.
    """

    python: str
    versions: dict[str, str]
    seeding: str
    batch_size: int
    settings: dict[str, Any]
    notes: GeneratorNotes

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values, without `notes`, which are stored elsewhere, and `batch_size`, which changes no image."""
        return {name: getattr(self, name) for name in ("python", "versions", "seeding", "settings")}


class ForeignGenerator:
    """Makes images with a model in another Python, where this package need not be installed.

    The process starts when first needed and keeps running. It ends on `close`, when this process ends for any reason, and
    on an error or Ctrl-C while it works; the next call then starts another. The docs page "Models in a Python of their
    own" describes the model's file; the module `geneval_reward.generate.worker` describes the protocol.

    If the model runs out of memory, the batch is halved for good, and the images are made again from the same seeds.

    Args:
        model: `file.py:NAME` or `module:NAME`, imported in the other Python, or the name of a file of `recipes/generators`.
        python: Its interpreter: a path or the name of a command.
        options: Arguments of NAME, as JSON values.
        cwd: The folder where the process runs and imports from, such as the model's repository; None: the current one.
        env: Additional environment variables. `PYTHONPATH` and the variables of `torchrun` are not inherited.
        worker: Another copy of the worker, for an environment that cannot read the one in this package.
        batch_size: Largest number of images per call, >= 1; None takes the model's own. A model with global seeding gets
            one image per call.
        timeout: Seconds to wait for one answer, including loading the model.
        device: `auto`, `cpu`, `cuda` or `cuda:N`: the process sees only GPU N. Under `torchrun`, `auto` is the local rank's GPU.

    Raises:
        UsageError: If there is no such interpreter, file or folder, or an argument is not valid.

    Examples:
        >>> import sys, pathlib
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "gray.py"
        >>> _ = file.write_text('''
        ... from PIL import Image
        ... class Gray:
        ...     seeding = "given"
        ...     def generate(self, prompts, seeds):
        ...         return [Image.new("RGB", (8, 8), (seed, seed, seed)) for seed in seeds]
        ... ''')
        >>> with ForeignGenerator(f"{file}:Gray", python=sys.executable) as generator:
        ...     generator.generate(["a dog", "a cat"], seeds=[3, 4])[1].getpixel((0, 0))
        (4, 4, 4)
    """

    def __init__(
        self,
        model: str,
        *,
        python: str | Path,
        options: Mapping[str, Any] | None = None,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        worker: str | Path | None = None,
        batch_size: int | None = None,
        timeout: float = 3600.0,
        device: str = "auto",
    ) -> None:
        if not is_import_path(model):
            model = find_generator(model).source
        file = source_file(model)
        self.model = model if file is None else f"{file}:{model.rpartition(':')[2]}"
        self.options = dict(options or {})
        self.cwd = Path.cwd() if cwd is None else Path(cwd).absolute()
        self.worker = WORKER if worker is None else Path(worker).absolute()
        for name, path in (("model", file), ("worker", self.worker)):
            if path is not None and not path.is_file():
                raise UsageError(f"{name}: expected a Python file, got none at {path}")
        if not self.cwd.is_dir():
            raise UsageError(f"cwd: expected a folder, got none at {self.cwd}")
        found = shutil.which(python)
        if found is None:
            raise UsageError(
                f"python: expected an interpreter, got {str(python)!r}, which is no program that can be run"
            )
        # Do not resolve links: a virtual environment's interpreter is a link whose location identifies the environment.
        self.python = os.path.abspath(found)
        if batch_size is not None and (isinstance(batch_size, bool) or batch_size < 1):
            raise UsageError(f"batch_size: expected an integer >= 1 or None, got {batch_size!r}")
        if not (math.isfinite(timeout) and timeout > 0):
            raise UsageError(f"timeout: expected seconds > 0, got {timeout!r}")
        self.timeout = timeout
        self.env = dict(env or {})
        self.device = device
        child_environment(device, self.env)
        self._asked_batch_size = batch_size
        self._batches: Batches | None = None
        self._about: ForeignModel | None = None
        self._child: Child | None = None
        self._size: tuple[int, int] | None = None

    @property
    def about(self) -> ForeignModel:
        """What the other process reports about its model; starts the process if needed."""
        if self._about is None:
            self._start()
        assert self._about is not None
        return self._about

    @property
    def notes(self) -> GeneratorNotes:
        """What a reader of its score must know about the model; starts the process if needed."""
        return self.about.notes

    @property
    def batch_size(self) -> int:
        """Largest number of images per call; fewer than asked for once memory has run out."""
        return self._working_batches().batch_size

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """Make images.

        Args:
            prompts: Texts.
            seeds: One integer in `[0, 2**63)` per prompt.

        Returns:
            One RGB image per prompt, in order.

        Raises:
            GeneratorError: If the process cannot start, ends, does not answer in time, or writes anything but RGB images in
                PNG files. The message includes the last lines of its standard error.
            UsageError: If there are not as many seeds as prompts.
            TypeError: If a prompt is not text.
            torch.OutOfMemoryError: If memory runs out with a single image.
        """
        return self._working_batches().run(prompts, seeds)

    def close(self) -> None:
        """End the process and those that it started; a later call of `generate` starts another."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def __enter__(self) -> ForeignGenerator:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        # A copy, such as Lightning makes of a callback for each spawned rank, starts its own process.
        return self.__dict__ | {"_child": None}

    def _working_batches(self) -> Batches:
        if self._batches is None:
            size = self._asked_batch_size or self.about.batch_size
            self._batches = Batches(self._call, 1 if self.about.seeding == "global" else size)
        return self._batches

    def _start(self) -> Child:
        environment = child_environment(self.device, self.env)
        command = [self.python, "-u", str(self.worker), "--own-group"]
        child = self._child = Child(command, self.model, cwd=self.cwd, env=environment)
        hello = child.receive(self.timeout)
        if hello.get("protocol") != PROTOCOL:
            raise child.failure(
                f"a worker of protocol {PROTOCOL}", f"{hello}", "print the present one with generate --print-worker"
            )
        answer = child.ask({"id": 0, "load": self.model, "options": self.options}, self.timeout)
        if "error" in answer:
            raise child.failure("the model to be loaded", str(answer.get("message")))
        try:
            about = ForeignModel(
                str(hello.get("python")),
                dict(answer["versions"]),
                answer["seeding"],
                int(answer["batch_size"]),
                dict(answer["settings"]),
                GeneratorNotes.from_dict(answer, self.model),
            )
        except (FileError, KeyError, TypeError, ValueError) as error:
            raise child.failure("a description of the model", f"{answer} ({error})") from error
        if self._about not in (None, about):
            raise child.failure(
                f"the model as it was before, {self._about}", f"{about}", "do not change it during a run"
            )
        self._about = about
        return child

    def _call(self, prompts: list[str], seeds: list[int]) -> list[Image.Image]:
        child = self._child if self._child is not None and self._child.alive else self._start()
        with tempfile.TemporaryDirectory(prefix="geneval_reward_") as folder:
            paths = [os.path.join(folder, f"{index}.png") for index in range(len(prompts))]
            number = next(child.numbers)
            answer = child.ask({"id": number, "prompts": prompts, "seeds": seeds, "paths": paths}, self.timeout)
            if answer.get("error") == "memory":
                raise torch.OutOfMemoryError(str(answer.get("message")))
            where = f"prompt {prompts[0]!r}, seed {seeds[0]}" + (f" and {len(prompts) - 1} more" if prompts[1:] else "")
            if "error" in answer:
                raise child.failure(f"images of {where}", str(answer.get("message")))
            return [
                self._read(child, path, f"prompt {prompt!r}, seed {seed}")
                for path, prompt, seed in zip(paths, prompts, seeds, strict=True)
            ]

    def _read(self, child: Child, path: str, origin: str) -> Image.Image:
        try:
            with Image.open(path, formats=["png"]) as image:
                image.load()
        except (OSError, SyntaxError, ValueError) as error:
            raise child.failure(f"a PNG file of {origin}", f"none that can be read ({error})") from error
        if image.mode != "RGB":
            raise child.failure(
                f"an RGB image of {origin}", f"mode {image.mode}", "add .convert('RGB') to what generate returns"
            )
        if self._size is not None and image.size != self._size:
            warnings.warn(
                f"{self.model}: expected images of {self._size} pixels like those before, got {image.size} for {origin}; a score "
                "depends on the size, so keep it the same",
                stacklevel=2,
            )
        self._size = image.size
        return image


def child_environment(device: str, env: Mapping[str, str]) -> dict[str, str]:
    """Make the environment variables of a process that runs a model.

    Args:
        device: See `ForeignGenerator`.
        env: Variables that are set last.

    Raises:
        UsageError: If the device is unknown or not available.
    """
    result = {
        name: value
        for name, value in os.environ.items()
        if name not in _NOT_INHERITED and not name.startswith(_NOT_INHERITED_PREFIXES)
    }
    count = torch.cuda.device_count()
    kind, colon, number = device.partition(":")
    gpu = None
    if kind == "cuda" and colon and number.isdecimal():
        gpu = int(number)
        if gpu >= count:
            raise UsageError(f"device: expected one of the {count} GPUs here, got {device!r}; cuda:0 is the first")
    elif device == "auto" and count:
        rank = os.environ.get("LOCAL_RANK", "")
        gpu = int(rank) % count if rank.isdecimal() else None
    elif device == "cpu":
        result["CUDA_VISIBLE_DEVICES"] = ""
    elif device not in ("auto", "cuda"):
        raise UsageError(f"device: expected auto, cpu, cuda or cuda:N for a model in another Python, got {device!r}")
    if gpu is not None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        result["CUDA_VISIBLE_DEVICES"] = str(gpu) if visible is None else visible.split(",")[gpu].strip()
    return result | dict(env)
