"""Rewards that are computed while images are being made: submitted batch by batch, resolved at the end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geneval_reward.errors import UsageError
from geneval_reward.imports import import_object
from geneval_reward.prompts import PromptSpec
from geneval_reward.train.data import record

BACKENDS = ("lite", "nanodet", "paper", "mmdet")


Credit = str | dict[str, float]
"""Name of a credit, or weights of several: `{"official": 1, "partial": 1}` is graded and still rewards what is right."""


def load_reward(reward: Any, credit: Credit, device: torch.device) -> Any:
    """A reward from whatever names one: a backend, `module:attribute`, or a callable.

    Raises:
        ValueError: If it is none of these.
    """
    if isinstance(reward, str) and ":" in reward:
        reward = import_object(reward, "reward")
    if callable(reward):
        return reward
    if reward not in BACKENDS:
        raise UsageError(f"reward: expected {', '.join(BACKENDS)}, module:function or a callable, got {reward!r}")
    from geneval_reward.reward import GenEvalReward

    return GenEvalReward(reward, credit if isinstance(credit, str) else "official", device=device)


@dataclass
class _Pending:
    rows: list[int]
    future: Future[Any]
    begun: float
    ended: float = math.nan


class RewardQueue:
    """Scores of one rollout.

    Args:
        reward: `reward(images=, prompts=, metadata=) -> rewards`, or an object that has `submit` too, as `GenEvalReward`.
        asynchronous: Whether to score in a thread while the caller goes on; otherwise each batch is waited for.
        credit: Weights of credits to take in place of the reward's own; the reward must tell its credits.

    Attributes:
        wait_seconds: What the caller spent waiting.
        busy_seconds: What scoring took, hidden or not.
    """

    def __init__(self, reward: Any, *, asynchronous: bool = True, credit: Credit = "official") -> None:
        self.wait_seconds = self.busy_seconds = 0.0
        self._credit = credit if isinstance(credit, dict) else None
        self._reward, self._asynchronous = reward, asynchronous
        self._pending: list[_Pending] = []
        self._pool: ThreadPoolExecutor | None = None

    def put(self, rows: Sequence[int], images: Tensor, specs: Sequence[PromptSpec]) -> None:
        """Hand in images, one per row number and spec; does nothing for an empty batch."""
        if not rows:
            return
        begun = time.monotonic()
        future = self._submit(
            images=list(images), prompts=[s.prompt for s in specs], metadata=[record(s) for s in specs]
        )
        pending = _Pending(list(rows), future, begun)
        self._pending.append(pending)
        future.add_done_callback(lambda _: setattr(pending, "ended", time.monotonic()))
        if not self._asynchronous:
            future.exception()
            self.wait_seconds += time.monotonic() - begun

    def rewards(self, count: int) -> tuple[list[float], dict[str, list[float]]]:
        """Wait for all.

        Args:
            count: How many rows there are.

        Returns:
            One reward a row, NaN where there is none; and the credits of each row by name, where the reward tells them.

        Raises:
            RuntimeError: If scoring failed; with its message.
        """
        begun = time.monotonic()
        rewards = [math.nan] * count
        credits: dict[str, list[float]] = {}
        last_end = -math.inf
        try:
            for pending in self._pending:
                try:
                    result = pending.future.result()
                except Exception as error:
                    raise RuntimeError(f"reward: scoring failed with {type(error).__name__}: {error}") from error
                values = self._values(result)
                got = len(values) if hasattr(values, "__len__") else type(values).__name__
                if got != len(pending.rows):
                    raise RuntimeError(f"reward: expected {len(pending.rows)} rewards, one an image, got {got}")
                for row, value in zip(pending.rows, values, strict=True):
                    rewards[row] = _number(value)
                if hasattr(result, "credits"):
                    for name, column in result.credits().items():
                        filled = credits.setdefault(name, [math.nan] * count)
                        for row, value in zip(pending.rows, column, strict=True):
                            filled[row] = _number(value)
                # One worker scores in order, so it was busy from the later of hand-in and the end of the one before. The
                # future wakes us before it calls back, so the end may not have been noted yet.
                ended = time.monotonic() if math.isnan(pending.ended) else pending.ended
                self.busy_seconds += max(ended - max(pending.begun, last_end), 0.0)
                last_end = ended
        finally:
            self._pending.clear()
            if self._pool is not None:
                self._pool.shutdown(wait=True, cancel_futures=True)
                self._pool = None
        self.wait_seconds += time.monotonic() - begun
        return rewards, credits

    def _values(self, result: Any) -> Any:
        if self._credit is None:
            return getattr(result, "rewards", result)
        if not hasattr(result, "credits"):
            raise RuntimeError(f"credit: expected a reward that tells its credits, got {type(result).__name__}")
        columns, total = result.credits(), sum(self._credit.values())
        rows = zip(*(columns[name] for name in self._credit), strict=True)
        return [
            None if None in row else sum(w * v for w, v in zip(self._credit.values(), row, strict=True)) / total
            for row in rows
        ]

    def _submit(self, **kwargs: Any) -> Future[Any]:
        submit: Callable[..., Future[Any]] | None = getattr(self._reward, "submit", None)
        if submit is not None:
            return submit(**kwargs)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reward")
        return self._pool.submit(self._reward, **kwargs)


def _number(value: float | None) -> float:
    """A reward as a number; None and infinities are no rewards."""
    number = math.nan if value is None else float(value)
    return number if math.isfinite(number) else math.nan
