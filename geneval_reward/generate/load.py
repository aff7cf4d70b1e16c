"""Load a generator or a pipeline by a name from a command line or a YAML file."""

from __future__ import annotations

import inspect
import os
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from geneval_reward.errors import UsageError
from geneval_reward.generate.callable import CallableGenerator
from geneval_reward.generate.diffusers import DiffusersGenerator
from geneval_reward.generate.foreign import ForeignGenerator
from geneval_reward.generate.generator import Generator, notes_of
from geneval_reward.generate.lora import add_lora
from geneval_reward.generate.packaged import list_generators
from geneval_reward.generate.token_models import load_token_model, token_model_type
from geneval_reward.support.files import read_json
from geneval_reward.support.imports import import_object, is_import_path, require
from geneval_reward.support.signatures import check_part
from geneval_reward.vision.backends import resolve_device

DTYPES: Final = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

POCKET: Final = "pocket"
# Given as import paths, because this package is a layer below the pocket models and must not import them.
_PACKAGED: Final = {
    POCKET: "geneval_reward.pocket:load_pipeline",
    "pocket-tokens": "geneval_reward.pocket:load_tokens",
}
_OWN_CLASSES: Final = {"PocketPipeline": "geneval_reward.pocket:PocketPipeline"}
_TOKEN_ARGUMENTS: Final = {"guidance_scale": "guidance"}
_POCKET_BATCH, _BATCH = 64, 8


