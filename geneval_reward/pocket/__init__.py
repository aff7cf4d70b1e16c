"""The bundled text-to-image model: small scenes of emoji artwork, generated and drawn on a laptop's CPU.

It is a generative model over scenes with a drawing decoder, not a model of pixels; docs/pocket.md says what follows from
that. It has the interface of an ordinary diffusers pipeline, so everything that samples, scores or trains Stable
Diffusion 3 can be tried on it within minutes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from geneval_reward.pocket.prompts import iter_pocket_prompts, pocket_suite
from geneval_reward.pocket.scene import POCKET_CLASSES

if TYPE_CHECKING:
    from geneval_reward.pocket.build import build_pipeline
    from geneval_reward.pocket.load import load_pipeline
    from geneval_reward.pocket.pipeline import PocketPipeline

__all__ = [
    "POCKET_CLASSES",
    "PocketPipeline",
    "build_pipeline",
    "iter_pocket_prompts",
    "load_pipeline",
    "pocket_suite",
]

_LAZY = {"PocketPipeline": "pipeline", "build_pipeline": "build", "load_pipeline": "load"}


def __getattr__(name: str) -> Any:
    # diffusers takes seconds to import, and prompts and classes do not need it.
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(f"geneval_reward.pocket.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'geneval_reward.pocket' has no attribute {name!r}")
