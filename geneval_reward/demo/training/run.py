"""Train the pocket model on the packaged detector's rewards, and measure it before and after.

The same prompts with the same noise are sampled before and after. They are the pocket suite, whose compositions are held
out of the training prompts. A second judge, which gives no rewards, audits the run.
"""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from geneval_reward.callback import GenEvalCallback
from geneval_reward.demo.training.clock import Clock, Progress
from geneval_reward.demo.training.measure import SEED, Measured, measure
from geneval_reward.demo.training.nft import for_pocket
from geneval_reward.demo.training.settings import LAUNCH_LINES, Method, Settings, check_method, settings_for
from geneval_reward.errors import UsageError
from geneval_reward.judge import Verdict
from geneval_reward.pocket.prompts import pocket_suite
from geneval_reward.prompts import PromptSpec
from geneval_reward.reward import GenEvalReward
from geneval_reward.scorer import GenEvalScorer
from geneval_reward.stats import PairedComparison, ScoreIntervals, compare_paired
from geneval_reward.train import FlowPolicy, PromptGroups, load_recipe
from geneval_reward.train.audit import AuditCallback, AuditReport, audit_policy, leave_out_classes
from geneval_reward.train.cli import EpochCheckpoint
from geneval_reward.vision.detectors.lite import LiteDetector


@dataclass(frozen=True)
class Pair:
    """One held-out prompt with one noise seed, before and after training.

    Attributes:
        spec: What was asked for.
        seed: Seed of the noise.
        before: uint8 (h, w, 3).
        after: uint8 (h, w, 3).
        verdict_before: Verdict on the image before training.
        verdict_after: Verdict on the image after training.
    """

    spec: PromptSpec
    seed: int
    before: npt.NDArray[np.uint8]
    after: npt.NDArray[np.uint8]
    verdict_before: Verdict
    verdict_after: Verdict


@dataclass(frozen=True)
class TrainingDemo:
    """The result of a demo run.

    Attributes:
        method: `nft` or `flow-grpo`.
        settings: What it was trained with.
        curve: One entry per epoch.
        before: Scores on the held-out prompts, with intervals clustered by prompt.
        after: The same after training.
        difference: After minus before, paired by prompt and noise.
        pairs: Every held-out image.
        audit_before: Audit of the untrained model by the second judge.
        audit_after: Audit of the trained model.
        seed: Seed of the prompts and the noise in training.
        images_trained: Images sampled for training.
        train_seconds: Wall time of training.
        total_seconds: Wall time of the whole demo.
        launch_line: Command that runs the same method on Stable Diffusion 3.5.
    """

    method: Method
    settings: Settings
    curve: list[Progress]
    before: ScoreIntervals
    after: ScoreIntervals
    difference: PairedComparison
    pairs: list[Pair]
    audit_before: AuditReport
    audit_after: AuditReport
    seed: int
    images_trained: int
    train_seconds: float
    total_seconds: float
    launch_line: str


