"""Reads an mmdet checkpoint file into a `transformers` model, and refuses it if a single tensor does not fit."""

from __future__ import annotations

import importlib
import logging
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from geneval_reward.errors import WeightsError
from geneval_reward.vision.detectors.mask2former_architecture import Architecture, random_model
from geneval_reward.vision.detectors.mask2former_layout import to_3x, to_installed, to_transformers
from geneval_reward.vision.weights import KNOWN_FILES, sha256_of

if TYPE_CHECKING:
    from transformers import Mask2FormerForUniversalSegmentation

logger = logging.getLogger(__name__)

# Tensors of the model that no mmdet file has and that do not change the answer: a norm whose output is not used, and a constant
# of the training loss. Version 4 of transformers also stores the relative position index, which is recomputed.
_UNUSED: Final = re.compile(r".*\.swin\.layernorm\.(weight|bias)|criterion\.empty_weight|.*\.relative_position_index")


@dataclass(frozen=True, slots=True)
class ConvertedWeights:
    """Tensors with transformers 5 names, and the checkpoint they came from.

    Attributes:
        tensors: Contiguous tensors on the CPU by name.
        architecture: Sizes of the model.
        source_sha256: The sha256 of the mmdet checkpoint file.
        layout: `"2.x"` or `"3.x"`: the version of mmdet whose names the checkpoint has.
    """

    tensors: dict[str, torch.Tensor]
    architecture: Architecture
    source_sha256: str
    layout: str

    @property
    def verified(self) -> bool:
        """Whether the checkpoint is a published file, by the known prefix of its sha256."""
        return any(self.source_sha256.startswith(known.sha256_prefix) for known in KNOWN_FILES.values())


def load_converted(path: Path) -> ConvertedWeights:
    """Read a checkpoint and convert its tensors.

    Args:
        path: A checkpoint with mmdet 2.x or 3.x names.

    Raises:
        WeightsError: If the file is missing, damaged, holds code, has another hash than its name says, or is of another
            architecture.
    """
    digest = check_hash(path)
    state_dict, layout = to_3x(read_state_dict(path))
    try:
        return ConvertedWeights(to_transformers(state_dict), Architecture.of(state_dict), digest, layout)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error


def check_hash(path: Path) -> str:
    """Compute the sha256 of a checkpoint; mmdet's file names end in its first 8 digits, which must agree.

    Raises:
        WeightsError: If the file is missing or its hash is not the one in its name.
    """
    if not path.is_file():
        raise WeightsError(f"checkpoint: expected a file, got nothing at {path}")
    digest = sha256_of(path)
    named = re.search(r"-([0-9a-f]{8})$", path.stem)
    if named and not digest.startswith(named[1]):
        raise WeightsError(
            f"{path}: expected a file whose sha256 begins with {named[1]}, as its name says, got {digest[:8]} "
            f"({path.stat().st_size:,} bytes); it is damaged or incomplete, so delete it and fetch it again"
        )
    return digest


def build_model(weights: ConvertedWeights) -> Mask2FormerForUniversalSegmentation:
    """Make the `transformers` model and fill every parameter.

    Raises:
        WeightsError: If a parameter has no tensor, a tensor no parameter, or a shape differs.
    """
    model: Any = random_model(weights.architecture)
    own = model.state_dict()
    tensors = to_installed(weights.tensors, own)
    missing = [name for name in own if name not in tensors and not _UNUSED.fullmatch(name)]
    unexpected = [name for name in tensors if name not in own]
    misshapen = [
        f"{name} {tuple(tensors[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if name in tensors and own[name].shape != tensors[name].shape
    ]
    for what, names in (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen)):
        if names:
            raise WeightsError(
                f"checkpoint: expected every tensor of a Mask2Former-Swin once, got {len(names)} {what}, "
                f"first {names[0]}; use the file that `geneval-reward weights list` names"
            )
    model.load_state_dict(tensors, strict=False)
    loaded: Mask2FormerForUniversalSegmentation = model.eval().requires_grad_(False)
    return loaded


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a PyTorch checkpoint without running any code that it holds.

    Args:
        path: A file that `torch.save` wrote: a state dict, or a mapping with one under `state_dict`.

    Raises:
        WeightsError: If the file cannot be read, asks to run code, or holds no state dict.
    """
    try:
        with torch.serialization.safe_globals(_numpy_globals()):
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: expected a checkpoint of tensors and plain values, got one that asks to run code, which is "
            "refused; save it again with only its 'state_dict', or use the published file"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise WeightsError(
            f"{path}: expected a PyTorch checkpoint, got a file that cannot be read ({error}); fetch it again"
        ) from error
    state_dict = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state_dict, Mapping) or not all(isinstance(value, torch.Tensor) for value in state_dict.values()):
        raise WeightsError(f"{path}: expected a state dict of tensors, got {type(content).__name__} of other things")
    return dict(state_dict)


def _numpy_globals() -> list[Any]:
    # Training tools leave NumPy numbers in a checkpoint's "meta"; rebuilding one runs no foreign code. NumPy 1 and 2 pickle
    # them under different module names, and a file of either must load under both.
    try:
        multiarray: Any = importlib.import_module("numpy._core.multiarray")
    except ImportError:
        multiarray = importlib.import_module("numpy.core.multiarray")
    kinds = {type(np.dtype(code)) for code in ("f4", "f8", "i4", "i8", "b1")}
    rebuild = [
        (getattr(multiarray, name), f"{module}.multiarray.{name}")
        for name in ("scalar", "_reconstruct")
        for module in ("numpy.core", "numpy._core")
    ]
    return [*rebuild, np.ndarray, np.dtype, *kinds]