def load_generator(
    model: str,
    *,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    lora: str | None = None,
    lora_scale: float = 1.0,
    process: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> Generator:
    """Load a generator by its name.

    Args:
        model: What `load_pipeline` takes. A function may also return an object with `generate(prompts, seeds)`; it gets the
            `arguments` that it has parameters for.
        device: A torch device, or `auto`: CUDA if available, and under torchrun the local rank's GPU.
        precision: See `load_pipeline`; a precision other than `auto` also applies to the pocket models and to what a function
            returns.
        batch_size: Largest number of images per call; None: 64 for the pocket models, else 8.
        lora: File or folder of LoRA weights, or their name on a model hub; see `geneval_reward.generate.lora.add_lora`.
        lora_scale: Strength of the LoRA; 1.0 as trained.
        process: `python` and other arguments of `ForeignGenerator`, for a model that runs in another Python.
        **arguments: Passed with every call of the pipeline; see `DiffusersGenerator`.

    Raises:
        UsageError: If nothing of that name can be loaded, or an option does not apply to it.
        DependencyError: If a package that it needs is not installed; the message names the extra.

    Examples:
        >>> load_generator("pocket", device="cpu", num_inference_steps=2).batch_size
        64
    """
    packaged = process is None and model.isidentifier() and model not in _PACKAGED and not Path(model).exists()
    if packaged and model in list_generators():
        raise UsageError(
            f"model: expected --generator-python (process) with {model!r}, which runs in a Python of its own, got none"
        )
    if process is not None:
        _refuse_own_settings(f"{model!r}, which runs in another Python", precision, lora)
        return ForeignGenerator(model, options=arguments, batch_size=batch_size, device=device, **process)
    place = choose_device(device)
    if model != POCKET and not is_import_path(model) and token_model_type(model) is not None:
        _refuse_own_settings(f"{model!r}, which is no pipeline of diffusers", "auto", lora)
        named = {_TOKEN_ARGUMENTS.get(name, name): value for name, value in arguments.items()}
        named |= {} if batch_size is None else {"batch_size": batch_size}
        return load_token_model(model, device=place, dtype=DTYPES.get(precision), **named)
    own = own_arguments(model, arguments)
    arguments = {name: value for name, value in arguments.items() if name not in own}
    pipe = load_pipeline(model, precision, arguments=own)
    if isinstance(pipe, Generator):
        check_part("model", pipe, "generate(prompts, seeds)")
        return _ready_made(pipe, model, precision, batch_size, lora, arguments)
    if not callable(pipe):
        raise UsageError(
            f"model: expected {model!r} to give a pipeline or an object with generate(prompts, seeds), got "
            f"{type(pipe).__name__}"
        )
    if precision != "auto" and (model in _PACKAGED or is_import_path(model)):
        for part in getattr(pipe, "components", {}).values():
            if isinstance(part, torch.nn.Module):
                # Avoid pipe.to(dtype): diffusers warns about layers to keep in float32, and a small model may have none.
                torch.nn.Module.to(part, dtype=DTYPES[precision])
    if lora is not None:
        add_lora(pipe, lora, lora_scale)
    elif lora_scale != 1.0:
        raise UsageError(f"lora_scale: expected it to be left out without lora, got {lora_scale!r}; name the LoRA too")
    if hasattr(pipe, "set_progress_bar_config"):
        pipe.set_progress_bar_config(disable=True)
    pipe = pipe.to(place) if hasattr(pipe, "to") else pipe
    size = batch_size or (_POCKET_BATCH if model in _PACKAGED else _BATCH)
    return DiffusersGenerator(pipe, batch_size=size, **arguments)


def load_pipeline(
    source: Any, precision: str = "auto", *, float32: Sequence[str] = (), arguments: dict[str, Any] | None = None
) -> Any:
    """Load a diffusers pipeline by its name, on the CPU.

    Args:
        source: `pocket` or `pocket-tokens` (inside the package); a folder that a diffusers pipeline was saved in; the name of
            one on a model hub, `owner/name`; `module:function` or `file.py:function` that returns one; or a pipeline, which is
            returned unchanged.
        precision: `fp32`, `fp16`, `bf16`, or `auto`: each part in the precision that its weights were saved in, because a model
            trained in bf16 may overflow in fp16. The pocket models are fp32, and what a function returns is left unchanged.
        float32: Names of parts, such as `vae`, that stay in float32.
        arguments: Passed to the function that `source` names.

    Returns:
        The pipeline, or whatever else the function returns.

    Raises:
        UsageError: If nothing of that name can be loaded, or the precision is unknown.
        DependencyError: If a package that it needs is not installed; the message names the extra.
    """
    if precision != "auto" and precision not in DTYPES:
        raise UsageError(f"precision: expected one of auto, {', '.join(DTYPES)}, got {precision!r}")
    if not isinstance(source, str):
        return source
    if source == POCKET:
        for module in ("diffusers", "transformers"):
            require(module, "diffusers", "pocket")
    source = _PACKAGED.get(source, source)
    if not is_import_path(source):
        return _from_diffusers(source, DTYPES.get(precision), float32)
    return import_object(source, "model")(**(arguments or {}))


def own_arguments(model: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Select the arguments that go to the function that `model` names, rather than to each call of what it returns.

    Args:
        model: What `load_generator` takes.
        arguments: Its further arguments.

    Returns:
        Those that the function has parameters for; none if `model` is not `module:function` or `file.py:function`.
    """
    if not is_import_path(model):
        return {}
    try:
        names = inspect.signature(import_object(model, "model")).parameters
    except (TypeError, ValueError):
        return {}
    return {name: value for name, value in arguments.items() if name in names}


def _ready_made(
    generator: Generator,
    model: str,
    precision: str,
    batch_size: int | None,
    lora: str | None,
    arguments: dict[str, Any],
) -> Generator:
    _refuse_own_settings(
        f"{model!r}, which makes its generator itself", precision, lora, batch_size=batch_size, **arguments
    )
    if getattr(generator, "seeding", "given") == "global" and not isinstance(generator, CallableGenerator):
        # A model file for `ForeignGenerator`, which leaves seeding to its caller.
        return CallableGenerator(generator.generate, seeding="global", notes=notes_of(generator))
    return generator


def _refuse_own_settings(model: str, precision: str, lora: str | None, **others: Any) -> None:
    """Raise if an option was given that only applies to a pipeline."""
    given = {"precision": None if precision == "auto" else precision, "lora": lora} | others
    extra = [name for name, value in given.items() if value is not None]
    if extra:
        raise UsageError(f"{extra[0]}: expected it to be left out for {model}; set it there")


def choose_device(device: str) -> torch.device:
    """Find a device by name; `auto` is CUDA if available, and under torchrun the local rank's GPU."""
    if device == "auto" and torch.cuda.is_available() and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    return resolve_device(device)


def _from_diffusers(model: str, dtype: torch.dtype | None, float32: Sequence[str]) -> Any:
    folder = Path(model)
    hub = not folder.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", model) is not None
    if not hub and not (folder / "model_index.json").is_file():
        raise UsageError(
            "model: expected 'pocket', 'pocket-tokens', the folder of a diffusers pipeline (with model_index.json) or of Janus "
            f"or Emu3 (with config.json), a hub name owner/name, or module:function, got {model!r}"
        )
    kind: Any = require("diffusers", "diffusers", "model").DiffusionPipeline
    try:
        if hub:
            folder = Path(kind.download(model))
        name = read_json(folder / "model_index.json").get("_class_name")
        if name in _OWN_CLASSES:
            # diffusers would not find this class by name, since it is not one of its own.
            kind = import_object(_OWN_CLASSES[name], "model")
        with warnings.catch_warnings():
            # Newer versions of diffusers call the argument dtype, but all before 1.0 accept this name.
            warnings.filterwarnings("ignore", message=".*torch_dtype.*", category=FutureWarning)
            dtypes = saved_dtypes(folder) if dtype is None else {"default": dtype}
            dtypes |= dict.fromkeys(float32, torch.float32)
            return kind.from_pretrained(str(folder), torch_dtype=dtypes, local_files_only=True)
    except (OSError, ValueError, AttributeError, ImportError) as error:
        where = "on the model hub or in its local cache" if hub else "in that folder"
        text = (str(error) or type(error).__name__).splitlines()[0]
        raise UsageError(f"model: expected a diffusers pipeline {where}, got none for {model!r} ({text})") from error


def saved_dtypes(folder: Path) -> dict[str, torch.dtype]:
    """Read the precision in which each part of a pipeline was saved.

    Args:
        folder: The folder of a diffusers pipeline.

    Returns:
        The most common dtype of the weights by part, and `default`, float32, for parts without safetensors.
    """
    from safetensors import safe_open

    names = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    found: dict[str, torch.dtype] = {"default": torch.float32}
    for file in sorted(folder.glob("*/*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            kinds = Counter(tensors.get_slice(key).get_dtype() for key in tensors.keys())  # noqa: SIM118 - no mapping
        most = [kind for kind, _ in kinds.most_common() if kind in names]
        if most:
            found.setdefault(file.parent.name, names[most[0]])
    return found
