"""A judge of a unified model's answers: does the reader say what the picture shows, or what the prompt asked for?

A model that rewards itself can raise its own score in two ways: by better pictures, or by a reader that says what was asked
for whatever the picture shows. A judge that is not the model tells them apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback

from geneval_reward.errors import UsageError
from geneval_reward.generate.seeds import seed_for
from geneval_reward.judges.answers import grade_answer
from geneval_reward.prompts import PromptSpec
from geneval_reward.prompts.read import Prompts
from geneval_reward.scorer import GenEvalScorer
from geneval_reward.stats import Interval, wilson
from geneval_reward.train.data import read_training_prompts
from geneval_reward.train.sharding import refuse_sharded
from geneval_reward.train.unified import UnifiedModel


@dataclass(frozen=True)
class Agreement:
    """How often a reader and a judge agree about pictures.

    Attributes:
        both: Pictures that the judge calls right and whose question the reader answers as the prompt expects.
        judge_only: Right for the judge, another answer by the reader.
        reader_only: Wrong for the judge, the expected answer by the reader.
        neither: Wrong for the judge, another answer by the reader.
        unparsed: Answers in which nothing could be read; they count as other answers.
    """

    both: int
    judge_only: int
    reader_only: int
    neither: int
    unparsed: int = 0

    @classmethod
    def count(cls, said: Sequence[bool], judged: Sequence[bool], unparsed: int = 0) -> Agreement:
        """Count pictures from whether the reader said that they are right, and whether the judge did."""
        pairs = list(zip(said, judged, strict=True))
        return cls(
            both=pairs.count((True, True)),
            judge_only=pairs.count((False, True)),
            reader_only=pairs.count((True, False)),
            neither=pairs.count((False, False)),
            unparsed=unparsed,
        )

    @property
    def missed(self) -> float:
        """P(another answer | the judge says right): UniRL's imbalance from painting to understanding; NaN without any."""
        return self.judge_only / max(self.both + self.judge_only, 1) if self.both + self.judge_only else math.nan

    @property
    def flattered(self) -> float:
        """P(the expected answer | the judge says wrong): a rise while training means collusion; NaN without any."""
        wrong = self.reader_only + self.neither
        return self.reader_only / wrong if wrong else math.nan

    def intervals(self) -> dict[str, Interval]:
        """Wilson's intervals of `missed` and `flattered`, for pictures of different prompts."""
        found = {}
        for name, part, whole in (
            ("missed", self.judge_only, self.both + self.judge_only),
            ("flattered", self.reader_only, self.reader_only + self.neither),
        ):
            found[name] = wilson(part, whole) if whole else Interval(math.nan, math.nan, 0.95, "none")
        return found

    def log_dict(self) -> dict[str, float]:
        """The numbers under the names that they are logged by."""
        images = self.both + self.judge_only + self.reader_only + self.neither
        return {
            "reader/missed": self.missed,
            "reader/flattered": self.flattered,
            "reader/says_right": (self.both + self.reader_only) / max(images, 1),
            "reader/judged_right": (self.both + self.judge_only) / max(images, 1),
            "reader/unparsed": float(self.unparsed),
        }


@torch.no_grad()
def audit_reader(
    model: UnifiedModel,
    judge: Any,
    specs: Sequence[PromptSpec],
    *,
    images_per_prompt: int = 1,
    seed: int = 0,
    batch_size: int = 64,
) -> Agreement:
    """Paint, have the model answer about its pictures, and have a judge look at the same pictures.

    Args:
        model: The model; an answer is right if it earns every part of the question.
        judge: A scorer.
        specs: Prompts, preferably not those of training.
        images_per_prompt: >= 1.
        seed: Seed of the pictures; the same seed gives the same noise every time.
        batch_size: Pictures at once.
    """
    asked = [spec for spec in specs for _ in range(images_per_prompt)]
    seeds = [seed_for(seed, spec.prompt, index) for spec in specs for index in range(images_per_prompt)]
    said, judged, unparsed = list[bool](), list[bool](), 0
    for start in range(0, len(asked), batch_size):
        part, rows = asked[start : start + batch_size], seeds[start : start + batch_size]
        tokens = model.paint([spec.prompt for spec in part], rows).tokens
        qas = [model.ask(spec) for spec in part]
        answers = model.answer(tokens, [qa.question for qa in qas])
        grades = [grade_answer(qa, answer) for qa, answer in zip(qas, answers, strict=True)]
        said += [grade.mean == 1 for grade in grades]
        unparsed += sum(not grade.parsed for grade in grades)
        judged += [verdict.correct for verdict in judge.score(model.images(tokens), part)]
    return Agreement.count(said, judged, unparsed)


class ReaderAudit(Callback):
    """Logs how far the answers of a recipe's `unified` model agree with a judge's verdicts.

    Logged Metrics:
        The keys of `Agreement.log_dict`, before training and every `every_n_epochs` epochs.

    Args:
        judge: A scorer or the name of a backend.
        prompts: What `geneval_reward.train.PromptGroups` takes; at most 256 are used.
        images_per_prompt: >= 1.
        every_n_epochs: Epochs between audits.
        seed: Seed of the pictures.

    Raises:
        UsageError: If a number is out of range.
    """

    scores_with_geneval = True  # run after all weight updates and before callbacks that read the numbers

    def __init__(
        self,
        judge: Any = "lite",
        *,
        prompts: Prompts = 60,
        images_per_prompt: int = 1,
        every_n_epochs: int = 10,
        seed: int = 0,
    ) -> None:
        if images_per_prompt < 1 or every_n_epochs < 1:
            raise UsageError(
                f"expected images_per_prompt and every_n_epochs >= 1, got {images_per_prompt} and {every_n_epochs}"
            )
        self.judge = judge
        self.specs = read_training_prompts(prompts, seed)[:256]
        self.images_per_prompt, self.every_n_epochs, self.seed = images_per_prompt, every_n_epochs, seed
        self.reports: list[Agreement] = []

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse strategies under which one process cannot paint alone, and load a judge given by name."""
        refuse_sharded(trainer)
        if isinstance(self.judge, str):
            self.judge = GenEvalScorer.from_pretrained(self.judge, device=trainer.strategy.root_device)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Audit the untrained model, unless the run goes on from a checkpoint."""
        if trainer.current_epoch == 0:
            self._audit(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Audit at the end of every so-many-th epoch."""
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._audit(trainer, pl_module)

    def _audit(self, trainer: Any, pl_module: Any) -> None:
        """Audit on the first process only; the others wait at the first gather of the next epoch."""
        if not trainer.is_global_zero:
            return
        report = audit_reader(
            pl_module.unified, self.judge, self.specs, images_per_prompt=self.images_per_prompt, seed=self.seed
        )
        self.reports.append(report)
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in report.log_dict().items()})
        for logger in trainer.loggers:
            logger.log_metrics(report.log_dict(), step=trainer.global_step)
