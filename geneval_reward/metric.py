"""`GenEvalScore`: the GenEval score as a torchmetrics metric, and its functional twin."""

from __future__ import annotations

import hashlib
import sys
import warnings
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import torch
from torchmetrics import Metric
from torchmetrics.utilities.plot import plot_single_or_multi_val
from torchmetrics.wrappers import BootStrapper

from geneval_reward.errors import SpecError, UsageError
from geneval_reward.judge.credits import Credit, check_credit
from geneval_reward.judge.verdict import Verdict
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.prompts.suite import Prompt, official_suite, resolve_all
from geneval_reward.prompts.vocabulary import TAGS, sort_tags
from geneval_reward.scorer import LazyScorer, Scorer
from geneval_reward.stats import Interval, clustered_bootstrap
from geneval_reward.stats.sums import mean_of_task_means
from geneval_reward.support.imports import require
from geneval_reward.vision.images import as_images

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Graded credits are summed as whole numbers of steps of 2**-32. Integers survive a cast of the parent to half precision, fit
# devices without float64, and add up to the same sum in any order of ranks.
_GRADED_STEPS: Final = 2**32


class GenEvalScore(Metric):
    """The GenEval score of generated images.

    `compute()` returns one scalar, so that `self.log("geneval", metric)` works. It is the benchmark's overall score: the mean
    of the task means, over the tasks that have images. `breakdown` returns the parts.

    The states are integers, so reductions over processes are exact (graded credits to 2**-32), and a process may have scored
    any number of images, including none. The detector is not part of the module: `state_dict`, `.to` and dtype casts do not
    touch it.

    As input to `forward` and `update` the metric accepts:

    - `images`: what `GenEvalScorer.score` takes: a list of PIL images, arrays or tensors, or one batch
      `(n, 3, h, w)`; uint8, or floats in [0, 1].
    - `prompts`: for each image a prompt text (of the official suite or of the metric's `prompts`), a record or a `PromptSpec`;
      or an integer tensor `(n,)` of indices into the metric's `prompts`. torchmetrics' `BootStrapper` needs the tensor, because
      it resamples tensors only.

    Args:
        scorer: A scorer, or the name of a backend, which is loaded on first use.
        credit: The credit to average: `official` (the benchmark's), `strict`, `partial`, `dense` or `flow_grpo`; the import path
            of a function of a verdict; or such a function.
        prompts: Specs whose texts may be given as prompts, besides those of the official suite. `breakdown` also counts
            solved prompts over them, and their tags are the tasks that may be counted beside the six. None means the official
            suite.
        **kwargs: Passed on to `torchmetrics.Metric`.

    Raises:
        UsageError: If `credit` is unknown.

    Examples:
        >>> from geneval_reward import GenEvalScore
        >>> from geneval_reward.testing import FakeDetector, scorer_for
        >>> dog = {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a photo of a dog"}
        >>> metric = GenEvalScore(scorer_for(FakeDetector({"dog": [[2, 2, 30, 30, 0.9]]})))
        >>> import torch
        >>> metric(torch.zeros(1, 3, 32, 32), [dog])
        tensor(1.)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    images: torch.Tensor
    total: torch.Tensor
    by_prompt: torch.Tensor
    identity: torch.Tensor

    def __init__(
        self,
        scorer: Scorer | str = "lite",
        credit: Credit = "official",
        prompts: Sequence[PromptSpec] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_credit(credit)
        self.credit = credit
        self.lazy_scorer = LazyScorer(scorer)
        self.prompts = tuple(official_suite() if prompts is None else prompts)
        self._by_text = {spec.prompt: spec for spec in self.prompts}
        self._row = {spec: row for row, spec in enumerate(self.prompts)}
        # Every process must have states of the same shape, so tasks of one's own are known from the beginning.
        self.tags = sort_tags([*TAGS, *(spec.tag for spec in self.prompts)])
        self._warned_partial = False
        self._batch: list[Verdict] | None = None
        self._steps = 1 if credit in ("official", "strict") else _GRADED_STEPS
        # In a MetricCollection, metrics whose states are equal after the first update share them from then on. Two credits are
        # often equal on the first batch, so this state tells metrics apart that count differently.
        self.add_state("identity", _identity(scorer, credit, self.prompts), dist_reduce_fx="max")
        self.add_state("images", torch.zeros(len(self.tags), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(len(self.tags), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("by_prompt", torch.zeros(len(self.prompts), 2, dtype=torch.int64), dist_reduce_fx="sum")
        _last_batches.expect(self.lazy_scorer.loaded)

    @property
    def scorer(self) -> Scorer:
        """The scorer. If the metric was given the name of a backend, it is loaded on first access."""
        return self.lazy_scorer.load()

    def extra_repr(self) -> str:
        """What `repr` shows in the brackets."""
        loaded = self.lazy_scorer.loaded
        return f"{self.lazy_scorer.source if loaded is None else loaded.name!r}, credit={self.credit!r}"

    def update(self, images: Any, prompts: Sequence[Prompt] | torch.Tensor | str) -> None:
        """Score images and count their verdicts.

        Metrics in a `MetricCollection` that share a scorer run the detector once per batch.

        Raises:
            ImageError: If an image cannot be scored.
            SpecError: If a prompt is not valid or not known.
            UsageError: If there are not as many prompts as images.
        """
        self.add(self._judge(images, prompts) if self._batch is None else self._batch)

    def forward(self, images: Any, prompts: Sequence[Prompt] | torch.Tensor | str) -> torch.Tensor:
        """Score images, count their verdicts and return the score of these images alone.

        Raises:
            ImageError: If an image cannot be scored. What was counted before is kept.
            SpecError: If a prompt is not valid or not known.
            UsageError: If there are not as many prompts as images.
        """
        # torchmetrics sets the state aside during `forward`, and an error would lose it. So the images are judged first.
        self._batch = self._judge(images, prompts)
        try:
            value: torch.Tensor = super().forward(images, prompts)
        finally:
            self._batch = None
        return value

    def _judge(self, images: Any, prompts: Sequence[Prompt] | torch.Tensor | str) -> list[Verdict]:
        if isinstance(prompts, torch.Tensor):
            specs = self._specs_at(prompts)
        else:
            _refuse_bootstrapping(self)
            specs = resolve_all([prompts] if isinstance(prompts, str) else prompts, self._by_text)
        return _last_batches.score(self.scorer, images, specs)

    def _specs_at(self, rows: torch.Tensor) -> list[PromptSpec]:
        if rows.ndim != 1 or rows.is_floating_point() or rows.dtype == torch.bool:
            raise UsageError(
                f"prompts: expected a 1-d tensor of integers, rows of the metric's prompts, got {rows.dtype} of shape "
                f"{tuple(rows.shape)}"
            )
        for place, row in enumerate(rows.tolist()):
            if not 0 <= row < len(self.prompts):
                raise UsageError(
                    f"prompts[{place}]: expected a row of the metric's prompts in 0..{len(self.prompts) - 1}, got {row}"
                )
        return [self.prompts[row] for row in rows.tolist()]

    def set_dtype(self, dst_type: str | torch.dtype) -> GenEvalScore:
        """Do nothing: the states are integers, and a cast to a small float would round or overflow them."""
        return self

    def add(self, verdicts: Sequence[Verdict]) -> None:
        """Count verdicts that exist already, for example where the same verdicts are also logged with their images."""
        # Counting happens on the CPU, because every small step on a GPU would launch a kernel.
        images, total = [0] * len(self.tags), [0] * len(self.tags)
        by_prompt = torch.zeros_like(self.by_prompt, device="cpu")
        for verdict in verdicts:
            if verdict.spec.tag not in self.tags:
                known, got = ", ".join(self.tags), verdict.spec.tag
                raise SpecError(f"tag: expected one of {known}, got {got!r}; give its records as `prompts`")
            tag = self.tags.index(verdict.spec.tag)
            images[tag] += 1
            total[tag] += round(verdict.credit(self.credit) * self._steps)
            row = self._row.get(verdict.spec)
            if row is not None:
                by_prompt[row] += torch.tensor([1, int(verdict.correct)])
        # Not in place, because a state that was reset in inference mode cannot be changed in place outside of it.
        self.images = self.images + torch.tensor(images, dtype=self.images.dtype, device=self.images.device)
        self.total = self.total + torch.tensor(total, dtype=self.total.dtype, device=self.total.device)
        self.by_prompt = self.by_prompt + by_prompt.to(self.by_prompt.device)
        self._update_count = max(self._update_count, 1)
        self._computed = None

    def compute(self) -> torch.Tensor:
        """Compute the overall score, the mean of the task means over the tasks with images; NaN if there are no images."""
        present = self.images[: len(TAGS)] > 0
        # A single batch inside `forward` need not contain every task.
        if self._batch is None and not self._warned_partial and present.any() and not present.all():
            self._warned_partial = True
            missing = ", ".join(tag for tag, here in zip(TAGS, present.tolist(), strict=True) if not here)
            warnings.warn(
                f"GenEvalScore: no images for {missing}; the overall is over the other tasks and not the benchmark's",
                stacklevel=2,
            )
        return _macro(self.images, self.total, self.tags, self._steps)

    def breakdown(self) -> dict[str, float]:
        """Compute the parts of the score, synchronised over processes as `compute` is.

        Returns:
            `overall` and `micro` (the mean over images), which are NaN without images; one entry per task with images; `n`, the
            number of images; `prompts`, how many of the metric's `prompts` have images; `pass_at_k`, the share of these that
            have a correct image (NaN if there are none); and `coverage`, the share of the metric's `prompts` with images.
        """
        with self.sync_context(
            dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync, should_unsync=self._should_unsync
        ):
            counts, sums = self.images.tolist(), [total / self._steps for total in self.total.tolist()]
            n = sum(counts)
            seen = self.by_prompt[:, 0] > 0
            solved = self.by_prompt[seen, 1] > 0
            parts = {
                "overall": _macro(self.images, self.total, self.tags, self._steps).item(),
                "micro": sum(sums) / n if n else float("nan"),
            }
            parts |= {tag: sums[i] / counts[i] for i, tag in enumerate(self.tags) if counts[i]}
            parts["n"] = n
            parts["prompts"] = int(seen.sum())
            parts["pass_at_k"] = solved.float().mean().item() if len(solved) else float("nan")
            parts["coverage"] = seen.float().mean().item()
        return parts

    def plot(
        self, val: torch.Tensor | Sequence[torch.Tensor] | None = None, ax: Axes | None = None
    ) -> tuple[Figure, Axes]:
        """Plot the scores of the tasks and the overall score as bars, or a curve of values.

        The bars have 95 % intervals, clustered by prompt, for the official credit of prompts that are among the metric's
        `prompts`; the states do not hold what intervals of the other credits need.

        Args:
            val: A result of `compute` or `forward`, or a list of results for a curve; None plots the current state by task.
            ax: Axes to draw on; None makes new ones.

        Returns:
            The figure and the axes.

        Raises:
            DependencyError: If matplotlib is not installed.
        """
        lower = None if self.credit == "flow_grpo" else self.plot_lower_bound
        if val is not None:
            return plot_single_or_multi_val(  # type: ignore[return-value]
                val,
                ax=ax,
                higher_is_better=self.higher_is_better,
                lower_bound=lower,
                upper_bound=self.plot_upper_bound,
                name=type(self).__name__,
            )
        pyplot = require("matplotlib.pyplot", "report", "plot")
        parts, intervals = self.breakdown(), self._intervals()
        names = [name for name in (*self.tags, "overall") if name in parts]
        if ax is None:
            ax = pyplot.subplots(figsize=(6.4, 0.9 + 0.38 * len(names)), layout="constrained")[1]
        for place, name in enumerate(names):
            ax.barh(place, parts[name], height=0.62, color="#0072B2" if name == "overall" else "#8FBEDC")
            end = parts[name]
            if name in intervals:
                one = intervals[name]
                ax.plot([one.low, one.high], [place, place], color="#16181b", linewidth=1.5, marker="|", markersize=7)
                end = max(end, one.high)
            ax.annotate(f"{parts[name]:.3f}", (max(end, 0), place), (5, 0), textcoords="offset points", va="center")
        ax.set_yticks(range(len(names)), names)
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.set_xlim(lower, 1.15)  # room for the figure beside a full bar
        what = "share of correct images" if self.credit == "official" else f"mean credit {self.credit!r}"
        ax.set_xlabel(what + (", 95 % intervals" if intervals else ""))
        ax.set_title(f"GenEval, {parts['n']:,} image" + ("" if parts["n"] == 1 else "s"))
        ax.spines[["top", "right"]].set_visible(False)
        return ax.figure, ax  # type: ignore[return-value]

    def _intervals(self) -> dict[str, Interval]:
        """Intervals by task, where the states say which prompt every image was of."""
        with self.sync_context(
            dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync, should_unsync=self._should_unsync
        ):
            rows, images = self.by_prompt.tolist(), int(self.images.sum())
        if self.credit != "official" or not images or sum(count for count, _ in rows) != images:
            return {}
        correct = [place < solved for count, solved in rows for place in range(count)]
        ids = [row for row, (count, _) in enumerate(rows) for _ in range(count)]
        scores = clustered_bootstrap(correct, ids, [self.prompts[row].tag for row in ids], draws=2000)
        found = {name: one.interval for name, one in {**scores.tags, "overall": scores.overall}.items()}
        return {name: one for name, one in found.items() if one.low == one.low}


def geneval_score(
    images: Any,
    prompts: Sequence[Prompt] | str,
    scorer: Scorer | str = "lite",
    credit: Credit = "official",
) -> torch.Tensor:
    """Compute the GenEval score of a set of images: the functional twin of `GenEvalScore`.

    Args:
        images: Images as `GenEvalScorer.score` takes them.
        prompts: For each image a prompt text of the official suite, a record or a spec.
        scorer: A scorer, or the name of a backend, which is loaded for this call.
        credit: The credit to average.

    Returns:
        A float32 scalar: the mean of the task means over the tasks with images; NaN if there are no images.

    Raises:
        ImageError: If an image cannot be scored.
        SpecError: If a prompt is not valid or not known.
        UsageError: If there are not as many prompts as images, or the credit or backend is unknown.
    """
    verdicts = LazyScorer(scorer).load().score(images, [prompts] if isinstance(prompts, str) else prompts)
    tags = sort_tags(verdict.spec.tag for verdict in verdicts)
    counts = torch.zeros(len(tags), dtype=torch.int64)
    total = torch.zeros(len(tags), dtype=torch.float64)
    for verdict in verdicts:
        counts[tags.index(verdict.spec.tag)] += 1
        total[tags.index(verdict.spec.tag)] += verdict.credit(credit)
    return _macro(counts, total, tags)


class _LastBatches:
    """Remembers the last batch of each scorer, so that several metrics with one scorer run the detector once.

    This happens only for scorers that more than one metric uses. A batch is recognised by a digest of its pixels and specs.
    """

    def __init__(self) -> None:
        self._users: weakref.WeakKeyDictionary[Scorer, int] = weakref.WeakKeyDictionary()
        self._last: weakref.WeakKeyDictionary[Scorer, tuple[bytes, list[Verdict]]] = weakref.WeakKeyDictionary()

    def expect(self, scorer: Scorer | None) -> None:
        """Note that another metric uses a scorer."""
        if scorer is not None and _is_weakly_hashable(scorer):
            self._users[scorer] = self._users.get(scorer, 0) + 1

    def score(self, scorer: Scorer, images: Any, specs: list[PromptSpec]) -> list[Verdict]:
        """Judge images, or return the stored verdicts if the scorer has just judged the same images."""
        if not _is_weakly_hashable(scorer) or self._users.get(scorer, 0) < 2:
            return scorer.score(images, specs)
        tensors = as_images(images)
        digest = hashlib.blake2b(repr([spec.to_json() for spec in specs]).encode())
        for tensor in tensors:
            digest.update(repr(tuple(tensor.shape)).encode())
            digest.update(tensor.cpu().contiguous().numpy().data)
        key, verdicts = self._last.get(scorer, (b"", []))
        if key != digest.digest():
            verdicts = scorer.score(tensors, specs)
            self._last[scorer] = digest.digest(), verdicts
        return verdicts


_last_batches = _LastBatches()


def _is_weakly_hashable(scorer: Any) -> bool:
    return type(scorer).__hash__ is not None and hasattr(type(scorer), "__weakref__")


def _refuse_bootstrapping(metric: GenEvalScore) -> None:
    """Raise if a `BootStrapper` is calling: it resamples the images and leaves a list of prompts as it is."""
    frame = sys._getframe(2)
    for _ in range(4):  # update, and what torchmetrics wraps around it
        if frame.f_back is None:
            return
        frame = frame.f_back
        if isinstance(frame.f_locals.get("self"), BootStrapper):
            raise UsageError(
                "prompts: expected an integer tensor of rows of the metric's `prompts` under BootStrapper, which resamples "
                "tensors and nothing else, got a list; `geneval_reward.stats.clustered_bootstrap` gives intervals too"
            )


def _identity(scorer: Scorer | str, credit: Credit, prompts: tuple[PromptSpec, ...]) -> torch.Tensor:
    """Hash what a metric counts into small integers; torchmetrics compares states with a tolerance that blurs large ones."""
    text = f"{scorer if isinstance(scorer, str) else id(scorer)} {credit} {hash(prompts)}"
    return torch.tensor(list(hashlib.sha256(text.encode()).digest()[:8]), dtype=torch.int64)


def _macro(images: torch.Tensor, total: torch.Tensor, tags: Sequence[str], steps: int = 1) -> torch.Tensor:
    # Computed on the CPU, because not every device has float64.
    counts, sums = images.cpu(), total.cpu().double() / steps
    mean = float(mean_of_task_means(sums.numpy(), counts.numpy(), tags))
    return torch.tensor(mean, dtype=torch.float32, device=images.device)
