"""From an mmdet checkpoint file to a loaded `transformers` model, strictly, with a safetensors cache."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import logging
import os
import pickle
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from geneval_reward.errors import WeightsError
from geneval_reward.vision.detectors.mask2former_architecture import Architecture, random_model
from geneval_reward.vision.detectors.mask2former_layout import to_3x, to_installed, to_transformers
from geneval_reward.vision.weights import KNOWN_FILES, cache_dir, file_lock, sha256_of

if TYPE_CHECKING:
    from transformers import Mask2FormerForUniversalSegmentation

logger = logging.getLogger(__name__)

CACHE_FORMAT: Final = "geneval-reward mask2former 1"
# In the model but not in any mmdet file, and without effect on the answer: a norm whose output is not used, and a
# constant of the training loss. Version 4 also stores the relative position index, which is recomputed.
_UNUSED: Final = re.compile(r".*\.swin\.layernorm\.(weight|bias)|criterion\.empty_weight|.*\.relative_position_index")


@dataclass(frozen=True, slots=True)
class ConvertedWeights:
    """Tensors under transformers 5 names, with where they came from.

    Attributes:
        tensors: Name -> tensor, contiguous, on the CPU.
        architecture: Their sizes.
        source_sha256: Of the mmdet checkpoint file.
        layout: `"2.x"` or `"3.x"`, the checkpoint's names.
    """

    tensors: dict[str, torch.Tensor]
    architecture: Architecture
    source_sha256: str
    layout: str

    @property
    def verified(self) -> bool:
        """Whether the source is a published file, by the pinned prefix of its sha256."""
        return any(self.source_sha256.startswith(known.sha256_prefix) for known in KNOWN_FILES.values())


def load_converted(path: Path, *, cache: bool = True) -> ConvertedWeights:
    """Read a checkpoint, from its safetensors cache where there is one.

    Args:
        path: An mmdet checkpoint (2.x or 3.x names), or a `.safetensors` file that `save_converted` wrote.
        cache: Whether to write (and use) `<stem>.<sha256[:8]>.safetensors` beside the checkpoint, or in the user's
            cache folder where that is not writable.

    Raises:
        WeightsError: If the file is missing, damaged, holds code, has another hash than its name says, or is of another
            architecture.
    """
    if path.suffix == ".safetensors":
        return read_converted(path)
    digest = check_hash(path)
    places = [folder / f"{path.stem}.{digest[:8]}.safetensors" for folder in (path.parent, cache_dir() / "converted")]
    if cache:
        for place in places:
            if place.is_file():
                try:
                    found = read_converted(place)
                except WeightsError as error:
                    logger.warning("The cache %s is not usable and is made anew: %s", place, error)
                    _remove(place)
                    continue
                if found.source_sha256 == digest:
                    return found
    converted = convert_checkpoint(path, digest)
    if cache:
        _cache_somewhere(converted, places)
    return converted


def check_hash(path: Path) -> str:
    """The sha256 of a checkpoint; mmdet's file names end in its first 8 digits, which must fit.

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


def convert_checkpoint(path: Path, digest: str) -> ConvertedWeights:
    """Convert an mmdet checkpoint file; `digest` is its sha256.

    Raises:
        WeightsError: See `load_converted`.
    """
    state_dict, layout = to_3x(read_state_dict(path))
    try:
        architecture = Architecture.of(state_dict)
        tensors = to_transformers(state_dict)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    return ConvertedWeights(tensors, architecture, digest, layout)


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


def save_converted(weights: ConvertedWeights, path: Path) -> None:
    """Write converted weights as safetensors: whole or not at all.

    Raises:
        OSError: If the file cannot be written; nothing is left behind.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    metadata = {
        "format": CACHE_FORMAT,
        "source_sha256": weights.source_sha256,
        "layout": weights.layout,
        "architecture": json.dumps(asdict(weights.architecture)),
        "tensors_sha256": _digest(weights.tensors),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    try:
        save_file(weights.tensors, name, metadata)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except SafetensorError as error:
        raise OSError(f"cannot write {path}: {error}") from error
    finally:
        Path(name).unlink(missing_ok=True)


def read_converted(path: Path) -> ConvertedWeights:
    """Read what `save_converted` wrote, and check it against its own digest.

    Raises:
        WeightsError: If the file is missing, damaged or not of this format.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != CACHE_FORMAT:
                raise WeightsError(
                    f"{path}: expected a file made by `geneval-reward weights convert`, got "
                    f"{metadata.get('format', 'other')!r} safetensors; give the mmdet checkpoint instead"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{path}: expected a whole safetensors file, got {error}; delete it") from error
    if _digest(tensors) != metadata.get("tensors_sha256"):
        raise WeightsError(f"{path}: expected tensors of the digest it records, got others; delete it")
    sizes = json.loads(metadata["architecture"])
    sizes = {name: tuple(value) if isinstance(value, list) else value for name, value in sizes.items()}
    return ConvertedWeights(tensors, Architecture(**sizes), metadata["source_sha256"], metadata["layout"])


def _cache_somewhere(weights: ConvertedWeights, places: list[Path]) -> None:
    for place in places:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with file_lock(place):
                # Another process may have written it while this one waited; the names carry the source's hash.
                if not place.is_file():
                    save_converted(weights, place)
            return
        except OSError as error:
            logger.info("Converted weights are not cached at %s: %s", place, error)
    logger.warning("Converted weights could not be cached; the checkpoint is converted anew on every load.")


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a PyTorch checkpoint without running any code that it holds.

    Args:
        path: A file that `torch.save` wrote: a state dict, or a mapping with one under `state_dict`.

    Raises:
        WeightsError: If the file cannot be read, asks to run code, or holds no state dict.
    """
    if path.suffix == ".safetensors":
        raise WeightsError(
            f"{path}: expected a checkpoint of mmdet (.pth), got converted weights, which only `paper` reads; name the .pth"
        )
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


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
