"""`PoolScorer`: a pool of workers with the face of a scorer, for applications that call one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from geneval_reward.judge import Rules, Verdict
from geneval_reward.prompts import PromptSpec
from geneval_reward.prompts.suite import resolve
from geneval_reward.service.server.pool import WorkerPool
from geneval_reward.service.server.scoring import Prepared, answer
from geneval_reward.service.wire import ItemReply


class PoolScorer:
    """Scores in a pool's worker processes; called from any thread but the event loop's.

    Args:
        pool: The workers.
        timeout: Seconds a call may take.
    """

    def __init__(self, pool: WorkerPool, timeout: float = 120.0) -> None:
        self._pool = pool
        self._timeout = timeout

    @property
    def rules(self) -> Rules:
        """The rules of the workers' scorer."""
        return Rules.parse(self._info["rules"])

    @property
    def name(self) -> str:
        """The backend."""
        return self._pool.config.backend if self._pool.info is None else str(self._pool.info["backend"])

    @property
    def detector(self) -> SimpleNamespace:
        """What there is to know of the workers' detector: whether it sees red and blue swapped."""
        return SimpleNamespace(swap_rb=self._pool.config.swap_rb and self.name in ("paper", "mmdet"))

    @property
    def fingerprint_id(self) -> str:
        """Of the workers' scorer."""
        return str(self._info["fingerprint"])

    def score(self, images: Sequence[Any], specs: Sequence[Any]) -> list[Verdict]:
        """Judge images; see `geneval_reward.GenEvalScorer.score`.

        Args:
            images: PIL images, or uint8 arrays or tensors `(h, w, 3)` or `(3, h, w)`.
            specs: One per image: specs, records, or texts of the official suite.

        Raises:
            RequestError: If one image cannot be scored; the message says which.
            RefusedError: If the queue is full or the time is up.
            RuntimeError: If it is called in the event loop's thread.
        """
        from geneval_reward.vision.images import as_images

        parsed = [resolve(spec) for spec in specs]
        prepared: list[Prepared | str] = []
        for index, (image, spec) in enumerate(zip(as_images(images), parsed, strict=True)):
            array = np.ascontiguousarray(image.cpu().numpy())
            head: dict[str, Any] = {
                "format": "raw",
                "shape": list(array.shape),
                "layout": "chw",
                "spec": spec.to_json(),
            }
            head |= {"credit": "official", "where": f"images[{index}]"}
            prepared.append(Prepared(head, array.data.cast("B"), array.shape[1] * array.shape[2]))
        if self._pool.loop is None:
            raise RuntimeError("pool: expected one that is started, got one that is not; start the server first")
        work = answer(self._pool, prepared, time.monotonic() + self._timeout)
        answers = asyncio.run_coroutine_threadsafe(work, self._pool.loop).result()
        return [self._verdict(one.text, spec) for one, spec in zip(answers, parsed, strict=True)]

    @property
    def _info(self) -> dict[str, Any]:
        if self._pool.info is None:
            raise RuntimeError("pool: expected one that is ready, got one that is starting; ask /health")
        return self._pool.info

    def _verdict(self, text: bytes, spec: PromptSpec) -> Verdict:
        reply = ItemReply.model_validate_json(text)
        if reply.verdict is None:
            # Imported here: it brings torch, which the server's own process does without.
            from geneval_reward.service.flow_grpo.request import RequestError

            # Its image was tried alone, as often as an image is: the same request would fail again.
            raise RequestError(reply.error)
        return reply.verdict.verdict(spec, self._info["rules"])
