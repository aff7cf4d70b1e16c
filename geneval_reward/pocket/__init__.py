"""The bundled text-to-image models: small scenes of emoji artwork, generated and drawn on a laptop's CPU.

They are generative models over scenes with a drawing decoder, not models of pixels; docs/pocket.md says what follows from
that. `load_pipeline` gives a flow model with the interface of an ordinary diffusers pipeline, so everything that samples,
scores or trains Stable Diffusion 3 can be tried on it within minutes. `load_tokens` gives a token model that paints and
answers questions, as Show-o does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from geneval_reward.pocket.prompts import iter_pocket_prompts, pocket_suite
from geneval_reward.pocket.scene import POCKET_CLASSES

if TYPE_CHECKING:
    from geneval_reward.pocket.build import build_pipeline
    from geneval_reward.pocket.load import load_pipeline
    from geneval_reward.pocket.pipeline import PocketPipeline
    from geneval_reward.pocket.tokens import PocketTokens
    from geneval_reward.pocket.tokens_file import load_tokens

__all__ = [
    "POCKET_CLASSES",
    "PocketPipeline",
    "PocketTokens",
    "build_pipeline",
    "iter_pocket_prompts",
    "load_pipeline",
    "load_tokens",
    "pocket_suite",
]

_LAZY = {
    "PocketPipeline": "pipeline",
    "PocketTokens": "tokens",
    "build_pipeline": "build",
    "load_pipeline": "load",
    "load_tokens": "tokens_file",
}


def __getattr__(name: str) -> Any:
    # diffusers takes seconds to import, and prompts and classes do not need it.
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(f"geneval_reward.pocket.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'geneval_reward.pocket' has no attribute {name!r}")
