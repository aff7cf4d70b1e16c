"""`VQAScorer`: a scorer that asks an image-text model the questions of a record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from geneval_reward.errors import GenEvalError, ScoringError, UsageError
from geneval_reward.judge import Rules, Verdict
from geneval_reward.judges.questions import Question, questions_of
from geneval_reward.judges.verdict import Answered, AnsweredVerdict, Mean
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.prompts.suite import Prompt, resolve_all
from geneval_reward.version import __version__
from geneval_reward.vision.images import as_images

ONE_WORD = "{} Answer in one word."
"""How a question is put, so that the first token of the answer is the answer."""
WHOLE = 'Does this image show "{}"?'
"""VQAScore's question about a whole prompt, in our wording."""


class ImageTextModel(Protocol):
    """An image-text model: `geneval_reward.judges.LocalModel`, `geneval_reward.judges.ServerModel` or your own class."""

    def probabilities(
        self, image: torch.Tensor, questions: Sequence[str], choices: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Ask all questions about one image.

        Args:
            image: `(3, h, w)` uint8.
            questions: Texts.
            choices: For each question, the words that the answer is chosen from.

        Returns:
            For each question, the probability of each choice among all tokens, each in [0, 1].
        """
        ...

    def write(self, requests: Sequence[tuple[Sequence[torch.Tensor], str]], system: str = "") -> list[str]:
        """Answer requests, each made of images and a text after them, in free text and without sampling."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """Return what determines the answers, JSON-serialisable."""
        ...

    def to(self, device: torch.device | str) -> Any:
        """Move the weights if they are in this process."""
        ...


class VQAScorer:
    """Judges images by asking an image-text model the questions of their records.

    Args:
        model: A `LocalModel`, a `ServerModel`, or what `open_model` takes: a folder or hub name, or a server's address.
        mean: The mean that the credit `dense` uses for Soft-TIFA.
        whole: Whether to ask about the whole prompt as well, for the credit `vqascore`.
        **options: Arguments of `open_model`, such as `device`; only if `model` is a string.

    Examples:
        >>> scorer = VQAScorer("Qwen/Qwen2.5-VL-7B-Instruct", device="cuda", precision="bf16")  # doctest: +SKIP
        >>> scorer.score([image], ["a photo of a bench"])[0].credit("soft_tifa_gm")  # doctest: +SKIP
        0.93
    """

    name = "vqa"
    batch_size = 8

    def __init__(
        self, model: ImageTextModel | str, *, mean: Mean = "arithmetic", whole: bool = True, **options: Any
    ) -> None:
        if mean not in ("arithmetic", "geometric"):
            raise UsageError(f"mean: expected 'arithmetic' or 'geometric', got {mean!r}")
        if options and not isinstance(model, str):
            raise UsageError(f"{next(iter(options))}: expected no options beside a ready model; give them to the model")
        if isinstance(model, str):
            from geneval_reward.judges.load import open_model

            model = open_model(model, **options)
        self.model, self.mean, self.whole = model, mean, whole
        self.rules = Rules()

    def score(self, images: Any, specs: Sequence[Prompt]) -> list[Verdict]:
        """Judge images; the arguments are those of `Scorer.score`.

        Returns:
            One `AnsweredVerdict` per image, in order.

        Raises:
            ScoringError: If some images could not be judged, for example because an answer is none of the choices.
        """
        tensors, parsed = as_images(images), resolve_all(specs)
        if len(tensors) != len(parsed):
            raise UsageError(f"specs: expected {len(tensors)}, one per image, got {len(parsed)}")
        verdicts: list[AnsweredVerdict | None] = []
        errors: list[Exception | None] = []
        for image, spec in zip(tensors, parsed, strict=True):
            try:
                verdicts.append(self._judge(image, spec))
                errors.append(None)
            except GenEvalError as error:
                verdicts.append(None)
                errors.append(error)
        if any(errors):
            raise ScoringError(verdicts, errors)
        return [verdict for verdict in verdicts if verdict is not None]

    def fingerprint(self) -> dict[str, Any]:
        """Return what determines the answers (model, wording, versions), JSON-serialisable."""
        return {
            "backend": self.name,
            "model": self.model.fingerprint(),
            "questions": [ONE_WORD, WHOLE],
            "mean": self.mean,
            "geneval_reward": __version__,
        }

    def to(self, device: torch.device | str) -> VQAScorer:
        """Move the weights if they are in this process; return the scorer."""
        self.model.to(device)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> VQAScorer:
        return self

    def __repr__(self) -> str:
        return f"VQAScorer({self.model!r})"

    def _judge(self, image: torch.Tensor, spec: PromptSpec) -> AnsweredVerdict:
        asked = list(questions_of(spec))
        asked += [Question(WHOLE.format(spec.prompt), "yes", "count", 0)] if self.whole else []
        answers = ask(self.model, image, asked)
        whole = answers.pop() if self.whole else None
        size = (image.shape[2], image.shape[1])
        return AnsweredVerdict.of(spec, answers, whole, size, mean=self.mean, rules=self.rules)


def ask(model: ImageTextModel, image: torch.Tensor, questions: Sequence[Question]) -> list[Answered]:
    """Ask a model questions about one image.

    Raises:
        UsageError: If the answer to a question is none of its choices.
    """
    texts = [ONE_WORD.format(one.text) for one in questions]
    found = model.probabilities(image, texts, [one.choices for one in questions])
    return [Answered.of(one, values) for one, values in zip(questions, found, strict=True)]
