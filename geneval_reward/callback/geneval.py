"""`GenEvalCallback`: its arguments, Lightning's hooks, and what a round leaves behind."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lightning_utilities.core import rank_zero

from geneval_reward.callback.base import (
    LightningCallback,
    let_monitors_wait,
    planned_length,
    publish,
    put_in_order,
    refuse_untested,
)
from geneval_reward.callback.budget import Budget
from geneval_reward.callback.plan import Job, balanced, count_by_task, plan_jobs, refuse_unknown_words, waves
from geneval_reward.callback.progress import RoundBar
from geneval_reward.callback.round import Judged, Round, Timings, record_round, warn_if_all_wrong
from geneval_reward.callback.sampler import read_sample_fn
from geneval_reward.callback.schedule import Schedule
from geneval_reward.callback.scores import round_line, scores
from geneval_reward.callback.tracking import Tracking, run_folder
from geneval_reward.errors import OutOfStepError, RoundError, UsageError
from geneval_reward.judge.rules import Rules
from geneval_reward.prompts import PromptSpec, read_prompts
from geneval_reward.reward import GenEvalReward
from geneval_reward.scorer import GenEvalScorer, LazyScorer, Scorer
from geneval_reward.support.ranks import gather, raise_together, rank, world_size


class GenEvalCallback(LightningCallback):
    """Scores a text-to-image model with GenEval while it trains.

    In a round it samples images with the module in training, judges them, logs the scores, and gives back everything it
    touched: a run with it ends with the same weights, bit for bit, as one without. It works under `lightning` and
    `pytorch_lightning`, on one process or many, and does nothing in the sanity check. Under `fast_dev_run` it goes the
    whole way once, with two prompts, and shows nothing to anyone.

    **Logged Metrics** (with `geneval` standing for `name`):

    - `geneval/overall`: the benchmark's score, the mean of the task means, of those tasks that have images.
    - `geneval/<tag>`: each task's mean, such as `geneval/counting`.
    - `geneval/partial`: the mean over tasks of the share of each prompt's requirements that were met.
    - `geneval/pass_at_k`: share of prompts with a correct image among their `images_per_prompt`.
    - `geneval/half_width`: half of the 95 % interval of `overall`, prompts resampled within their task.
    - `geneval/n`, `geneval/prompts`: images and prompts that were scored.
    - `geneval/seconds`: what the round took before logging, of the slowest rank.

    They go to all loggers with the number of optimizer steps (`trainer.global_step`), and are in
    `trainer.callback_metrics` on all ranks, so that `ModelCheckpoint(monitor="geneval/overall", mode="max")` and
    `EarlyStopping` find them; those run after this callback wherever they stand in the list. Between rounds the last values
    stay. Pictures, results and the table go where each logger can show them, and to
    `<trainer.log_dir>/geneval/step-<step>/` on disk.

    Args:
        scorer: Any `Scorer`, its import path (`module:attribute`), or the name of a backend; loaded on the trainer's device.
        prompts: What `read_prompts` takes: `"suite"`, 60 (in all), `"10/task"`, a file, or a list of records or sentences.
        images_per_prompt: Images of each prompt; the benchmark's published scores have 4.
        seed: Every image's noise comes from `seed_for(seed, prompt, index)`: the same in every round, whatever the batch
            size and number of processes. It also fixes which prompts a number or a budget picks.
        every_n_train_steps: A round whenever so many optimizer steps are done. Give exactly one of this and the next two.
        every_n_epochs: A round at the end of every so-many-th training epoch.
        on_validation: A round after every validation, also after `trainer.validate`.
        weights: `"current"`, or `"ema"` for the moving average that Lightning's `WeightAveraging` (or another object
            with a swap context, see `docs/callback.md`) keeps.
        sample_fn: `(pl_module, prompts, seeds, **sample_kwargs) -> images`, or an object with
            `generate(prompts, seeds, **sample_kwargs)`, or its import path. None: `pl_module.generate`, or else the diffusers
            pipeline that the module has as an attribute. Images are what `GenEvalScorer.score` takes, one per prompt.
        sample_kwargs: Passed to `sample_fn` or to the pipeline's call; for example `{"num_inference_steps": 20}`.
        batch_size: Images per sampling call, at most.
        max_seconds: A round ends before it would take longer than this; the tasks are balanced all the same.
        max_fraction: Share of wall time that rounds may take, in (0, 1). Rounds are cut short or left out to keep it.
        log_images: Number of prompts whose first picture is shown: the same in every round, balanced over tasks.
        offload: Keep the scorer on the CPU between rounds.
        rules: What `Rules.parse` takes; only if `scorer` is the name of a backend.
        on_error: `"raise"`, or `"warn"` to let training go on without a score that failed.
        name: Prefix of all keys, and name of the folder. Several callbacks in one trainer need different ones.

    Raises:
        UsageError: If an argument is not valid, or the strategy is one that was never tested (DeepSpeed stage 3).
        SpecError: If prompts do not parse.
        RoundError: If a round fails; on all ranks, with the messages of those that failed. Training state is intact.

    Attributes:
        best_score: Highest `overall` so far, over resumed runs too; NaN before the first.
        best_step: When that was.
        last_metrics: What the last round logged.
        timings: Where the last round's time went.

    Examples:
        >>> from geneval_reward.callback import GenEvalCallback
        >>> callback = GenEvalCallback(prompts=10, every_n_train_steps=1000, max_fraction=0.05)
        >>> callback.state_key
        "GenEvalCallback{'name': 'geneval'}"
    """

    scores_with_geneval = True

    def __init__(
        self,
        scorer: GenEvalScorer | Scorer | str = "lite",
        prompts: int | str | Sequence[PromptSpec | Mapping[str, Any] | str] = "suite",
        images_per_prompt: int = 1,
        seed: int = 0,
        *,
        every_n_train_steps: int | None = None,
        every_n_epochs: int | None = None,
        on_validation: bool = False,
        weights: Literal["current", "ema"] = "current",
        sample_fn: Callable[..., Any] | str | None = None,
        sample_kwargs: dict[str, Any] | None = None,
        batch_size: int = 8,
        max_seconds: float | None = None,
        max_fraction: float | None = None,
        log_images: int = 12,
        offload: bool = False,
        rules: Rules | str | None = None,
        on_error: Literal["raise", "warn"] = "raise",
        name: str = "geneval",
    ) -> None:
        super().__init__()
        for key, number, least in (
            ("images_per_prompt", images_per_prompt, 1),
            ("batch_size", batch_size, 1),
            ("log_images", log_images, 0),
        ):
            if isinstance(number, bool) or not isinstance(number, int) or number < least:
                raise UsageError(f"{key}: expected an integer >= {least}, got {number!r}")
        for key, choice, choices in (
            ("weights", weights, ("current", "ema")),
            ("on_error", on_error, ("raise", "warn")),
        ):
            if choice not in choices:
                raise UsageError(f"{key}: expected {' or '.join(map(repr, choices))}, got {choice!r}")
        if rules is not None and not isinstance(scorer, str):
            raise UsageError(
                "rules: expected None, since the given scorer has its own, got rules; give them to the scorer"
            )
        if not name or name.strip("/") != name:
            raise UsageError(f"name: expected a prefix without slashes around it, got {name!r}")
        options = {"rules": rules} if rules is not None else {}
        self.lazy_scorer = LazyScorer(scorer, **options)
        self.rules = rules
        self.specs = balanced(read_prompts(prompts, seed=seed, unique=True), seed)
        refuse_unknown_words(self.lazy_scorer.loaded, self.specs)
        self.images_per_prompt = images_per_prompt
        self.seed = seed
        self.weights = weights
        self.sample_kwargs = dict(sample_kwargs or {})
        self.sample_fn = read_sample_fn(sample_fn, self.sample_kwargs)
        self.batch_size = batch_size
        self.log_images = log_images
        self.offload = offload
        self.on_error = on_error
        self.name = name
        self.timings = Timings()
        self._schedule = Schedule(every_n_train_steps, every_n_epochs, on_validation)
        self._budget = Budget(max_seconds, max_fraction)
        self._tracking = Tracking()
        self._dry_run_done = False
        self._begin_run()

    def _begin_run(self) -> None:
        """Forget an earlier run, if this callback was in one."""
        self.best_score = math.nan
        self.best_step = -1
        self.last_metrics: dict[str, float] = {}
        self._schedule.restart()
        self._folder: Path | None = None
        self._resumed_folder: str | None = None
        self._warned_all_wrong = self._warned_never = False
        self._rounds = 0

    @property
    def scorer(self) -> Scorer:
        """The scorer; loaded by `setup`, or now if something needs it before."""
        return self.lazy_scorer.load()

    def reward(self, credit: str = "official") -> GenEvalReward:
        """A reward that uses this callback's scorer, so that one process loads it only once.

        A recipe without a `reward` of its own takes this one from the `GenEvalCallback` in its Trainer.

        Args:
            credit: Name of the credit that is the reward.

        Raises:
            UsageError: If the callback keeps its scorer on the CPU between rounds.

        Examples:
            >>> from geneval_reward.callback import GenEvalCallback
            >>> callback = GenEvalCallback("lite", prompts=12, every_n_epochs=1)
            >>> callback.reward("strict").loaded  # by the trainer's setup, or the first rewards
            False
        """
        if self.offload:
            raise UsageError(
                "offload: expected False for a callback whose scorer also gives the rewards, got True; rewards are needed "
                "all the time, so leave the scorer on the device"
            )
        return GenEvalReward(self.lazy_scorer, credit)

    @property
    def state_key(self) -> str:
        """Tells this callback's state from that of others in a checkpoint."""
        return self._generate_state_key(name=self.name)

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse what cannot work, take a place after all that changes weights, load the scorer if it is a name."""
        if stage not in ("fit", "validate", "test"):
            return
        refuse_untested(trainer.strategy)
        # A new list: Lightning is going through the old one.
        trainer.callbacks = put_in_order(trainer.callbacks)
        self._dry_run_done = False
        if isinstance(self.lazy_scorer.source, str):
            self._load_scorer(trainer)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to count time; show a resumed run's last scores to what monitors them, and let others wait for the first."""
        if trainer.global_step == 0 and trainer.current_epoch == 0:
            self._begin_run()
        self._budget.start()
        publish(trainer, self.name, self.last_metrics)
        if trainer.fast_dev_run:
            return
        if not self.last_metrics:
            let_monitors_wait(trainer, self.name)
        reason = self._schedule.why_never(*planned_length(trainer, pl_module))
        if reason is not None:
            self._warn_never(reason)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """A round, if it is due after this optimizer step."""
        if trainer.fast_dev_run:
            self._dry_run(trainer, pl_module)
        elif self._schedule.due_after_step(trainer.global_step):
            self._round(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """A round, if it is due after this epoch."""
        if not trainer.fast_dev_run and self._schedule.due_after_epoch(trainer.current_epoch):
            self._round(trainer, pl_module)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """A round, if it is due after this validation."""
        if trainer.sanity_checking:
            return
        if trainer.fast_dev_run:
            self._dry_run(trainer, pl_module)
        elif self._schedule.due_after_validation(trainer.global_step, fitting=trainer.state.fn == "fit"):
            self._round(trainer, pl_module)

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        """A round after `trainer.test`, whatever the schedule of training is."""
        if trainer.fast_dev_run:
            self._dry_run(trainer, pl_module)
        else:
            self._round(trainer, pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Stop counting time; say so if no round was due."""
        self._budget.stop()
        if not (self._rounds or self._warned_never or trainer.fast_dev_run):
            self._warn_never("none was due before it ended")

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Stop counting time."""
        self._budget.stop()

    def state_dict(self) -> dict[str, Any]:
        """Where the schedule and the budget stand, the best score, and the last ones."""
        return {
            "schedule": self._schedule.state_dict(),
            "budget": self._budget.state_dict(),
            "best_score": self.best_score,
            "best_step": self.best_step,
            "last_metrics": dict(self.last_metrics),
            "folder": None if self._folder is None else self._folder.name,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self._schedule.load_state_dict(state_dict["schedule"])
        self._budget.load_state_dict(state_dict["budget"])
        self.best_score = float(state_dict["best_score"])
        self.best_step = int(state_dict["best_step"])
        self.last_metrics = dict(state_dict["last_metrics"])
        self._resumed_folder = state_dict.get("folder")

    def _load_scorer(self, trainer: Any) -> None:
        error = None
        try:
            device = trainer.strategy.root_device
            # A reward that was used before the trainer started has loaded it somewhere already.
            self.lazy_scorer.load(device).to("cpu" if self.offload else device)
            refuse_unknown_words(self.lazy_scorer.loaded, self.specs)
        except Exception as caught:  # noqa: BLE001  shared with all ranks before it is raised
            error = caught
        what = f"GenEvalCallback {self.name!r} could not load its scorer {self.lazy_scorer.source!r}"
        raise_together(error, what, kind=RoundError)

    def _warn_never(self, reason: str) -> None:
        self._warned_never = True
        rank_zero.rank_zero_warn(
            f"GenEvalCallback {self.name!r} makes no round in this run: {reason}; choose a shorter interval",
            stacklevel=2,
        )

    def _dry_run(self, trainer: Any, pl_module: Any) -> None:
        if not self._dry_run_done:
            self._dry_run_done = True
            self._round(trainer, pl_module)

    def _round(self, trainer: Any, pl_module: Any) -> None:
        began = time.monotonic()
        what = f"GenEvalCallback {self.name!r} at step {trainer.global_step}"
        # Rank 0's clock decides for all.
        allowed, self._budget.fixed_seconds = gather((self._budget.allowed(), self._budget.fixed_seconds))[0]
        if not self._budget.permits_round(allowed):
            rank_zero.rank_zero_info(
                f"{what}: left out, since max_fraction={self._budget.max_fraction} leaves {max(allowed, 0.0):.2g} s now"
            )
            return
        self._rounds += 1
        try:
            self._run_round(trainer, pl_module, what, allowed, began)
        except RoundError as error:
            if self.on_error == "raise" or isinstance(error, OutOfStepError):
                raise
            if rank() == 0:
                warnings.warn(f"{error}; training goes on without it (on_error='warn')", stacklevel=2)
        finally:
            self.timings.total = time.monotonic() - began
            self._budget.spent_seconds += self.timings.total

    def _run_round(self, trainer: Any, pl_module: Any, what: str, allowed: float, began: float) -> None:
        if trainer.fast_dev_run:
            jobs = plan_jobs(self.specs[:2], 1, self.seed, 0)
        else:
            jobs = plan_jobs(self.specs, self.images_per_prompt, self.seed, self.log_images)
        plan = self._waves(jobs)
        sampling = self.sample_fn, self.sample_kwargs, self.batch_size
        round_ = Round(trainer, pl_module, self.scorer, self.weights, *sampling, self.offload, what)
        self.timings = round_.timings
        with RoundBar(trainer, self.name, len(jobs)) as bar:
            judged = round_.run(plan, self._budget, allowed, bar)
        seconds = max(gather(time.monotonic() - began))
        metrics, overall = scores(self.name, [item.verdict for item in judged], seconds)
        if len(judged) < len(jobs):
            counts = count_by_task(item.job.spec for item in judged if not item.job.index)
            rank_zero.rank_zero_info(
                f"{what}: the budget allowed {len(judged)} of {len(jobs)} images; prompts scored: {counts}"
            )
        publish(trainer, self.name, metrics)
        if trainer.fast_dev_run:
            return
        rank_zero.rank_zero_info(round_line(self.name, overall, seconds, trainer.global_step))
        if rank() == 0 and not self._warned_all_wrong:
            self._warned_all_wrong = warn_if_all_wrong(what, judged)
        if trainer.state.fn == "fit":
            self._remember(metrics, trainer.global_step)
        self._show(trainer, judged, metrics, what)
        # What every round costs besides its waves.
        self._budget.fixed_seconds = time.monotonic() - began - self.timings.waves

    def _waves(self, jobs: list[Job]) -> list[list[Job]]:
        if not self._budget.limited:
            return [jobs]
        tags = len({job.spec.tag for job in jobs})
        # About one sampling call for each rank, so that a budget does not cost the use of batches.
        prompts_per_tag = max(1, round(self.batch_size * world_size() / (tags * self.images_per_prompt)))
        return waves(jobs, self.images_per_prompt, prompts_per_tag)

    def _remember(self, metrics: dict[str, float], step: int) -> None:
        self.last_metrics = metrics
        overall = metrics[f"{self.name}/overall"]
        if not overall <= self.best_score:
            self.best_score, self.best_step = overall, step

    def _show(self, trainer: Any, judged: Sequence[Judged], metrics: dict[str, float], what: str) -> None:
        began, error = time.monotonic(), None
        if rank() == 0:
            step = trainer.global_step
            record = record_round(self.name, step, judged, metrics, self.scorer, self.images_per_prompt)
            try:
                if self._folder is None:
                    self._folder = run_folder(trainer, self.name, self._resumed_folder)
                self._tracking.show(record, trainer.loggers, self._folder / f"step-{step:08d}")
            except Exception as caught:  # noqa: BLE001  shared with all ranks before it is raised
                error = caught
        raise_together(error, what, kind=RoundError)
        self.timings.logging = time.monotonic() - began
