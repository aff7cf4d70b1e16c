"""`load_generator`: a generator from what a command line or a YAML file can name."""

from __future__ import annotations

import inspect
import json
import os
import re
import warnings
from pathlib import Path
from typing import Any, Final

import torch

from geneval_reward.errors import UsageError
from geneval_reward.generate.diffusers import DiffusersGenerator
from geneval_reward.generate.generator import Generator
from geneval_reward.imports import import_object, is_import_path
from geneval_reward.vision.backends import resolve_device

DTYPES: Final = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

# What has a name of its own, by import path: this room lies below the pocket model's and must not import it.
NAMED: Final = {"pocket": "geneval_reward.pocket:load_pipeline"}
_OWN_CLASSES: Final = {"PocketPipeline": "geneval_reward.pocket:PocketPipeline"}
_BATCH: Final = {"pocket": 64}


def load_generator(
    model: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int | None = None,
    lora: str | None = None,
    lora_scale: float = 1.0,
    **arguments: Any,
) -> Generator:
    """A generator from its name.

    Args:
        model: `pocket` (inside the package); a folder that a diffusers pipeline was saved in; the name of one on a model
            hub, `owner/name`; or `module:function` or `file.py:function` that gives a pipeline or anything with
            `generate(prompts, seeds)`. The function gets those of `arguments` that it takes.
        device: A torch device, or `auto`: CUDA where there is one, and under torchrun the local rank's.
        dtype: `fp32`, `fp16`, `bf16`, or `auto`: fp16 on CUDA, else fp32; pocket is always fp32 then.
        batch_size: Most images a call; 64 for pocket, else 8.
        lora: File or folder of LoRA weights, as `pipe.load_lora_weights` takes it.
        lora_scale: Strength of the LoRA; 1.0 as trained.
        **arguments: Passed with every call of the pipeline; see `DiffusersGenerator`.

    Raises:
        ValueError: If nothing of that name can be loaded, or an option does not fit it.

    Example:
        >>> load_generator("pocket", device="cpu", num_inference_steps=2).batch_size
        64
    """
    if dtype != "auto" and dtype not in DTYPES:
        raise UsageError(f"dtype: expected auto, {', '.join(DTYPES)}, got {dtype!r}")
    place = _place(device)
    if model in NAMED or is_import_path(model):
        function = import_object(NAMED.get(model, model), "model")
        own = {} if model in NAMED else _taken(function, arguments)
        arguments = {name: value for name, value in arguments.items() if name not in own}
        pipe = function(**own)
        if not _is_pipeline(pipe):
            return _ready_made(pipe, model, dtype, batch_size, lora, arguments)
        if dtype != "auto":
            pipe = _cast(pipe, DTYPES[dtype])
    else:
        automatic = torch.float16 if place.type == "cuda" else torch.float32
        pipe = _from_diffusers(model, DTYPES.get(dtype, automatic))
    if lora is not None:
        _load_lora(pipe, lora, lora_scale)
    elif lora_scale != 1.0:
        raise UsageError(f"lora_scale: expected it to be left out without lora, got {lora_scale!r}; name the LoRA too")
    if hasattr(pipe, "set_progress_bar_config"):
        pipe.set_progress_bar_config(disable=True)
    pipe = pipe.to(place) if hasattr(pipe, "to") else pipe
    return DiffusersGenerator(pipe, batch_size=batch_size or _BATCH.get(model, 8), **arguments)


def _taken(function: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Those arguments that a function names."""
    try:
        names = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
    return {name: value for name, value in arguments.items() if name in names}


def _is_pipeline(thing: Any) -> bool:
    return callable(thing) and not isinstance(thing, Generator)


def _ready_made(
    thing: Any, model: str, dtype: str, batch_size: int | None, lora: str | None, arguments: dict[str, Any]
) -> Generator:
    if not isinstance(thing, Generator):
        raise UsageError(
            f"model: expected {model!r} to give a pipeline or an object with generate(prompts, seeds), got "
            f"{type(thing).__name__}"
        )
    given = {"dtype": None if dtype == "auto" else dtype, "batch_size": batch_size, "lora": lora} | arguments
    extra = [name for name, value in given.items() if value is not None]
    if extra:
        raise UsageError(
            f"{extra[0]}: expected it to be left out for {model!r}, which makes its generator itself; set it there"
        )
    return thing


def _place(device: str) -> torch.device:
    if device == "auto" and torch.cuda.is_available() and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    return resolve_device(device)


def _cast(pipe: Any, dtype: torch.dtype) -> Any:
    for part in getattr(pipe, "components", {}).values():
        if isinstance(part, torch.nn.Module):
            # Not pipe.to(dtype): diffusers warns of layers to be kept in float32, of which a small model may have none.
            torch.nn.Module.to(part, dtype=dtype)
    return pipe


def _from_diffusers(model: str, dtype: torch.dtype) -> Any:
    index = Path(model) / "model_index.json"
    hub = not Path(model).exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", model) is not None
    if not index.is_file() and not hub:
        raise UsageError(
            "model: expected 'pocket', the folder of a diffusers pipeline (with model_index.json), a hub name owner/name, or "
            f"module:function, got {model!r}"
        )
    try:
        from diffusers import DiffusionPipeline
    except ImportError as error:
        raise UsageError(f"model: expected diffusers for {model!r}; pip install 'geneval-reward[diffusers]'") from error
    kind: Any = DiffusionPipeline
    if not hub:
        name = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
        if name in _OWN_CLASSES:
            # Not one of diffusers' own, which would not find it by its name.
            kind = import_object(_OWN_CLASSES[name], "model")
    with warnings.catch_warnings():
        # Newer versions of diffusers call the argument dtype; all until 1.0 take this name.
        warnings.filterwarnings("ignore", message=".*torch_dtype.*", category=FutureWarning)
        try:
            return kind.from_pretrained(model, torch_dtype=dtype, local_files_only=not hub)
        except (OSError, ValueError, AttributeError, ImportError) as error:
            where = "on the model hub or in its local cache" if hub else "in that folder"
            text = (str(error) or type(error).__name__).splitlines()[0]
            raise UsageError(
                f"model: expected a diffusers pipeline {where}, got none for {model!r} ({text})"
            ) from error


def _load_lora(pipe: Any, lora: str, scale: float) -> None:
    if not hasattr(pipe, "load_lora_weights"):
        raise UsageError(f"lora: expected a pipeline that loads LoRA weights, got {type(pipe).__name__}")
    if not Path(lora).exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", lora) is None:
        raise UsageError(f"lora: expected a file or folder of LoRA weights or a hub name, got {lora!r}")
    try:
        pipe.load_lora_weights(lora, adapter_name="lora")
        pipe.set_adapters(["lora"], adapter_weights=[scale])
    except (OSError, ImportError, KeyError, ValueError) as error:
        raise UsageError(
            f"lora: expected weights that {type(pipe).__name__} can load (and peft installed), got {lora!r} ({error})"
        ) from error
