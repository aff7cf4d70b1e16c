"""One round on all ranks: sample, judge, share. Everything that it borrows from training is given back."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from geneval_reward.callback.base import replica, wrapped
from geneval_reward.callback.budget import Budget
from geneval_reward.callback.give_back import give_back
from geneval_reward.callback.plan import Job, chunks, padded_share, share
from geneval_reward.callback.progress import RoundBar
from geneval_reward.callback.sampler import Sampler
from geneval_reward.callback.tracking import Sample, ScoreRecord
from geneval_reward.callback.weights import averaged_modules, weights_in_place
from geneval_reward.errors import ImageError, OutOfStepError, RoundError
from geneval_reward.judge.verdict import Verdict
from geneval_reward.scorer import Scorer, fingerprint_id
from geneval_reward.support.ranks import describe, gather, raise_together, world_size
from geneval_reward.support.shards import call_through_root, holds_shards


@dataclass(frozen=True)
class Judged:
    """One job done.

    Attributes:
        job: What was asked.
        verdict: What was found.
        image: The picture, if the job is shown.
    """

    job: Job
    verdict: Verdict
    image: Image.Image | None


@dataclass
class Timings:
    """Where a round's time went, in seconds of this rank.

    Attributes:
        sampling: Making images.
        detection: Judging images.
        logging: Showing them, on rank 0.
        waves: Sampling and judging on the slowest rank, summed over waves.
        total: The whole round, including the time spent waiting for other ranks.
    """

    sampling: float = 0.0
    detection: float = 0.0
    logging: float = 0.0
    waves: float = 0.0
    total: float = 0.0


@dataclass(frozen=True)
class Round:
    """What a round works with.

    Attributes:
        trainer: The Lightning trainer.
        pl_module: The module in training.
        scorer: Judges the images.
        weights: `current` or `ema`.
        sample_fn: Makes the images, as `Sampler` takes it.
        sample_kwargs: Further arguments of `sample_fn`.
        batch_size: Images per sampling call, at most.
        offload: Whether the scorer is on the device only during the round.
        what: How errors call the round.
        timings: Filled in during the round.
    """

    trainer: Any
    pl_module: Any
    scorer: Scorer
    weights: str
    sample_fn: Any
    sample_kwargs: dict[str, Any]
    batch_size: int
    offload: bool
    what: str
    timings: Timings = field(default_factory=Timings)

    def run(self, waves: Sequence[Sequence[Job]], budget: Budget, allowed: float, bar: RoundBar) -> list[Judged]:
        """Do as many waves as the budget allows.

        Args:
            waves: Jobs of all ranks, the same on each.
            budget: Decides on further waves, and learns what one costs.
            allowed: Seconds for the round, the same on each rank.
            bar: Shows the progress.

        Returns:
            What all ranks have done, in the order of jobs, the same on each.

        Raises:
            RoundError: On all ranks, if anything failed on any.
            OutOfStepError: On the rank that failed while it sampled with weights that are spread over ranks.
        """
        done: list[Judged] = []
        error: Exception | None = None
        try:
            with ExitStack() as stack:
                done = self._waves(stack, waves, budget, allowed, bar)
        except OutOfStepError:
            raise  # the other ranks are not waiting for a report
        except Exception as caught:  # noqa: BLE001  shared with all ranks before it is raised
            error = caught
        # What fails on the way out (giving back, moving the scorer) fails after the last wave's report.
        raise_together(error, self.what, kind=RoundError)
        return sorted(done, key=lambda item: item.job.number)

    def _waves(
        self,
        stack: ExitStack,
        waves: Sequence[Sequence[Job]],
        budget: Budget,
        allowed: float,
        bar: RoundBar,
    ) -> list[Judged]:
        error: Exception | None = None
        try:
            sampler = self._prepare(stack)
        except Exception as caught:  # noqa: BLE001  shared with all ranks before it is raised
            error = caught
        raise_together(error, self.what, kind=RoundError)
        number, replicas = replica(self.trainer.strategy)
        lockstep = world_size() > 1 and holds_shards(self._modules(sampler))
        done: dict[int, Judged] = {}
        for wave in waves:
            wave_began = time.monotonic()
            mine: list[Judged] = []
            try:
                jobs = (padded_share if lockstep else share)(wave, number, replicas)
                for chunk in chunks(jobs, self.batch_size):
                    mine += judge_chunk(
                        chunk, self._sampling(sampler), self.scorer, self.timings, self.what if lockstep else None
                    )
                    bar.advance(len(chunk) * replicas)
            except OutOfStepError:
                raise
            except Exception as caught:  # noqa: BLE001
                error = caught
            reports = gather((describe(error), mine, time.monotonic() - wave_began))
            raise_together(error, self.what, reports=[report[0] for report in reports], kind=RoundError)
            # Ranks that hold one replica together have judged the same images.
            done |= {item.job.number: item for report in reports for item in report[1]}
            budget.wave_seconds = max(report[2] for report in reports)
            self.timings.waves += budget.wave_seconds
            if budget.limited and not budget.permits_wave(allowed, self.timings.waves):
                break
        return list(done.values())

    def _prepare(self, stack: ExitStack) -> Sampler:
        sampler = Sampler(self.pl_module, self.sample_fn, self.sample_kwargs, self.batch_size)
        stack.enter_context(give_back(self._modules(sampler)))
        stack.enter_context(weights_in_place(self.weights, self.trainer, self.pl_module))
        stack.enter_context(sampler.sampling())
        if self.offload:
            stack.callback(self._offload)
            self.scorer.to(self._device)
        return sampler

    def _modules(self, sampler: Sampler) -> list[torch.nn.Module]:
        return [
            *wrapped(self.trainer, self.pl_module),
            *sampler.modules(),
            *averaged_modules(self.trainer, self.pl_module),
        ]

    def _sampling(self, sampler: Sampler) -> Callable[[list[str], list[int]], list[torch.Tensor]]:
        def sample(prompts: list[str], seeds: list[int]) -> list[torch.Tensor]:
            root = wrapped(self.trainer, self.pl_module)[0]
            # Mixed precision is on while sampling, as in a validation step; the scorer has its own precision.
            with self.trainer.precision_plugin.forward_context():
                images = call_through_root(root, self.pl_module, sampler.sample, prompts, seeds, self._device)
            if self._device.type == "cuda":  # so that the clock measures what was done
                torch.cuda.synchronize(self._device)
            return images

        return sample

    def _offload(self) -> None:
        self.scorer.to("cpu")
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    @property
    def _device(self) -> torch.device:
        device: torch.device = self.trainer.strategy.root_device
        return device


def judge_chunk(
    jobs: Sequence[Job],
    sample: Callable[[list[str], list[int]], Sequence[torch.Tensor]],
    scorer: Scorer,
    timings: Timings,
    lockstep: str | None = None,
) -> list[Judged]:
    """Make the images of some jobs and judge those of jobs that are not idle; adds to `timings`.

    Args:
        jobs: At least one.
        sample: Makes uint8 images `(3, h, w)` from prompts and seeds.
        scorer: Judges them.
        timings: Gets the seconds of sampling and detection.
        lockstep: Where weights are spread over ranks, what errors are to call the round; all ranks then agree after every
            chunk whether to go on. None where ranks sample on their own.

    Raises:
        RoundError: With `lockstep`, on all ranks, if images are invalid or cannot be judged on any.
        OutOfStepError: With `lockstep`, on the rank whose sampling failed halfway.
    """
    began, error = time.monotonic(), None
    # A sampler that ignores its seeds is at least the same in every round.
    torch.manual_seed(jobs[0].seed)
    done: list[Judged] = []
    try:
        images = _in_step(sample, jobs, lockstep)
        sampled = time.monotonic()
        wanted = [(job, image) for job, image in zip(jobs, images, strict=True) if not job.idle]
        verdicts = scorer.score([image for _, image in wanted], [job.spec for job, _ in wanted]) if wanted else []
    except OutOfStepError:
        raise
    except Exception as caught:
        if lockstep is None:
            raise
        error = caught
    if lockstep is not None:
        raise_together(error, lockstep, kind=RoundError)
    timings.sampling += sampled - began
    timings.detection += time.monotonic() - sampled
    for (job, image), verdict in zip(wanted, verdicts, strict=True):
        picture = Image.fromarray(image.permute(1, 2, 0).cpu().numpy()) if job.shown else None
        done.append(Judged(job, verdict, picture))
    return done


def _in_step(
    sample: Callable[[list[str], list[int]], Sequence[torch.Tensor]], jobs: Sequence[Job], lockstep: str | None
) -> Sequence[torch.Tensor]:
    try:
        return sample([job.spec.prompt for job in jobs], [job.seed for job in jobs])
    except ImageError:
        raise  # found after the last forward pass, so no rank is waiting within one
    except Exception as error:
        if lockstep is None:
            raise
        raise OutOfStepError(
            f"{lockstep}: {describe(error)}; this ends the run whatever on_error says, since other ranks may be waiting "
            "for this rank's share of the weights"
        ) from error


def record_round(
    name: str,
    step: int,
    judged: Sequence[Judged],
    metrics: Mapping[str, float],
    scorer: Scorer,
    images_per_prompt: int,
) -> ScoreRecord:
    """Put what was judged into the form that trackers show."""
    samples = tuple(
        Sample(
            item.verdict,
            f"{item.job.number // images_per_prompt:05d}/samples/{item.job.index:04d}.png",
            item.job.index,
            item.job.seed,
            item.image,
        )
        for item in judged
    )
    return ScoreRecord(name, step, metrics, samples, scorer.name, scorer.fingerprint(), fingerprint_id(scorer))


def warn_if_all_wrong(name: str, judged: Sequence[Judged]) -> bool:
    """Warn if none of several images is right: the sampler or detector is then more likely broken than the model bad."""
    if len(judged) < 2 or any(item.verdict.correct for item in judged):
        return False
    warnings.warn(
        f"{name}: all {len(judged)} images of a round are wrong (for example {judged[0].verdict.spec.prompt!r}: "
        f"{judged[0].verdict.reason}); look at the pictures, and if they are right, run `geneval-reward doctor`",
        stacklevel=2,
    )
    return True
