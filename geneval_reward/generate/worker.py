"""A process that makes images with a model in the model's own Python, for `ForeignGenerator`.

This single file runs under any Python >= 3.8. It needs only the standard library and, to write images, Pillow in the
model's environment; it imports nothing from `geneval_reward`. `geneval-reward generate --print-worker` prints it. Start it as

    python worker.py [--own-group]

It reads and writes one JSON object per line on its original standard input and output. Before the model is imported, both
are redirected: what the model prints goes to standard error, and what it reads is empty.

    worker  {"protocol": 1, "python": "3.10.4"}
    host    {"id": 0, "load": "unilip.py:UniLIP", "options": {"path": "/models/UniLIP-3B"}}
    worker  {"id": 0, "versions": {"torch": "2.6.0"}, "seeding": "given", "batch_size": 1, "settings": {"steps": 20},
             "template": "Generate an image: {prompt}", "negative_prompt": null, "trained_on_template": false}
    host    {"id": 1, "prompts": ["a photo of a dog"], "seeds": [17], "paths": ["/tmp/x/0.png"]}
    worker  {"id": 1, "seconds": 3.1}
    worker  {"id": 1, "error": "memory", "message": "CUDA out of memory. Tried to allocate ..."}

`error` is `memory` if fewer images at a time might work, else `failed`; the traceback goes to standard error. The worker
ends when its standard input closes, even in the middle of an image, or when the process that started it is gone; with
`--own-group` it also ends the processes that it started.

The worker calls a class or function from a file or module with the options. It returns an object with
`generate(prompts, seeds)`, which returns as many PIL images or `(height, width, 3)` uint8 arrays, and optionally:

    seeding          "global" (the default): `generate` draws from the global generators of `random`, NumPy and torch. It then
                     gets one prompt per call, after all three are seeded.
                     "given": image i depends on `seeds[i]` alone, whatever the other images are. Seeds are below 2**63.
    batch_size       With "given": the largest number of prompts per call; 1 if not set.
    settings         A dict of the settings in effect: steps, guidance, size, precision.
    template         The text around every prompt, such as "Generate an image: {prompt}". `generate` adds it itself.
    negative_prompt  The text that guidance steers away from, if there is one.
    trained_on_template  Whether the training data contained prompts in GenEval's own wording.
"""

from __future__ import annotations

import sys

# Do not import from this file's folder: it contains a diffusers.py that is not the library.
if __name__ == "__main__":
    sys.path[0] = ""

import contextlib
import gc
import importlib
import importlib.util
import json
import operator
import os
import queue
import random
import signal
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

PROTOCOL = 1
_PACKAGES = ("torch", "transformers", "diffusers", "accelerate", "timm", "flash_attn", "numpy")
_OUT_OF_MEMORY = ("out of memory", "allocate memory", "not enough memory", "alloc_failed")


def load(path: str, options: dict[str, Any]) -> Any:
    """Make the model that `file.py:NAME` or `module:NAME` names."""
    source, _, name = path.rpartition(":")
    if source.endswith(".py"):
        spec = importlib.util.spec_from_file_location("geneval_model", source)
        if spec is None or spec.loader is None:
            raise ImportError(f"expected a Python file, got {source}")
        module = importlib.util.module_from_spec(spec)
        sys.modules["geneval_model"] = module
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(source)
    model = operator.attrgetter(name)(module)(**options)
    if not callable(getattr(model, "generate", None)):
        raise TypeError(f"expected {path} to make an object with generate(prompts, seeds), got {type(model).__name__}")
    if getattr(model, "seeding", "global") not in ("global", "given"):
        raise ValueError(f"expected seeding to be 'global' or 'given', got {model.seeding!r}")
    return model


