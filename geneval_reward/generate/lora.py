"""LoRA weights for a diffusers pipeline: diffusers files, and PEFT folders as RL trainers save them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

from geneval_reward.errors import UsageError
from geneval_reward.support.files import read_json
from geneval_reward.support.imports import require

ADAPTER: Final = "lora"
_PEFT_FILES: Final = ("adapter_config.json", "adapter_model.safetensors")
_PEFT_PREFIX: Final = "base_model.model."


def add_lora(pipe: Any, lora: str, scale: float = 1.0) -> None:
    """Load LoRA weights into a pipeline, and check that all of them were loaded and have an effect.

    Args:
        pipe: The pipeline, which is modified.
        lora: A file or folder that `pipe.load_lora_weights` takes; a PEFT folder (`adapter_config.json` and
            `adapter_model.safetensors`), or one with such a subfolder `lora`, which is how Flow-GRPO and DiffusionNFT save
            their checkpoints; or a name on a model hub.
        scale: Strength; 1.0 as trained.

    Raises:
        UsageError: If the weights cannot be loaded, only some of them fit the pipeline, or all are zero, which would give
            the base model's images.
        DependencyError: If peft is not installed.
    """
    require("peft", "diffusers", "lora")
    folder = peft_folder(Path(lora))
    try:
        expected = _load_diffusers(pipe, lora) if folder is None else _load_peft(pipe, folder)
    except (OSError, ImportError, KeyError, ValueError, RuntimeError) as error:
        if isinstance(error, UsageError):
            raise
        reason = " ".join(str(error).split())[:300]
        raise UsageError(
            f"lora: expected weights that {type(pipe).__name__} can load, got {lora!r} ({reason})"
        ) from error
    layers = _layers(pipe)
    if len(layers) < expected or not layers:
        raise UsageError(
            f"lora: expected weights of {type(pipe).__name__}, got {lora!r}, of whose {expected} layers {len(layers)} are in "
            "the pipeline; take the LoRA of this model"
        )
    if not any(bool(weight.any()) for layer in layers for weight in _up_weights(layer)):
        raise UsageError(
            f"lora: expected weights that change the model, got {lora!r}, whose up matrices are all zero; it was saved before "
            "its first update"
        )
    for layer in layers:
        layer.set_scale(ADAPTER, scale)


def peft_folder(path: Path) -> Path | None:
    """Return the folder of PEFT weights that a path is or holds as `lora`, or None."""
    for folder in (path, path / "lora"):
        if all((folder / name).is_file() for name in _PEFT_FILES):
            return folder
    return None


def _load_peft(pipe: Any, folder: Path) -> int:
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    model = getattr(pipe, "transformer", None) or getattr(pipe, "unet", None)
    if model is None:
        raise UsageError(f"lora: expected a pipeline with a transformer or a unet, got {type(pipe).__name__}")
    state = {key.removeprefix(_PEFT_PREFIX): value for key, value in load_file(folder / _PEFT_FILES[1]).items()}
    known = LoraConfig.__dataclass_fields__
    settings = {key: value for key, value in read_json(folder / _PEFT_FILES[0]).items() if key in known}
    inject_adapter_in_model(LoraConfig(**settings | {"inference_mode": True}), model, ADAPTER)
    set_peft_model_state_dict(model, state, ADAPTER)
    return _modules_of(state)


def _load_diffusers(pipe: Any, lora: str) -> int:
    if not hasattr(pipe, "load_lora_weights"):
        raise UsageError(f"lora: expected a pipeline that loads LoRA weights, got {type(pipe).__name__}")
    if not Path(lora).exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", lora) is None:
        raise UsageError(f"lora: expected a file or folder of LoRA weights or a hub name, got {lora!r}")
    state: Any = pipe.lora_state_dict(lora)
    pipe.load_lora_weights(lora, adapter_name=ADAPTER)
    return _modules_of(state[0] if isinstance(state, tuple) else state)


def _modules_of(state: Mapping[str, Any]) -> int:
    """Count the layers that LoRA weights are for: the names before `.lora_A`, `.lora.down`, `_lora.up` and the like."""
    return len({re.split(r"[._]lora[._]", key)[0] for key in state if re.search(r"[._]lora[._]", key)})


def _layers(pipe: Any) -> list[Any]:
    from peft.tuners.lora import LoraLayer

    parts = [part for part in getattr(pipe, "components", {}).values() if isinstance(part, torch.nn.Module)]
    return [
        module
        for part in parts
        for module in part.modules()
        if isinstance(module, LoraLayer) and ADAPTER in module.scaling
    ]


def _up_weights(layer: Any) -> list[torch.Tensor]:
    return [
        group[ADAPTER].weight if hasattr(group[ADAPTER], "weight") else group[ADAPTER]
        for group in (layer.lora_B, layer.lora_embedding_B)
        if ADAPTER in group
    ]
