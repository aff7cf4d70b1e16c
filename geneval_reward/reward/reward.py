"""`GenEvalReward`: a plain callable from images and prompts to rewards."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from geneval_reward.errors import ImageError, SpecError, UsageError
from geneval_reward.judge.verdict import CREDITS, Verdict
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.prompts.suite import resolve
from geneval_reward.reward.batch import PreparedBatch, RewardBatch, refuse_hopeless
from geneval_reward.reward.inputs import text_of
from geneval_reward.scorer import GenEvalScorer
from geneval_reward.vision.images import as_image

_log = logging.getLogger(__name__)

_RECORD_COLUMNS = ("tag", "include", "exclude")


class GenEvalReward:
    """Rewards for images by what their prompts asked for.

    A plain object: picklable, thread-safe, and loaded on first use, so that making one is free. It never answers a silent 0:
    a sample that cannot be scored is None, a batch in which no sample can be scored is an error, and a whole batch of
    zeros warns once.

    Args:
        scorer: A `GenEvalScorer`, a function that makes one, or the name of a backend.
        credit: `official` (the benchmark's 0/1), `strict`, `partial`, `dense` or `flow_grpo`; see
            `Verdict`.
        prompts: Specs whose texts are understood as prompts, beside the official suite: usually the training prompts.
        **options: Passed to `GenEvalScorer.from_pretrained` where `scorer` is a name.

    Raises:
        ValueError: If the credit is unknown.

    Example:
        >>> from geneval_reward.reward import GenEvalReward
        >>> from geneval_reward.testing import FakeDetector, scorer_for
        >>> reward = GenEvalReward(scorer_for(FakeDetector({"bench": [[1, 1, 9, 9, 0.8]]})), credit="partial")
        >>> import numpy as np
        >>> reward(images=[np.zeros((16, 16, 3), np.uint8)] * 2, prompts=["a photo of a bench", "a photo of a cow"])
        [1.0, 0.0]
    """

    def __init__(
        self,
        scorer: GenEvalScorer | Callable[[], GenEvalScorer] | str = "lite",
        credit: str = "official",
        *,
        prompts: Sequence[PromptSpec | Mapping[str, Any] | str] = (),
        **options: Any,
    ) -> None:
        if credit not in CREDITS:
            raise UsageError(f"credit: expected one of {', '.join(CREDITS)}, got {credit!r}")
        if options and not isinstance(scorer, str):
            raise UsageError(
                f"{next(iter(options))}: expected no options beside a ready scorer; give them to the scorer"
            )
        self.credit = credit
        self._source = scorer
        self._options = options
        self._specs = {spec.prompt: spec for spec in (PromptSpec.parse(prompt) for prompt in prompts)}
        self._start()

    def _start(self) -> None:
        self._scorer = self._source if isinstance(self._source, GenEvalScorer) else None
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._warned_zero = False
        # Trainers name their curves by this.
        self.__name__ = "geneval" if self.credit == "official" else f"geneval_{self.credit}"

    @property
    def scorer(self) -> GenEvalScorer:
        """The scorer; loaded at the first use."""
        with self._lock:
            if self._scorer is None:
                source = self._source
                self._scorer = (
                    GenEvalScorer.from_pretrained(source, **self._options) if isinstance(source, str) else source()  # type: ignore[operator]
                )
            return self._scorer

    @property
    def loaded(self) -> bool:
        """Whether the scorer has been made."""
        return self._scorer is not None

    def __call__(
        self,
        images: Any = None,
        prompts: Sequence[Any] | None = None,
        metadata: Sequence[Any] | None = None,
        completions: Any = None,
        **columns: Any,
    ) -> list[float | None]:
        """Rewards of a batch.

        Args:
            images: What `GenEvalScorer.score` takes.
            prompts: Prompt texts, records or specs, one per image. Texts must be known (official suite or the `prompts` of the
                constructor) unless there is metadata.
            metadata: Records, as mappings or JSON strings, one per image; they go before prompts. None entries fall
                back on the prompt.
            completions: The images, under the name that TRL gives to what a policy has made.
            **columns: Data set columns as TRL passes them. `tag`, `include` and `exclude` together are taken for
                metadata; `log_metric`, if it is a function, is told the mean of every credit; the rest is not read.

        Returns:
            One reward per image, in order; None where it could not be scored.

        Raises:
            ValueError: If there are no images, no prompts, or not as many of one as of the other.
            ImageError, SpecError: If not one sample of the batch can be scored; the first reason.
        """
        batch = self.score(images, prompts, metadata, completions, **columns)
        log_metric = columns.get("log_metric")
        if callable(log_metric):
            for name, values in batch.credits().items():
                known = [value for value in values if value is not None]
                if known:
                    log_metric(f"geneval/{name}", float(np.mean(known)))
        return batch.rewards

    def score(
        self,
        images: Any = None,
        prompts: Sequence[Any] | None = None,
        metadata: Sequence[Any] | None = None,
        completions: Any = None,
        **columns: Any,
    ) -> RewardBatch:
        """Rewards with verdicts and errors; arguments as in `__call__`."""
        batch = self._prepared(images, prompts, metadata, completions, columns)
        refuse_hopeless(batch.errors)
        usable = batch.usable
        found = self.scorer.score([batch.images[i] for i in usable], [batch.specs[i] for i in usable]) if usable else []  # type: ignore[misc]
        verdicts: list[Verdict | None] = [None] * len(batch.errors)
        for index, verdict in zip(usable, found, strict=True):
            verdicts[index] = verdict
        rewards = [None if verdict is None else verdict.credit(self.credit) for verdict in verdicts]
        return self._told(RewardBatch(rewards, verdicts, batch.errors))

    def submit(self, *args: Any, **kwargs: Any) -> Future[RewardBatch]:
        """Score in this reward's own worker while the caller goes on generating.

        Batches are scored in the order of submission. On CUDA the work goes to a stream of its own, which first waits
        for what the caller's stream has queued, so that images need not be finished yet.

        Args:
            *args: As in `__call__`.
            **kwargs: As in `__call__`.

        Returns:
            A future of a `RewardBatch`; its `result()` raises what scoring raised.
        """
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="geneval-reward")
            pool = self._pool
        if not torch.cuda.is_available():
            return pool.submit(self.score, *args, **kwargs)
        ready = torch.cuda.Event()
        ready.record()
        return pool.submit(self._score_on_stream, ready, args, kwargs)

    def close(self) -> None:
        """End the worker of `submit` after what it has begun; it starts again when it is needed."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True)

    def __getstate__(self) -> dict[str, Any]:
        return {"credit": self.credit, "_source": self._source, "_options": self._options, "_specs": self._specs}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def __repr__(self) -> str:
        return f"GenEvalReward({self._source!r}, credit={self.credit!r})"

    def _score_on_stream(self, ready: torch.cuda.Event, args: Any, kwargs: Any) -> RewardBatch:
        stream = self._stream = getattr(self, "_stream", None) or torch.cuda.Stream()
        with torch.cuda.stream(stream):
            stream.wait_event(ready)
            return self.score(*args, **kwargs)

    def _prepared(
        self, images: Any, prompts: Any, metadata: Any, completions: Any, columns: Mapping[str, Any]
    ) -> PreparedBatch:
        images = completions if images is None else images
        if images is None:
            raise UsageError("images: expected a batch of images (or completions), got none")
        asked = self._asked(prompts, metadata, columns)
        if len(asked) != len(images):
            raise UsageError(f"prompts: expected {len(images)}, one per image, got {len(asked)}")
        found = [self._prepare(image, ask, index) for index, (image, ask) in enumerate(zip(images, asked, strict=True))]
        return PreparedBatch([one[0] for one in found], [one[1] for one in found], [one[2] for one in found])

    def _told(self, batch: RewardBatch) -> RewardBatch:
        """A finished batch, after its errors were logged and an all-zero one was warned of."""
        for error in filter(None, batch.errors):
            _log.warning("reward: a sample cannot be scored and gets None: %s", error)
        self._warn_if_zero(batch.rewards)
        return batch

    def _asked(
        self, prompts: Sequence[Any] | None, metadata: Sequence[Any] | None, columns: Mapping[str, Any]
    ) -> list[Any]:
        """What is asked of each image: its metadata where there is some, else its prompt."""
        if metadata is None and all(columns.get(name) is not None for name in ("tag", "include")):
            present = [name for name in _RECORD_COLUMNS if columns.get(name) is not None]
            rows = zip(*(columns[name] for name in present), strict=True)
            metadata = [dict(zip(present, row, strict=True)) for row in rows]
            if prompts is not None and all(isinstance(prompt, str) for prompt in prompts):
                metadata = [record | {"prompt": prompt} for record, prompt in zip(metadata, prompts, strict=True)]
        if metadata is None:
            if prompts is None:
                raise UsageError("prompts: expected prompts or metadata, got neither; rewards depend on what was asked")
            return list(prompts)
        if prompts is None:
            return list(metadata)
        if len(metadata) != len(prompts):
            raise UsageError(f"metadata: expected {len(prompts)}, one per prompt, got {len(metadata)}")
        return [prompt if record is None else record for record, prompt in zip(metadata, prompts, strict=True)]

    def _prepare(self, image: Any, asked: Any, index: int) -> tuple[torch.Tensor | None, PromptSpec | None, str | None]:
        try:
            spec = resolve(text_of(asked), self._specs)  # first: what asks for no picture need not have one
            return as_image(image, f"images[{index}]"), spec, None
        except (ImageError, SpecError) as error:
            text = str(error)
            return None, None, text if text.startswith("images[") else f"prompts[{index}]: {text}"

    def _warn_if_zero(self, rewards: list[float | None]) -> None:
        known = [reward for reward in rewards if reward is not None]
        if self._warned_zero or len(known) < 2 or any(known):
            return
        self._warned_zero = True
        warnings.warn(
            f"all {len(known)} rewards of a batch are 0; if the pictures look right, run `geneval-reward doctor`: broken "
            "kernels or weights give low confidences and no error",
            stacklevel=5,
        )
