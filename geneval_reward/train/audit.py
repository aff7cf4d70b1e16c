"""A guard against reward hacking: a second judge, which gives no rewards, scores the same images.

The second judge should be another detector (`nanodet` is in the package). A policy that learns to draw scenes satisfies
both judges. One that exploits the weaknesses of the rewarding judge satisfies only that judge: the gap between the scores
grows, and the second judge confirms fewer of the images that the first one passes. If there is no other detector, the same
one can judge mirrored and rescaled images, which reveals less.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.nn import functional as F

from geneval_reward.callback.base import refuse_untested, wrapped
from geneval_reward.errors import UsageError
from geneval_reward.generate.seeds import seed_for
from geneval_reward.judge import Verdict
from geneval_reward.prompts import CLASS_IDS, PromptSpec
from geneval_reward.prompts.pairs import mirrored
from geneval_reward.scorer import GenEvalScorer, Scorer
from geneval_reward.support.ranks import gather, raise_together
from geneval_reward.support.shards import call_through_root, holds_shards
from geneval_reward.train.data import read_training_prompts
from geneval_reward.vision.images import as_images


@dataclass(frozen=True)
class AuditReport:
    """How the second judge's scores compare with the first one's.

    Attributes:
        score: Share of images that the first judge passes.
        audit: Mean over images of the share of views that the second judge passes.
        confirmed: The same mean over the images that the first judge passes; NaN if there are none. Unlike the gap, it does
            not change with the score if the second judge misses a fixed share of good images.
        brightness: Mean of all pixels, in [0, 1]; a steady rise is the usual drift of RL on flow models.
        diversity: Mean distance between two images of one prompt (root mean square over pixels of 16 x 16 thumbnails, in
            [0, 1]); NaN if no prompt has two. Near 0, the policy draws one picture per prompt.
        views: Names of the views.
        images: How many images were judged.
    """

    score: float
    audit: float
    confirmed: float
    brightness: float
    diversity: float
    views: tuple[str, ...]
    images: int

    @property
    def gap(self) -> float:
        """The first judge's score minus the second one's."""
        return self.score - self.audit

    def log_dict(self) -> dict[str, float]:
        """The numbers by the names they are logged under."""
        return {
            "geneval/audit_gap": self.gap,
            "geneval/audit": self.audit,
            "geneval/audit_confirmed": self.confirmed,
            "geneval/audited_score": self.score,
            "geneval/brightness": self.brightness,
            "geneval/diversity": self.diversity,
        }


def audit(
    images: Any,
    specs: Sequence[PromptSpec],
    verdicts: Sequence[Verdict],
    judge: Scorer,
    *,
    scales: Sequence[float] = (0.75,),
    flip: bool = True,
) -> AuditReport:
    """Have a second judge score images that a first one has judged.

    Args:
        images: What `GenEvalScorer.score` takes.
        specs: One per image.
        verdicts: The first judge's verdicts, one per image.
        judge: The second judge.
        scales: Show the images at these sizes; 1 shows them as they are, which is enough for another detector.
        flip: Show them mirrored as well.

    Returns:
        An `AuditReport`.

    Raises:
        UsageError: If the lengths differ, or there is no view.
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
        if scale == 1:
            views["as they are"] = tensors, list(specs)
        else:
            views[f"scaled {scale:g}"] = [_rescaled(image, scale) for image in tensors], list(specs)
    if not views or not tensors:
        raise UsageError("expected at least one image and one view (flip or scales), got none")
    right = torch.zeros(len(tensors), dtype=torch.float64)
    for shown, asked in views.values():
        right += torch.tensor([float(verdict.correct) for verdict in judge.score(shown, asked)], dtype=torch.float64)
    right /= len(views)
    passed = torch.tensor([verdict.correct for verdict in verdicts])
    small = torch.stack([F.adaptive_avg_pool2d(image.float() / 255, 16) for image in tensors])
    return AuditReport(
        score=float(passed.double().mean()),
        audit=float(right.mean()),
        confirmed=float(right[passed].mean()) if passed.any() else math.nan,
        brightness=float(small.mean()),
        diversity=_diversity(small, [spec.prompt for spec in specs]),
        views=tuple(views),
        images=len(tensors),
    )


def audit_policy(
    module: Any,
    judge: Scorer,
    second: Scorer,
    specs: Sequence[PromptSpec],
    images_per_prompt: int = 2,
    *,
    seed: int = 0,
    batch_size: int = 16,
) -> AuditReport:
    """Sample with a module's `generate` and have both judges score the images.

    A different judge sees the images unchanged. If `second` is `judge`, it sees them mirrored and at 3/4 of their size;
    otherwise it would only repeat itself.

    Args:
        module: An object with `generate(prompts, seeds) -> images`, such as a recipe.
        judge: The first judge, which gives the rewards.
        second: The second judge.
        specs: What the prompts ask for.
        images_per_prompt: At least 2, so that diversity can be measured.
        seed: Seed of the images' noise; the same seed gives the same noise every time.
        batch_size: Images per call of `generate`.

    Returns:
        An `AuditReport`.
    """
    asked, images = _sample(module.generate, specs, images_per_prompt, seed, batch_size)
    return _compare(images, asked, judge, second)


