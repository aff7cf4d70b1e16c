"""`Steps`: a generator that is driven step by step; this is all that a new model must provide for a search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Steps(Protocol):
    """Makes the candidates of one prompt side by side, one step at a time.

    A step is a denoising step, or one level of a model that decodes from coarse to fine. The state is whatever the model
    needs between two steps and is opaque to callers. It must hold, for each candidate, everything that `take` has to
    gather: latents or the running sum of codes, the history of a multi-step solver, and **both halves** (with and without
    the prompt) of every key-value cache. `docs/search.md` says what to gather for Infinity and VAR.

    A candidate's noise depends only on its seed and the step, so a candidate does not depend on the others in the batch,
    and two candidates with the same seed and history are the same image.

    A model whose partial images cannot be shown omits `preview`; plans that need previews are then refused. Features
    for clustering are optional too: `features(state)` returns an array `(n, d)`.
    """

    @property
    def n_steps(self) -> int:
        """Number of steps from `start` to `images`."""
        ...

    @property
    def stochastic(self) -> bool:
        """Whether steps draw noise. Without noise, copies of a candidate would stay identical, so plans that copy are refused."""
        ...

    def start(self, prompt: str, seeds: Sequence[int]) -> Any:
        """Make the initial state, with one candidate per seed."""
        ...

    def advance(self, state: Any, step: int) -> Any:
        """Take step number `step`, from 0, for all candidates."""
        ...

    def take(self, state: Any, rows: Sequence[int], seeds: Sequence[int]) -> Any:
        """Gather candidates.

        Args:
            state: The state.
            rows: Which candidates to keep; a candidate may occur several times.
            seeds: One per row: the candidate's own seed, which continues its noise, or a new one, from which the remaining
                steps draw theirs.
        """
        ...

    def images(self, state: Any) -> Any:
        """Decode the finished candidates to images that `geneval_reward.vision.images.as_images` takes."""
        ...

    def cost(self, step: int, n: int) -> float:
        """Return the cost of a step for `n` candidates, undecoded, in units of one plain image (all steps of one candidate)."""
        ...


def has_previews(steps: Steps) -> bool:
    """Whether a model can preview unfinished candidates."""
    return callable(getattr(steps, "preview", None))
