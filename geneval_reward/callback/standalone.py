"""`score_model`: one round of scores without Lightning, for any training loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from geneval_reward.callback.give_back import give_back
from geneval_reward.callback.plan import Job, balanced, chunks, plan_jobs, share
from geneval_reward.callback.round import Judged, Timings, judge_chunk, record_round, warn_if_all_wrong
from geneval_reward.callback.sampler import sample
from geneval_reward.callback.scores import scores
from geneval_reward.callback.tracking import ScoreRecord, write_round
from geneval_reward.errors import RoundError, UsageError
from geneval_reward.prompts import PromptSpec, read_prompts
from geneval_reward.scorer import GenEvalScorer, LazyScorer, Scorer
from geneval_reward.support.ranks import gather, raise_together, rank, world_size


def score_model(
    generate: Callable[[list[str], list[int]], Any],
    prompts: int | str | Sequence[PromptSpec | Mapping[str, Any] | str] = "suite",
    images_per_prompt: int = 1,
    *,
    scorer: GenEvalScorer | Scorer | str = "lite",
    modules: Iterable[nn.Module] = (),
    seed: int = 0,
    batch_size: int = 8,
    device: torch.device | str | None = None,
    step: int = 0,
    folder: str | Path | None = None,
    log_images: int = 12,
    name: str = "geneval",
) -> ScoreRecord:
    """Sample images, judge them, and return what `GenEvalCallback` would log.

    Training goes on afterwards as if nothing had happened: the state of all random generators, autocast and the modes, weights
    and buffers of `modules` are given back. With a process group (Accelerate, Fabric, torchrun) every rank must call this;
    the images are shared out, and all ranks get the same record.

    Args:
        generate: `generate(prompts, seeds) -> images`, one image per prompt, each from its own seed. Images are what
            `GenEvalScorer.score` takes.
        prompts: What `geneval_reward.prompts.read_prompts` takes: `60`, `"10/task"`, `"suite"`, a file or a list.
        images_per_prompt: Images of each prompt; published scores have 4.
        scorer: Any `Scorer`, or the name of a backend, which is loaded for this call. Pass a scorer to keep it loaded.
        modules: The modules that `generate` uses. They are in eval mode meanwhile.
        seed: The noise of each image comes from `seed_for(seed, prompt, index)`, the same in every round and on any number of
            processes.
        batch_size: Images per call of `generate`, at most.
        device: Where images may be besides the CPU, and where a backend is loaded; None for any device and `auto`.
        step: Number of optimizer steps; for the folder and the record.
        folder: Where rank 0 writes `step-<step>/` with results, pictures and pictures with boxes; None to write none.
        log_images: Number of prompts whose first picture is in the record.
        name: Prefix of the keys.

    Returns:
        The round: `metrics` (keys as of `GenEvalCallback`, to be logged as they are), `samples` with verdicts, `shown` with
        pictures, and `table()`.

    Raises:
        RoundError: On all ranks, if anything failed on any.
        UsageError: If a number is out of range or the prompts cannot be read.

    Examples:
        >>> import torch
        >>> from geneval_reward.callback import score_model
        >>> from geneval_reward.testing import FakeDetector, scorer_for
        >>> record = score_model(
        ...     lambda prompts, seeds: torch.zeros(len(prompts), 3, 16, 16),
        ...     ["a photo of a bench", "a photo of a cow"],
        ...     scorer=scorer_for(FakeDetector({"bench": [[1, 1, 9, 9, 0.95]]})),
        ... )
        >>> record.metrics["geneval/overall"], record.metrics["geneval/n"]
        (0.5, 2.0)
    """
    if images_per_prompt < 1 or batch_size < 1 or log_images < 0:
        raise UsageError(
            "expected images_per_prompt >= 1, batch_size >= 1 and log_images >= 0, got "
            f"{images_per_prompt}, {batch_size}, {log_images}"
        )
    began = time.monotonic()
    jobs = plan_jobs(balanced(read_prompts(prompts, seed=seed, unique=True), seed), images_per_prompt, seed, log_images)
    what = f"score_model {name!r} at step {step}"
    error: Exception | None = None
    mine: list[Judged] = []
    lazy = LazyScorer(scorer)
    try:
        mine = _judge(share(jobs, rank(), world_size()), generate, lazy.load(device), list(modules), batch_size, device)
    except Exception as caught:  # noqa: BLE001  shared with all ranks before it is raised
        error = caught
    raise_together(error, what, kind=RoundError)
    judged = sorted((item for part in gather(mine) for item in part), key=lambda item: item.job.number)
    metrics, _ = scores(name, [item.verdict for item in judged], max(gather(time.monotonic() - began)))
    record = record_round(name, step, judged, metrics, lazy.load(), images_per_prompt)
    if rank() == 0:
        warn_if_all_wrong(what, judged)
        try:
            if folder is not None:
                write_round(record, Path(folder) / f"step-{step:08d}")
        except Exception as caught:  # noqa: BLE001  shared with all ranks before it is raised
            error = caught
    raise_together(error, what, kind=RoundError)
    return record


def _judge(
    jobs: list[Job],
    generate: Callable[[list[str], list[int]], Any],
    scorer: Scorer,
    modules: list[nn.Module],
    batch_size: int,
    device: torch.device | str | None,
) -> list[Judged]:
    where = None if device is None else torch.device(device)
    done: list[Judged] = []
    with give_back(modules):
        for module in modules:
            module.eval()
        for chunk in chunks(jobs, batch_size):
            done += judge_chunk(
                chunk,
                lambda texts, seeds: sample("generate", generate, texts, seeds, where),
                scorer,
                Timings(),
            )
    return done
