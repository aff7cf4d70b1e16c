"""Export a checkpoint's adapters as a PEFT LoRA folder, which PEFT and `geneval-reward generate --lora` read."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file

from geneval_reward.errors import UsageError


def export_lora(
    checkpoint: Path, folder: Path, *, weights: Literal["average", "trained"] = "average", base_model: str | None = None
) -> Path:
    """Write the adapters of a recipe's checkpoint as PEFT saves them: `adapter_model.safetensors`, `adapter_config.json`.

    Args:
        checkpoint: A checkpoint of a recipe, such as `last.ckpt`.
        folder: Where to write; created if missing.
        weights: `average`, which `generate` and `GenEvalCallback` score, or `trained`, the weights after the last step.
        base_model: Name of the base pipeline, for the configuration file.

    Returns:
        The folder.

    Raises:
        UsageError: If the file is not a recipe's checkpoint, or has no adapters.
    """
    from peft import LoraConfig

    state = torch.load(checkpoint, map_location="cpu", weights_only=False).get("flow_rl")
    if state is None:
        raise UsageError(f"checkpoint: expected one of a recipe, got {checkpoint}, which has no policy")
    tensors = state["ema"]["averages"] if weights == "average" else state["trained"]
    adapters = {name: tensor for name, tensor in tensors.items() if "lora_" in name}
    if not adapters:
        raise UsageError(
            f"checkpoint: expected adapters, got {checkpoint} of full fine-tuning; lora_rank > 0 trains adapters"
        )
    rank = next(len(tensor) for name, tensor in adapters.items() if ".lora_A." in name)
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=sorted({name.partition(".lora_")[0] for name in adapters}),
        base_model_name_or_path=base_model,
    )
    config.save_pretrained(str(folder))
    save_file(
        {f"base_model.model.{name.replace('.default.', '.')}": t.contiguous() for name, t in adapters.items()},
        folder / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    return folder