def _sample(
    generate: Callable[[list[str], list[int]], Any],
    specs: Sequence[PromptSpec],
    images_per_prompt: int,
    seed: int,
    batch_size: int = 16,
) -> tuple[list[PromptSpec], list[Tensor]]:
    asked = [spec for spec in specs for _ in range(images_per_prompt)]
    seeds = [seed_for(seed, spec.prompt, n) for spec in specs for n in range(images_per_prompt)]
    images: list[Tensor] = []
    for start in range(0, len(asked), batch_size):
        part = slice(start, start + batch_size)
        images += [image.cpu() for image in generate([s.prompt for s in asked[part]], seeds[part])]
    return asked, images


def _compare(images: list[Tensor], asked: Sequence[PromptSpec], judge: Scorer, second: Scorer) -> AuditReport:
    same = second is judge
    return audit(images, asked, judge.score(images, asked), second, scales=(0.75,) if same else (1.0,), flip=same)


def leave_out_classes(specs: Sequence[PromptSpec], classes: Sequence[str]) -> list[PromptSpec]:
    """Drop the specs that name any of the given classes, for a judge that cannot detect them.

    Raises:
        UsageError: If a class is unknown, or nothing is left.
    """
    unknown = [name for name in classes if name not in CLASS_IDS]
    if unknown:
        raise UsageError(f"leave_out: expected class names such as 'teddy bear', got {', '.join(map(repr, unknown))}")
    left = [spec for spec in specs if not set(spec.class_names) & set(classes)]
    if not left:
        raise UsageError(f"leave_out: expected prompts without {', '.join(classes)}, got none; leave out fewer classes")
    return left


class AuditCallback(Callback):
    """Samples with the module's `generate`, judges the images twice and logs `geneval/audit_gap` and related numbers.

    Logged Metrics:
        The keys of `AuditReport.log_dict`, every `every_n_epochs` epochs.

    Args:
        judge: The first judge, which gives the rewards: a scorer or the name of a backend.
        second: The second judge: a scorer or the name of a backend, preferably another detector; None uses the first one
            on mirrored and rescaled images.
        prompts: What `geneval_reward.train.PromptGroups` takes; at most 64 are used.
        leave_out: Classes that the second judge cannot detect in these images; prompts that name one are left out.
        images_per_prompt: At least 2, so that diversity can be measured.
        every_n_epochs: Epochs between audits.
        seed: Seed of the images' noise.

    Raises:
        UsageError: If a number is out of range, a class is unknown, or no prompt is left.
    """

    scores_with_geneval = True  # run after all weight updates and before callbacks that read the numbers

    def __init__(
        self,
        judge: Any = "lite",
        second: Any = "nanodet",
        *,
        prompts: Any = 12,
        leave_out: Sequence[str] = (),
        images_per_prompt: int = 2,
        every_n_epochs: int = 10,
        seed: int = 0,
    ) -> None:
        if images_per_prompt < 2 or every_n_epochs < 1:
            raise UsageError(
                f"expected images_per_prompt >= 2 and every_n_epochs >= 1, got {images_per_prompt} and {every_n_epochs}"
            )
        if isinstance(second, str) and second == judge:
            raise UsageError(
                f"second: expected another backend than judge, got {second!r} for both; None for other views"
            )
        self.judge, self.second = judge, second
        self.specs = leave_out_classes(read_training_prompts(prompts, seed), leave_out)[:64]
        self.images_per_prompt, self.every_n_epochs, self.seed = images_per_prompt, every_n_epochs, seed
        self.reports: list[AuditReport] = []

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse strategies on which sampling was never tested, and load judges given by name."""
        refuse_untested(trainer.strategy)
        if isinstance(self.judge, str):
            self.judge = GenEvalScorer.from_pretrained(self.judge, device=trainer.strategy.root_device)
        if isinstance(self.second, str):
            self.second = GenEvalScorer.from_pretrained(self.second, device=trainer.strategy.root_device)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Audit on the first process; the others wait, or sample along where the weights are spread over ranks."""
        if (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        root = wrapped(trainer, pl_module)
        report, error = None, None
        # Errors of sampling with sharded weights are raised at once: other ranks may be waiting for a share, not a report.
        sampled = self._sample(root[0], pl_module) if holds_shards(root) else None
        try:
            if trainer.is_global_zero:
                asked, images = sampled or self._sample(root[0], pl_module)
                report = _compare(images, asked, self.judge, self.second or self.judge)
        except Exception as caught:  # noqa: BLE001  shared with all ranks before it is raised
            error = caught
        raise_together(error, "AuditCallback")
        report = gather(report)[0]
        assert report is not None
        self.reports.append(report)
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in report.log_dict().items()})
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.log_metrics(report.log_dict(), step=trainer.global_step)

    def _sample(self, root: nn.Module, pl_module: Any) -> tuple[list[PromptSpec], list[Tensor]]:
        generate = partial(call_through_root, root, pl_module, pl_module.generate)
        return _sample(generate, self.specs, self.images_per_prompt, self.seed)


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
