"""Scoring as a service: the server of `geneval-reward serve`, its client, and Flow-GRPO's protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geneval_reward.service.client.scorer import RemoteScorer

__all__ = ["RemoteScorer"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: the server's own process must not load torch.
    if name == "RemoteScorer":
        from geneval_reward.service.client.scorer import RemoteScorer

        return RemoteScorer
    raise AttributeError(f"module 'geneval_reward.service' has no attribute {name!r}")
