"""Train the packaged pocket model from the packaged detector's rewards, and tell what came of it; `geneval-reward demo` shows it.

The same prompts with the same noise are sampled before and after. They are the pocket suite, whose compositions are held out
of the training prompts. Needs the extras ``lightning`` and ``diffusers``.
"""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from geneval_reward.judge import Verdict
from geneval_reward.prompts import PromptSpec
from geneval_reward.sampling.seeds import seed_for
from geneval_reward.scorer import GenEvalScorer
from geneval_reward.stats import PairedComparison, ScoreIntervals, clustered_bootstrap, compare_paired

Method = Literal["nft", "flow-grpo"]

LAUNCH_LINES = {
    "nft": "python recipes/diffusion_nft.py fit --config configs/nft_sd35_medium_one_gpu.yaml",
    "flow-grpo": "python recipes/flow_grpo.py fit --config configs/flow_grpo_sd35_medium_one_gpu.yaml",
}
"""The same method on Stable Diffusion 3.5 Medium."""


@dataclass(frozen=True)
class Settings:
    """How long and with what a demo trains.

    Attributes:
        minutes: Of wall time in all, both measurements included.
        groups: Prompts an epoch.
        group_size: Images a prompt.
        images_per_prompt: Images of each held-out prompt, before and after.
        check_every: Epochs between looks at a part of the held-out prompts; 0 for none.
        module: Arguments of the LightningModule.
    """

    minutes: float = 10.0
    groups: int = 16
    group_size: int = 12
    images_per_prompt: int = 1
    check_every: int = 8
    module: dict[str, Any] = field(default_factory=dict)


_COMMON: dict[str, Any] = {
    "lora_rank": 0,
    "num_steps": 8,
    "eval_steps": 8,
    "credit": {"official": 1.0, "partial": 1.0},
}
_MODULES: dict[str, dict[str, Any]] = {
    # Pictures are dear, since each is judged, and steps are cheap: four passes over each rollout, two of eight times in each.
    "nft": {
        "learning_rate": 3e-4,
        "passes": 4,
        "timestep_fraction": 0.25,
        "kl_weight": 0.0,
        "old_decay_rate": 0.02,
        "old_decay_max": 0.5,
    },
    "flow-grpo": {
        "learning_rate": 3e-4,
        "passes": 3,
        "timestep_fraction": 0.5,
        "clip_range": 0.2,
        "kl_weight": 0.0,
    },
}


def settings_for(method: Method = "nft", *, quick: bool = False) -> Settings:
    """The demo's settings: ten minutes on two CPU cores, or two with ``quick``.

    Raises:
        ValueError: If the method is unknown.
    """
    if method not in _MODULES:
        raise ValueError(f"method: expected nft or flow-grpo, got {method!r}")
    module = _COMMON | _MODULES[method]
    return Settings(minutes=2.0, check_every=0, module=module) if quick else Settings(module=module)


@dataclass(frozen=True)
class Progress:
    """Where a demo stands; given to its ``progress`` function.

    Attributes:
        stage: ``before``, ``train`` or ``after``.
        fraction: Of the whole time, in [0, 1].
        seconds: Since the beginning.
        epoch: Epochs trained.
        images: Images sampled for training.
        reward: Share of right images in the last epoch's rollout; NaN before the first.
        held_out: Score on held-out prompts at the last look; NaN before the first.
        metrics: All that was logged in the last epoch.
    """

    stage: Literal["before", "train", "after"]
    fraction: float
    seconds: float
    epoch: int = 0
    images: int = 0
    reward: float = math.nan
    held_out: float = math.nan
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Pair:
    """One held-out prompt with one noise, before and after.

    Attributes:
        spec: What was asked.
        seed: Of the noise.
        before: uint8 (h, w, 3).
        after: uint8 (h, w, 3).
        verdict_before: Of the judge.
        verdict_after: Of the judge.
    """

    spec: PromptSpec
    seed: int
    before: npt.NDArray[np.uint8]
    after: npt.NDArray[np.uint8]
    verdict_before: Verdict
    verdict_after: Verdict


