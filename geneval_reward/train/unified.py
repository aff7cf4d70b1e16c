"""Unified models, which paint and answer questions with the same weights: the protocol that recipes take, and the pocket model's.

`PocketUnified` is the pocket token model, and `geneval_reward.train.janus.JanusUnified` is Janus of `transformers`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import torch
from torch import Tensor, nn

from geneval_reward.errors import UsageError
from geneval_reward.judges.answers import grade_answer
from geneval_reward.judges.questions import QA
from geneval_reward.pocket.codes import draw
from geneval_reward.pocket.painting import Painting
from geneval_reward.pocket.questions import qa_of
from geneval_reward.pocket.token_words import PAD
from geneval_reward.pocket.tokens import PocketTokens
from geneval_reward.prompts import PromptSpec
from geneval_reward.reward import RewardBatch
from geneval_reward.rl import categorical_log_prob


@dataclass(frozen=True)
class Painted:
    """Pictures that a unified model has painted, as tokens.

    Attributes:
        tokens: `(n, L)` int64.
        commits: `(n, L)` int64: the pass of the network, from 1, in which each token was drawn; all 1 for an autoregressive
            model, whose log-probabilities take one pass.
        log_probs: `(n, L)` float32: log-probability of each token when it was drawn.
    """

    tokens: Tensor
    commits: Tensor
    log_probs: Tensor

    def rows(self, rows: Tensor) -> Painted:
        """Select pictures by index."""
        return Painted(self.tokens[rows], self.commits[rows], self.log_probs[rows])

    def finite_rows(self) -> list[int]:
        """Indices of the pictures all of whose log-probabilities are finite; the logits of the others had NaN."""
        rows: list[int] = self.log_probs.isfinite().all(1).nonzero().flatten().tolist()
        return rows


class UnifiedModel(Protocol):
    """What `recipes/unirl.py` asks of a model. A class of your own needs these members and no base class.

    Where `tokens` are taken, they are `(n, L)` integers, or `(n, L, V)` one-hot vectors from `paint_soft`, through which
    gradient flows.
    """

    network: nn.Module
    """Holds all weights that are trained."""

    def ask(self, spec: PromptSpec) -> QA:
        """Make the question about a record's picture, with its true answer, in words that the model knows."""
        ...

    def paint(self, prompts: Sequence[str], seeds: Sequence[int]) -> Painted:
        """Paint without gradient. A picture depends on its own prompt and seed alone."""
        ...

    def token_log_probs(self, prompts: Sequence[str], painted: Painted) -> Iterator[tuple[Tensor, Tensor]]:
        """Compute the log-probabilities of painted tokens, with gradient.

        Yields:
            For each pass of the network, `(n, L)` log-probabilities and an `(n, L)` mask of the tokens drawn in it. The masks
            of all passes cover every token once.
        """
        ...

    def images(self, tokens: Tensor) -> list[Tensor]:
        """Draw integer tokens as uint8 images `(3, h, w)`."""
        ...

    def answer(self, tokens: Tensor, questions: Sequence[str], seeds: Sequence[int] | None = None) -> list[str]:
        """Answer questions about pictures without their prompts; words are drawn if there are seeds, else the likeliest."""
        ...

    def answer_log_probs(
        self, tokens: Tensor, questions: Sequence[str], answers: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """Compute the log-probabilities of given answers, with gradient.

        Returns:
            `(n, T)` log-probabilities of the answers' tokens and their ends, and an `(n, T)` mask, false for padding.
        """
        ...

    def paint_soft(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """Paint as straight-through one-hot vectors `(n, L, V)`; only end-to-end SFT needs it."""
        ...


UNIFIED_METHODS: Final = ("ask", "paint", "token_log_probs", "images", "answer", "answer_log_probs", "paint_soft")
"""The methods of a `UnifiedModel`."""


def check_unified(model: Any, methods: Sequence[str] = UNIFIED_METHODS) -> None:
    """Check that a model has what a method of training calls.

    Args:
        model: Any object.
        methods: The methods that are needed.

    Raises:
        UsageError: If it lacks `network` or one of them; the message names all that are missing.
    """
    missing = [name for name in methods if not callable(getattr(model, name, None))]
    missing += [] if isinstance(getattr(model, "network", None), nn.Module) else ["network"]
    if missing:
        raise UsageError(
            f"unified: expected a model with {', '.join((*methods, 'network'))}, got {type(model).__name__} without "
            f"{', '.join(missing)}; geneval_reward.train.unified.UnifiedModel says what they do"
        )


class PocketUnified:
    """The pocket token model as a `UnifiedModel`.

    The likelihood of masked decoding is approximated: which positions a step fixes counts as part of the environment, and a
    token's log-probability is that in the step that fixed it.

    Args:
        model: The model; None loads the packaged one.
        steps: Steps of masked decoding.
        guidance: Classifier-free guidance while painting; 1 is none. Log-probabilities are those of the guided distribution.
        tau: Temperature of the backward pass of `paint_soft`.
        through: Whether gradient flows through the codes of the last step of `paint_soft` alone, or of all steps.

    Examples:
        >>> model = PocketUnified(steps=4)
        >>> painted = model.paint(["a photo of a red clock"], [0])
        >>> len(model.answer(painted.tokens, ["what is the main item"]))
        1
    """

    def __init__(
        self,
        model: PocketTokens | None = None,
        *,
        steps: int = 8,
        guidance: float = 1.0,
        tau: float = 1.0,
        through: Literal["last", "all"] = "all",
    ) -> None:
        if model is None:
            from geneval_reward.pocket import load_tokens

            model = load_tokens()
        self.model = model
        self.steps, self.guidance, self.tau, self.through = steps, guidance, tau, through

    @property
    def network(self) -> nn.Module:
        """The transformer."""
        return self.model.transformer

    def ask(self, spec: PromptSpec) -> QA:
        """Make the question of the record's task; see `geneval_reward.pocket.questions.qa_of`."""
        return qa_of(spec)

    def paint(self, prompts: Sequence[str], seeds: Sequence[int]) -> Painted:
        """Paint by masked decoding."""
        found = self.model.paint(prompts, _generators(seeds), steps=self.steps, guidance=self.guidance)
        return Painted(found.codes, found.commits, found.log_probs)

    def token_log_probs(self, prompts: Sequence[str], painted: Painted) -> Iterator[tuple[Tensor, Tensor]]:
        """Rebuild what each step saw; yields one step at a time, so that only its graph is in memory."""
        text = self.model.read(prompts)
        states = Painting(painted.tokens, painted.commits, painted.log_probs)
        for step in range(1, int(painted.commits.max()) + 1):
            logits = self.model.logits(text, states.seen(step), self.guidance)
            yield categorical_log_prob(logits, painted.tokens), painted.commits == step

    def images(self, tokens: Tensor) -> list[Tensor]:
        """Draw codes as uint8 images `(3, 256, 256)`."""
        return [torch.from_numpy(picture).permute(2, 0, 1) for picture in draw(tokens)]

    def answer(self, tokens: Tensor, questions: Sequence[str], seeds: Sequence[int] | None = None) -> list[str]:
        """Answer from the codes alone."""
        return self.model.answer(tokens, questions, None if seeds is None else _generators(seeds))

    def answer_log_probs(
        self, tokens: Tensor, questions: Sequence[str], answers: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """Compute log-probabilities of answers, word by word."""
        logits, words = self.model.answer_logits(tokens, questions, answers)
        return categorical_log_prob(logits, words), words != PAD

    def paint_soft(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """Paint as straight-through one-hot vectors `(n, 18, 128)`."""
        return self.model.paint_soft(
            prompts,
            _generators(seeds),
            steps=self.steps,
            guidance=self.guidance,
            tau=self.tau,
            through=self.through,
        )


class AnswerReward:
    """The graded reward of UniRL as a `Reward` whose images are pairs of a question and an answer.

    It is the share of the question's parts that the answer gets right.

    Attributes:
        counts: Number of empty answers, and of answers in which nothing could be read; both count as wrong.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def submit(self, answered: Sequence[tuple[QA, str]], specs: Sequence[PromptSpec], /) -> Future[RewardBatch]:
        """Grade answers.

        Raises:
            UsageError: If a question has no parts, since no answer to it can be graded.
        """
        rewards: list[float | None] = []
        for (qa, answer), spec in zip(answered, specs, strict=True):
            if not qa.parts:
                raise UsageError(
                    f"prompts: expected records whose questions have parts to grade, got none for {spec.prompt!r}"
                )
            grade = grade_answer(qa, answer)
            self.counts["empty_answers"] += not answer.strip()
            self.counts["unparsed_answers"] += not grade.parsed
            rewards.append(grade.mean)
        future: Future[RewardBatch] = Future()
        future.set_result(RewardBatch(rewards, [None] * len(specs), [None] * len(specs)))
        return future

    def close(self) -> None:
        """Do nothing: there is no worker."""


def _generators(seeds: Sequence[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]
