"""Loads the packaged pocket pipeline without a network and refuses damaged files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from geneval_reward.pocket.packaged import check_files, read_provenance
from geneval_reward.pocket.pipeline import PocketPipeline

FOLDER: Final = Path(str(files("geneval_reward") / "data" / "pocket"))
"""A diffusers folder with a `PROVENANCE.json` that says how its weights were made."""


def load_pipeline(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> PocketPipeline:
    """Load the packaged text-to-image pipeline.

    Args:
        device: Where to run.
        dtype: Type to compute in; the files hold float16.

    Returns:
        A new pipeline, its progress bar off, all weights in eval mode.

    Raises:
        WeightsError: If a file is missing or damaged.
    """
    check_files(FOLDER)
    with _without_bars():
        pipeline: PocketPipeline = PocketPipeline.from_pretrained(str(FOLDER), local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    for part in (pipeline.transformer, pipeline.text_encoder, pipeline.vae):
        # pipeline.to(dtype) would warn about layers that should stay in float32; there are none.
        torch.nn.Module.to(part, dtype=dtype)
    return pipeline.to(device)


@contextmanager
def _without_bars() -> Iterator[None]:
    """Hide the progress bars of diffusers and transformers; loading takes less than a second."""
    switches = [module for module in (diffusers_logging, transformers_logging) if module.is_progress_bar_enabled()]
    for module in switches:
        module.disable_progress_bar()
    try:
        yield
    finally:
        for module in switches:
            module.enable_progress_bar()


def provenance() -> dict[str, Any]:
    """Read how the packaged weights were made: seed, steps, versions, loss curve and hashes.

    Raises:
        WeightsError: If the file is missing.
    """
    return read_provenance(FOLDER)