def train_pocket(
    method: Method = "nft",
    *,
    quick: bool = False,
    settings: Settings | None = None,
    seed: int = 0,
    out: Path | None = None,
    scorer: GenEvalScorer | None = None,
    second: GenEvalScorer | None = None,
    pipeline: Any = "pocket",
    progress: Callable[[Progress], None] | None = None,
) -> TrainingDemo:
    """Measure the model, train it, and measure it again.

    Args:
        method: `nft` (DiffusionNFT) or `flow-grpo`.
        quick: Take two minutes instead of ten.
        settings: Settings to use in place of those that `quick` chooses.
        seed: Seed of the prompts and the noise in training; held-out images always have the same noise.
        out: Folder for Lightning's CSV log, the last checkpoint and the callback's pictures; None keeps nothing.
        scorer: The judge; the `lite` backend if None.
        second: The audit's judge; the `nanodet` backend if None.
        pipeline: The pipeline to train.
        progress: Called after each measurement and each epoch; an exception in it ends the run.

    Returns:
        A `TrainingDemo`.

    Raises:
        ValueError: If the method is unknown or the minutes are not above 0.
    """
    chosen = settings or settings_for(method, quick=quick)
    check_method(method)
    if not chosen.minutes > 0:
        raise UsageError(f"settings.minutes: expected a number > 0, got {chosen.minutes}")
    tell = progress or (lambda _: None)
    begun = time.monotonic()
    scorer = scorer or GenEvalScorer.from_pretrained("lite", device="cpu")
    second = second or GenEvalScorer.from_pretrained("nanodet", device="cpu")
    if method == "nft":
        kind = for_pocket(load_recipe("diffusion_nft").DiffusionNFT, chosen.guided_epochs)
    else:
        kind = load_recipe("flow_grpo").FlowGRPO
    module = kind(FlowPolicy(pipeline), reward=GenEvalReward(in_bf16(scorer)), **chosen.module)
    suite = pocket_suite()
    looked_at = suite[:: max(1, len(suite) // 48)]  # some from every task
    audited = leave_out_classes(looked_at, chosen.not_audited)[::2]
    before = measure(module, scorer, suite, chosen.images_per_prompt)
    audit_before = audit_policy(module, scorer, second, audited, seed=SEED)
    reserve = time.monotonic() - begun
    score_before = before.scores()
    tell(Progress("before", min(reserve / (60 * chosen.minutes), 1.0), reserve, held_out=score_before.overall.value))
    clock = Clock(begun, 60 * chosen.minutes, 1.3 * reserve, chosen.check_every, chosen.audit_every, tell)
    with _quiet(), tempfile.TemporaryDirectory() as unwanted:
        root = out or Path(unwanted)
        _trainer(chosen, root, scorer, second, looked_at, audited, clock, keep=out is not None).fit(
            module,
            PromptGroups("pocket", chosen.groups, chosen.group_size, chosen.groups * chosen.group_size // 2, 42 + seed),
        )
    trained = time.monotonic() - begun - reserve
    after = measure(module, scorer, suite, chosen.images_per_prompt)
    audit_after = audit_policy(module, scorer, second, audited, seed=SEED)
    total = time.monotonic() - begun
    result = TrainingDemo(
        method=method,
        settings=chosen,
        curve=clock.curve,
        before=score_before,
        after=after.scores(),
        difference=compare_paired(
            before.correct, after.correct, [s.prompt for s in before.specs], [s.tag for s in before.specs]
        ),
        pairs=_pairs(before, after),
        audit_before=audit_before,
        audit_after=audit_after,
        seed=seed,
        images_trained=module.images_sampled,
        train_seconds=trained,
        total_seconds=total,
        launch_line=LAUNCH_LINES[method],
    )
    last = clock.curve[-1]
    tell(
        Progress(
            "after",
            1.0,
            total,
            last.epoch,
            last.images,
            last.reward,
            result.after.overall.value,
            audit_after.gap,
            last.metrics,
        )
    )
    return result


def in_bf16(scorer: GenEvalScorer) -> GenEvalScorer:
    """Return the same judge in bfloat16 if it is `lite` on a CPU that supports it, which halves its time; else the judge itself.

    It is used for rewards, never for reported scores.
    """
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    fast = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    if not (fast and isinstance(scorer.detector, LiteDetector) and scorer.detector.device.type == "cpu"):
        return scorer
    detector = LiteDetector.from_pretrained(precision="bf16")
    return GenEvalScorer(detector, scorer.verifier, rules=scorer.rules, name=scorer.name)


def _trainer(
    settings: Settings,
    root: Path,
    judge: GenEvalScorer,
    second: GenEvalScorer,
    looked_at: Any,
    audited: Any,
    clock: Clock,
    *,
    keep: bool,
) -> Any:
    from lightning.pytorch import Trainer
    from lightning.pytorch.loggers import CSVLogger

    callbacks: list[Any] = []
    if settings.check_every:
        callbacks.append(
            GenEvalCallback(judge, list(looked_at), every_n_epochs=settings.check_every, seed=SEED, batch_size=48)
        )
    if settings.audit_every:
        callbacks.append(
            AuditCallback(judge, second, prompts=list(audited), every_n_epochs=settings.audit_every, seed=SEED)
        )
    callbacks.append(clock)
    if keep:
        callbacks.append(EpochCheckpoint(str(root)))
    return Trainer(
        max_epochs=-1,
        accelerator="cpu",
        devices=1,
        logger=CSVLogger(root, name="log"),
        callbacks=callbacks,
        enable_checkpointing=keep,
        default_root_dir=root,
        use_distributed_sampler=False,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _pairs(before: Measured, after: Measured) -> list[Pair]:
    return [
        Pair(*row)
        for row in zip(
            before.specs, before.seeds, before.images, after.images, before.verdicts, after.verdicts, strict=True
        )
    ]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's hints about hardware and services."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            warnings.filterwarnings("ignore", message="all .* images of a call are wrong")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
