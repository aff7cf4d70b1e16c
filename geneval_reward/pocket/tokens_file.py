"""Load the packaged token model offline, refusing damaged files, and save models of the same kind."""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file

from geneval_reward.errors import WeightsError
from geneval_reward.pocket.packaged import check_files
from geneval_reward.pocket.tokens import PocketTokens
from geneval_reward.support.files import write_whole

TOKENS_FOLDER: Final = Path(str(files("geneval_reward") / "data" / "pocket_tokens"))
"""The weights, with a `PROVENANCE.json` that says how they were made."""

_WEIGHTS: Final = "model.safetensors"


def load_tokens(device: torch.device | str = "cpu", folder: Path | str = TOKENS_FOLDER) -> PocketTokens:
    """Load the packaged token model, which paints and answers questions.

    Args:
        device: Where to run.
        folder: Where `save_tokens` or `tools/pocket/train_tokens.py` wrote weights; the packaged ones by default.

    Returns:
        A new model with float32 weights in eval mode; the file holds float16.

    Raises:
        WeightsError: If a file is missing or damaged, or the weights are of another version of the model.
    """
    folder = Path(folder)
    check_files(folder)
    model = PocketTokens()
    try:
        model.transformer.load_state_dict(load_file(folder / _WEIGHTS))
    except RuntimeError as error:
        raise WeightsError(
            f"{folder}: expected weights of this version of the token model, got others; {error}"
        ) from error
    model.transformer.eval()
    return model.to(device)


def save_tokens(model: PocketTokens, folder: Path | str, **about: Any) -> None:
    """Write a model's weights as float16 and their provenance, so that `load_tokens` can read them.

    Args:
        model: A model, perhaps fine-tuned.
        folder: Created if missing.
        **about: Additional provenance, as JSON values.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / _WEIGHTS
    state = model.transformer.state_dict()
    save_file({name: value.detach().cpu().half().contiguous() for name, value in state.items()}, weights)
    about["sha256"] = {_WEIGHTS: hashlib.sha256(weights.read_bytes()).hexdigest()}
    write_whole(folder / "PROVENANCE.json", json.dumps(about, indent=1) + "\n")
