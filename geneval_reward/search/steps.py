"""`Steps`: one generator that is driven step by step; all that a new model must provide to be searched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Steps(Protocol):
    """Makes the candidates of one prompt side by side, one step at a time.

    A step is a denoising step, or one level of a model that decodes from coarse to fine. The state is whatever the model
    needs between two steps; nobody else looks into it. It must hold, for each candidate, everything that `take` has to
    gather: latents or the running sum of codes, the history of a multi-step solver, and **both halves** (with and without
    the prompt) of every key-value cache. `docs/search.md` says what to gather for Infinity and VAR.

    The noise of a candidate depends on its seed and the step alone, so a candidate does not change with the others in the
    batch, and two candidates with one seed and one past are the same image.

    A model whose partial images cannot be shown leaves `preview` out; plans that look at previews are then refused. Features
    for clustering are optional too: `features(state)` returns an array `(n, d)`.
    """

    @property
    def n_steps(self) -> int:
        """Number of steps from `start` to `images`."""
        ...

    @property
    def stochastic(self) -> bool:
        """Whether steps draw noise. Without it copies of a candidate would stay equal, so plans that make copies are refused."""
        ...

    def start(self, prompt: str, seeds: Sequence[int]) -> Any:
        """Make the state of as many candidates as there are seeds."""
        ...

    def advance(self, state: Any, step: int) -> Any:
        """Do step number `step`, from 0, for all candidates."""
        ...

    def take(self, state: Any, rows: Sequence[int], seeds: Sequence[int]) -> Any:
        """Gather candidates.

        Args:
            state: The state.
            rows: Which candidates go on; a candidate may occur several times.
            seeds: One per row: the seed that it has, which goes on with its noise, or another, from which the coming steps
                draw theirs.
        """
        ...

    def images(self, state: Any) -> Any:
        """Decode the finished candidates to images that `geneval_reward.vision.images.as_images` takes."""
        ...

    def cost(self, step: int, n: int) -> float:
        """Cost of a step for `n` candidates without decoding, in units of one plain image (all steps of one candidate)."""
        ...


def has_previews(steps: Steps) -> bool:
    """Whether a model can show what a candidate will be before it is finished."""
    return callable(getattr(steps, "preview", None))