@dataclass(frozen=True)
class TrainingDemo:
    """What came of it.

    Attributes:
        method: ``nft`` or ``flow-grpo``.
        settings: What it was trained with.
        curve: One entry an epoch.
        before: Scores on the held-out prompts, with intervals clustered by prompt.
        after: The same after training.
        difference: After minus before, paired by prompt and noise.
        pairs: Every held-out image.
        images_trained: Images sampled for training.
        train_seconds: Wall time of training.
        total_seconds: Wall time of all.
        launch_line: The same method on Stable Diffusion 3.5.
    """

    method: Method
    settings: Settings
    curve: list[Progress]
    before: ScoreIntervals
    after: ScoreIntervals
    difference: PairedComparison
    pairs: list[Pair]
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
    pipeline: Any = "pocket",
    progress: Callable[[Progress], None] | None = None,
) -> TrainingDemo:
    """Measure, train, measure.

    Args:
        method: ``nft`` (DiffusionNFT) or ``flow-grpo``.
        quick: Two minutes in place of ten.
        settings: In place of those of ``quick``.
        seed: Of prompts and noise in training; the held-out images have always the same noise.
        out: Folder for Lightning's CSV log and the last checkpoint; None writes nothing.
        scorer: The judge; the ``lite`` backend if None.
        pipeline: What is trained.
        progress: Told after each measurement and each epoch; an exception in it ends the run.

    Returns:
        A `TrainingDemo`.

    Raises:
        ValueError: If the method is unknown or the minutes are not above 0.
        ModuleNotFoundError: If lightning or diffusers is not installed.
    """
    from lightning.pytorch import Trainer
    from lightning.pytorch.loggers import CSVLogger

    from geneval_reward.pocket.prompts import pocket_suite
    from geneval_reward.reward import GenEvalReward
    from geneval_reward.training import DiffusionNFT, FlowGRPO, PromptGroups
    from geneval_reward.training.cli import EpochCheckpoint

    chosen = settings or settings_for(method, quick=quick)
    if method not in _MODULES:
        raise ValueError(f"method: expected nft or flow-grpo, got {method!r}")
    if not chosen.minutes > 0:
        raise ValueError(f"settings.minutes: expected a number > 0, got {chosen.minutes}")
    tell = progress or (lambda _: None)
    begun = time.monotonic()
    judge = scorer or GenEvalScorer.from_pretrained("lite", device="cpu")
    kind: Any = DiffusionNFT if method == "nft" else FlowGRPO
    module = kind(pipeline, reward=GenEvalReward(judge), **chosen.module)
    suite = pocket_suite()
    before, images_before = _measure(module, judge, suite, chosen.images_per_prompt)
    measured = time.monotonic() - begun
    tell(Progress("before", measured / (60 * chosen.minutes), measured, held_out=_macro(before, suite, chosen)))
    clock = _clock(begun, chosen, measured, module, judge, suite, tell)
    with _quiet():
        trainer = Trainer(
            max_epochs=-1,
            accelerator="cpu",
            devices=1,
            logger=CSVLogger(out, name="log") if out else False,
            callbacks=[clock, *([EpochCheckpoint(str(out))] if out else [])],
            enable_checkpointing=out is not None,
            default_root_dir=out,
            use_distributed_sampler=False,
            log_every_n_steps=1,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        groups = PromptGroups(
            "pocket", chosen.groups, chosen.group_size, chosen.groups * chosen.group_size // 2, 42 + seed
        )
        trainer.fit(module, groups)
    trained = time.monotonic() - begun - measured
    after, images_after = _measure(module, judge, suite, chosen.images_per_prompt)
    ids, tags = _columns(suite, chosen.images_per_prompt)
    right = [[verdict.correct for verdict in verdicts] for verdicts in (before, after)]
    jobs = [(spec, index) for spec in suite for index in range(chosen.images_per_prompt)]
    total = time.monotonic() - begun
    result = TrainingDemo(
        method=method,
        settings=chosen,
        curve=clock.curve,
        before=clustered_bootstrap(right[0], ids, tags),
        after=clustered_bootstrap(right[1], ids, tags),
        difference=compare_paired(right[0], right[1], ids, tags),
        pairs=[
            Pair(spec, seed_for(_SEED, spec.prompt, index), *images, *verdicts)
            for (spec, index), images, verdicts in zip(
                jobs, zip(images_before, images_after, strict=True), zip(before, after, strict=True), strict=True
            )
        ],
        images_trained=module.images_sampled,
        train_seconds=trained,
        total_seconds=total,
        launch_line=LAUNCH_LINES[method],
    )
    last = clock.curve[-1] if clock.curve else Progress("after", 1.0, total)
    tell(Progress("after", 1.0, total, last.epoch, last.images, last.reward, result.after.overall.value, last.metrics))
    return result


_SEED = 0
_BATCH = 64


def _measure(
    module: Any, judge: GenEvalScorer, specs: Sequence[PromptSpec], per_prompt: int
) -> tuple[list[Verdict], list[npt.NDArray[np.uint8]]]:
    jobs = [(spec, seed_for(_SEED, spec.prompt, index)) for spec in specs for index in range(per_prompt)]
    verdicts: list[Verdict] = []
    images: list[npt.NDArray[np.uint8]] = []
    for start in range(0, len(jobs), _BATCH):
        part = jobs[start : start + _BATCH]
        made = module.generate([spec.prompt for spec, _ in part], [seed for _, seed in part])
        verdicts += judge.score(made, [spec for spec, _ in part])
        images += [image.permute(1, 2, 0).cpu().numpy() for image in made]
    return verdicts, images


def _columns(specs: Sequence[PromptSpec], per_prompt: int) -> tuple[list[str], list[str]]:
    return (
        [spec.prompt for spec in specs for _ in range(per_prompt)],
        [spec.tag for spec in specs for _ in range(per_prompt)],
    )


def _macro(verdicts: Sequence[Verdict], specs: Sequence[PromptSpec], settings: Settings) -> float:
    _, tags = _columns(specs, settings.images_per_prompt)
    by_tag: dict[str, list[bool]] = {}
    for verdict, tag in zip(verdicts, tags, strict=True):
        by_tag.setdefault(tag, []).append(verdict.correct)
    return float(np.mean([np.mean(values) for values in by_tag.values()]))


def _clock(
    begun: float,
    settings: Settings,
    reserve: float,
    module: Any,
    judge: GenEvalScorer,
    suite: Sequence[PromptSpec],
    tell: Callable[[Progress], None],
) -> Any:
    """A Lightning callback that reports every epoch and stops in time for the last measurement."""
    from lightning.pytorch import Callback

    part = suite[:: max(1, len(suite) // 48)]  # some of every task
    single = Settings(images_per_prompt=1)

    class Clock(Callback):
        curve: list[Progress]

        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            self.curve, self.held_out = [], math.nan
            self.epoch_start = time.monotonic()

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            epoch = trainer.current_epoch + 1
            if settings.check_every and epoch % settings.check_every == 0:
                verdicts, _ = _measure(module, judge, part, 1)
                self.held_out = _macro(verdicts, part, single)
            metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
            now = time.monotonic()
            seconds, budget = now - begun, 60 * settings.minutes
            point = Progress(
                "train",
                min(seconds / budget, 1.0),
                seconds,
                epoch,
                module.images_sampled,
                metrics.get("reward/official", metrics["reward_mean"]),
                self.held_out,
                metrics,
            )
            self.curve.append(point)
            tell(point)
            took, self.epoch_start = now - self.epoch_start, now
            if seconds + took + 1.2 * reserve > budget:
                trainer.should_stop = True

    clock = Clock()
    clock.curve = []
    return clock


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's hints at hardware and services have no place in a demo."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
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
