"""A guard against reward hacking: a second judge that the policy is not trained on looks at the same images.

It sees other views (mirrored, rescaled) through the same or, better, another detector with its own rules. A policy that learns
scenes satisfies both; one that learns the judge's weak spots satisfies the first alone, and the gap grows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from lightning.pytorch import Callback
from torch import Tensor
from torch.nn import functional as F

from geneval_reward.callback.base import refuse_sharded
from geneval_reward.errors import UsageError
from geneval_reward.generate.seeds import seed_for
from geneval_reward.judge import Verdict
from geneval_reward.prompts import PromptSpec
from geneval_reward.scorer import GenEvalScorer
from geneval_reward.train.data import read_training_prompts
from geneval_reward.vision.images import as_images

_MIRRORED: Final = {"left of": "right of", "right of": "left of"}


@dataclass(frozen=True)
class AuditReport:
    """What the second judge says.

    Attributes:
        score: Share of images that the first judge finds right.
        audit: Mean over images of the share of views in which the second finds them right.
        brightness: Mean of all pixels, in [0, 1]; a steady rise is the usual drift of RL on flow models.
        diversity: Mean distance between two images of one prompt (root mean square over pixels of 16 x 16 thumbnails, in
            [0, 1]); NaN if no prompt has two. Near 0, the policy draws one picture a prompt.
        views: Names of the views.
        images: How many were judged.
    """

    score: float
    audit: float
    brightness: float
    diversity: float
    views: tuple[str, ...]
    images: int

    @property
    def gap(self) -> float:
        """How much better the first judge thinks of the images than the second does."""
        return self.score - self.audit

    def log_dict(self) -> dict[str, float]:
        """Under the names that are logged."""
        return {
            "geneval/audit_gap": self.gap,
            "geneval/audit": self.audit,
            "geneval/audited_score": self.score,
            "geneval/brightness": self.brightness,
            "geneval/diversity": self.diversity,
        }


def mirrored(spec: PromptSpec) -> PromptSpec:
    """What a record asks of the mirrored image: left and right exchanged.

    Example:
        >>> mirrored(PromptSpec.parse({"tag": "position", "include": [{"class": "cup", "count": 1},
        ...     {"class": "cow", "count": 1, "position": ["left of", 0]}]})).prompt
        'a photo of a cow right of a cup'
    """
    found = spec.to_record()
    found.pop("prompt", None)
    for clause in found["include"]:
        if "position" in clause:
            place = clause["position"]
            pairs = [place] if isinstance(place[0], str) else place
            turned = [[_MIRRORED.get(relation, relation), target] for relation, target in pairs]
            clause["position"] = turned[0] if isinstance(place[0], str) else turned
    return PromptSpec.parse(found)


def audit(
    images: Any,
    specs: Sequence[PromptSpec],
    verdicts: Sequence[Verdict],
    judge: GenEvalScorer,
    *,
    scales: Sequence[float] = (0.75,),
    flip: bool = True,
) -> AuditReport:
    """Let a second judge look at images that a first has judged.

    Args:
        images: What `GenEvalScorer.score` takes.
        specs: One an image.
        verdicts: The first judge's.
        judge: The second. The same detector on other views finds out less than another detector does.
        scales: The images are also shown at these sizes.
        flip: And mirrored.

    Returns:
        An `AuditReport`.

    Raises:
        ValueError: If the lengths differ, or there is no view.
    """
    tensors = as_images(images)
    if not len(tensors) == len(specs) == len(verdicts):
        raise UsageError(
            f"expected as many images as specs and verdicts, got {len(tensors)}, {len(specs)}, {len(verdicts)}"
        )
    views: dict[str, tuple[list[Tensor], list[PromptSpec]]] = {}
    if flip:
        views["mirrored"] = [image.flip(2) for image in tensors], [mirrored(spec) for spec in specs]
    for scale in scales:
        views[f"scaled {scale:g}"] = [_rescaled(image, scale) for image in tensors], list(specs)
    if not views or not tensors:
        raise UsageError("expected at least one image and one view (flip or scales), got none")
    right = torch.zeros(len(tensors), dtype=torch.float64)
    for shown, asked in views.values():
        right += torch.tensor([float(verdict.correct) for verdict in judge.score(shown, asked)], dtype=torch.float64)
    small = torch.stack([F.adaptive_avg_pool2d(image.float() / 255, 16) for image in tensors])
    return AuditReport(
        score=sum(verdict.correct for verdict in verdicts) / len(verdicts),
        audit=float(right.mean()) / len(views),
        brightness=float(small.mean()),
        diversity=_diversity(small, [spec.prompt for spec in specs]),
        views=tuple(views),
        images=len(tensors),
    )


def audit_policy(
    module: Any,
    judge: GenEvalScorer,
    second: GenEvalScorer,
    specs: Sequence[PromptSpec],
    images_per_prompt: int = 2,
    *,
    seed: int = 0,
    batch_size: int = 16,
) -> AuditReport:
    """Sample with a module's `generate` and let both judges look.

    Args:
        module: With `generate(prompts, seeds) -> images`, as `geneval_reward.train.FlowRL`.
        judge: The first judge, of the kind that gives the rewards.
        second: The second.
        specs: What is asked.
        images_per_prompt: At least 2, so that diversity can be told.
        seed: Of the images' noise; the same images every time, but for the weights.
        batch_size: Images a call.

    Returns:
        An `AuditReport`.
    """
    asked = [spec for spec in specs for _ in range(images_per_prompt)]
    seeds = [seed_for(seed, spec.prompt, n) for spec in specs for n in range(images_per_prompt)]
    images: list[Tensor] = []
    for start in range(0, len(asked), batch_size):
        part = slice(start, start + batch_size)
        images += [image.cpu() for image in module.generate([s.prompt for s in asked[part]], seeds[part])]
    return audit(images, asked, judge.score(images, asked), second)


class AuditCallback(Callback):
    """Samples with the module's `generate`, judges twice and logs `geneval/audit_gap` and its neighbours.

    Args:
        judge: The first judge, of the kind that gives the rewards: a scorer or the name of a backend.
        second: The second; a scorer, the name of a backend, or None for the first on other views.
        second_rules: Its thresholds, as `Rules.parse` takes them, if it is a name; others than those of the rewards tell more.
        prompts: What `geneval_reward.train.PromptGroups` takes.
        images_per_prompt: At least 2, so that diversity can be told.
        every_n_epochs: How often.
        seed: Of the images' noise.

    Raises:
        ValueError: If a number is out of range.
    """

    scores_with_geneval = True  # after every update of the weights, before what reads the numbers

    def __init__(
        self,
        judge: Any = "lite",
        second: Any = None,
        *,
        second_rules: str | None = None,
        prompts: Any = 12,
        images_per_prompt: int = 2,
        every_n_epochs: int = 10,
        seed: int = 0,
    ) -> None:
        if images_per_prompt < 2 or every_n_epochs < 1:
            raise UsageError(
                f"expected images_per_prompt >= 2 and every_n_epochs >= 1, got {images_per_prompt} and {every_n_epochs}"
            )
        if second_rules is not None and not isinstance(second, str):
            raise UsageError(
                "second_rules: expected None beside a ready scorer or none, got rules; name a backend as second"
            )
        self.judge, self.second, self.second_rules = judge, second, second_rules
        self.specs = read_training_prompts(prompts, seed)[:64]
        self.images_per_prompt, self.every_n_epochs, self.seed = images_per_prompt, every_n_epochs, seed
        self.reports: list[AuditReport] = []

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse strategies under which one process cannot sample alone; load judges that are given by name."""
        refuse_sharded(trainer.strategy)
        if isinstance(self.judge, str):
            self.judge = GenEvalScorer.from_pretrained(self.judge, device=trainer.strategy.root_device)
        if isinstance(self.second, str):
            self.second = GenEvalScorer.from_pretrained(
                self.second, device=trainer.strategy.root_device, rules=self.second_rules
            )

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """On the first process alone; the others go on to the next epoch's first gathering and wait there."""
        if (trainer.current_epoch + 1) % self.every_n_epochs or not trainer.is_global_zero:
            return
        report = audit_policy(
            pl_module, self.judge, self.second or self.judge, self.specs, self.images_per_prompt, seed=self.seed
        )
        self.reports.append(report)
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in report.log_dict().items()})
        for logger in trainer.loggers:
            logger.log_metrics(report.log_dict(), step=trainer.global_step)


def _rescaled(image: Tensor, scale: float) -> Tensor:
    size = [max(1, round(side * scale)) for side in image.shape[1:]]
    shown = F.interpolate(image[None].float(), size=size, mode="bilinear", antialias=True, align_corners=False)[0]
    return shown.round().clamp(0, 255).to(torch.uint8)


def _diversity(small: Tensor, prompts: Sequence[str]) -> float:
    distances = []
    for prompt in dict.fromkeys(prompts):
        rows = small[[index for index, other in enumerate(prompts) if other == prompt]].flatten(1)
        if len(rows) > 1:
            distances.append(float(torch.pdist(rows.double()).mean()) / math.sqrt(rows.shape[1]))
    return sum(distances) / len(distances) if distances else math.nan