def describe(model: Any) -> dict[str, Any]:
    """Collect what the host should know about a loaded model."""
    modules = {name: sys.modules[name] for name in _PACKAGES if name in sys.modules}
    versions = {name: str(getattr(module, "__version__", "unknown")) for name, module in modules.items()}
    cuda = getattr(getattr(modules.get("torch"), "version", None), "cuda", None)
    seeding = getattr(model, "seeding", "global")
    return {
        "versions": dict(versions, cuda=cuda) if cuda else versions,
        "seeding": seeding,
        "batch_size": int(getattr(model, "batch_size", 1)) if seeding == "given" else 1,
        "settings": dict(getattr(model, "settings", {})),
        "template": getattr(model, "template", None),
        "negative_prompt": getattr(model, "negative_prompt", None),
        "trained_on_template": bool(getattr(model, "trained_on_template", False)),
    }


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy (which takes 32 bits) and torch (the CPU and every GPU)."""
    random.seed(seed)
    with contextlib.suppress(ImportError):
        importlib.import_module("numpy").random.seed(seed % 2**32)
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        torch.manual_seed(seed)
        torch.cuda.manual_seed_all(seed)


def make_images(model: Any, prompts: list[str], seeds: list[int], paths: list[str]) -> None:
    """Make one image per prompt and write it as PNG."""
    seed_everything(seeds[0])
    images = list(model.generate(prompts, seeds))
    if len(images) != len(prompts):
        raise ValueError(f"expected one image per prompt ({len(prompts)}), got {len(images)}")
    for image, path in zip(images, paths):  # noqa: B905 - Python 3.8
        if not hasattr(image, "save"):
            from PIL import Image

            if str(getattr(image, "dtype", "")) != "uint8" or len(image.shape) != 3 or image.shape[2] != 3:
                kind = f"{getattr(image, 'dtype', type(image).__name__)} {tuple(getattr(image, 'shape', ()))}"
                raise TypeError(f"expected PIL images or (height, width, 3) uint8 arrays, got {kind}")
            image = Image.fromarray(image)
        with open(path, "wb") as file:
            image.save(file, format="png")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory ran out, on a GPU or in general."""
    text = f"{type(error).__name__} {error}".lower()
    return isinstance(error, MemoryError) or "outofmemory" in text or any(sign in text for sign in _OUT_OF_MEMORY)


def serve(requests: Callable[[], str], reply: Callable[[dict[str, Any]], None]) -> None:
    """Answer requests forever; the thread that reads them ends the process."""
    model: Any = None
    reply({"protocol": PROTOCOL, "python": "{}.{}.{}".format(*sys.version_info[:3])})
    while True:
        request = json.loads(requests())
        answer: dict[str, Any] = {"id": request.get("id")}
        begin = time.perf_counter()
        try:
            if "load" in request:
                model = load(request["load"], request.get("options", {}))
                answer.update(describe(model))
            else:
                make_images(model, request["prompts"], request["seeds"], request["paths"])
                answer["seconds"] = time.perf_counter() - begin
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the host must learn of any error
            traceback.print_exc()
            kind = "memory" if is_out_of_memory(error) else "failed"
            answer.update(error=kind, message=f"{type(error).__name__}: {error}")
        # Done outside `except`, where the error would keep the tensors of the failed batch alive.
        if answer.get("error") == "memory":
            gc.collect()
            if "torch" in sys.modules:
                sys.modules["torch"].cuda.empty_cache()
        sys.stdout.flush()
        sys.stderr.flush()
        reply(answer)


def end(own_group: bool) -> None:
    """End the process at once, whatever its other threads do, and with `own_group` everything it started."""
    if own_group and hasattr(os, "killpg"):
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(0)


def main() -> None:
    """Redirect the protocol's channels, watch the host, and serve."""
    own_group = "--own-group" in sys.argv[1:]
    channel_in = os.fdopen(os.dup(0), "r", encoding="utf-8")
    channel_out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    lines: queue.Queue[str] = queue.Queue()
    host = os.getppid()

    def read() -> None:
        for line in channel_in:
            lines.put(line)
        end(own_group)

    def watch() -> None:
        # Another process may have inherited the other end of the pipe, which then stays open after the host is killed.
        while os.getppid() == host:
            time.sleep(1)
        end(own_group)

    def reply(message: dict[str, Any]) -> None:
        channel_out.write(json.dumps(message, default=str) + "\n")
        channel_out.flush()

    for target in (read, watch):
        threading.Thread(target=target, daemon=True).start()
    serve(lines.get, reply)


if __name__ == "__main__":
    main()
