"""Plans: numbers of candidates and the selections among them, and the published plans by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from geneval_reward.errors import UsageError
from geneval_reward.search.select import Cluster, FeynmanKac, First, Potential, Random, Resample, Select, Top
from geneval_reward.search.steps import Steps, has_previews

TTS_VAR_SIZES: Final = (8, 6, 4, 2, 1)
"""Candidates per finalist before and after each of the four selections of TTS-VAR."""
_SCALES, _SELECTIONS = 13, (2, 5, 6, 9)


@dataclass(frozen=True)
class Plan:
    """The plan of a search for one image.

    Attributes:
        n: Candidates at the start, >= 1.
        selections: `{step: (keep, select)}`: after step `step`, from 0, `select` keeps `keep` candidates. Batches never grow.
        finish: Chooses the image among the finalists; the others follow in order of reward.

    Raises:
        UsageError: If a number is < 1 or a batch would grow.

    Examples:
        >>> plan = Plan(4, {1: (2, Random())})
        >>> plan.sizes(4)
        [4, 4, 2, 2]
    """

    n: int
    selections: Mapping[int, tuple[int, Select]] = field(default_factory=dict)
    finish: Select = field(default_factory=Top)

    def __post_init__(self) -> None:
        if isinstance(self.n, bool) or not isinstance(self.n, int) or self.n < 1:
            raise UsageError(f"n: expected an integer >= 1, got {self.n!r}")
        now = self.n
        for step, (keep, _) in sorted(self.selections.items()):
            if not 1 <= keep <= now:
                raise UsageError(
                    f"selections[{step}]: expected to keep 1 to {now} candidates, got {keep}; batches cannot grow"
                )
            now = keep

    def sizes(self, n_steps: int) -> list[int]:
        """Number of candidates in each step, as executed: a selection after step s affects the later steps."""
        now, found = self.n, []
        for step in range(n_steps):
            found.append(now)
            now = self.selections.get(step, (now, None))[0]
        return found

    @property
    def uses_reward(self) -> bool:
        """Whether a reward chooses between candidates anywhere in the plan."""
        now, chosen = self.n, False
        for _, (keep, select) in sorted(self.selections.items()):
            chosen |= now > 1 and select.needs == "rewards"
            now = keep
        return chosen or (now > 1 and self.finish.needs == "rewards")

    def passes(self, steps: Steps) -> float:
        """Cost of the steps, as executed, in units of one plain image, excluding previews, decodes and rewards."""
        return sum(steps.cost(step, size) for step, size in enumerate(self.sizes(steps.n_steps)))

    def check(self, steps: Steps, *, reward: bool, features: bool) -> None:
        """Refuse a plan that a generator cannot carry out.

        Args:
            steps: The generator.
            reward: Whether there is a reward.
            features: Whether there is a function that computes features.

        Raises:
            UsageError: If a selection is at a step that does not exist, looks at previews of a model that has none, copies
                candidates of a model without noise, or lacks a reward or features.
        """
        last = steps.n_steps - 1
        now = self.n
        for step, (keep, select) in sorted(self.selections.items()):
            where = f"selections[{step}] ({select.name})"
            if not 0 <= step <= last:
                raise UsageError(f"{where}: expected a step of 0 to {last}, got {step}")
            if select.copies and now > 1 and step < last and not steps.stochastic:
                raise UsageError(
                    f"{where}: expected steps that draw noise, got a deterministic sampler, in which copies stay equal; take "
                    "the sde or cps steps or eta > 0, or a plan without copies (best-of-n, cluster, random)"
                )
            own = select.needs == "features" and not features and callable(getattr(steps, "features", None))
            if select.needs and step < last and not own and not has_previews(steps):
                raise UsageError(
                    f"{where}: expected a model with previews, got {type(steps).__name__}, which has no preview(state); take "
                    "best-of-n or importance, which look at finished images only"
                )
            if select.needs == "features" and not (features or own):
                raise UsageError(f"{where}: expected features, got none; give search a function of images")
            if select.needs == "rewards" and not reward:
                raise UsageError(f"{where}: expected a reward, got none")
            now = keep
        if self.finish.needs == "rewards" and now > 1 and not reward:
            raise UsageError(f"finish ({self.finish.name}): expected a reward to choose one of {now} images, got none")


def best_of_n(n: int) -> Plan:
    """Finish all candidates and take the best."""
    return Plan(n)


def importance_sampling(n: int, *, lam: float = 10.0) -> Plan:
    """Finish all candidates and draw one with probability `~ exp(lam * reward)`."""
    return Plan(n, finish=Resample(lam, relative=False))


def tts_var(
    n: int,
    n_steps: int,
    *,
    clustering: bool = True,
    resampling: bool = True,
    lam: float = 10.0,
    potential: Potential = "value",
    at: tuple[int, int, int, int] | None = None,
) -> Plan:
    """Make TTS-VAR's plan: cluster 8n candidates to 6n and 4n, resample to 2n and n, and choose the best.

    Args:
        n: Finalists; the search starts with 8n candidates.
        n_steps: Steps of the generator.
        clustering: False drops candidates at random at the first two selections.
        resampling: False drops candidates at random at the last two.
        lam: Sharpness of the resampling, relative to the group's spread.
        potential: See `Resample`.
        at: Steps after which to select; None uses 2, 5, 6 and 9 of 13 as published, or the nearest steps for other numbers.

    Raises:
        UsageError: If the model has fewer than five steps.

    Examples:
        >>> tts_var(1, 13).sizes(13)
        [8, 8, 8, 6, 6, 6, 4, 2, 2, 2, 1, 1, 1]
    """
    if at is None:
        places: list[int] = []
        for scale in _SELECTIONS:
            nearest = round((scale + 1) / _SCALES * n_steps) - 1
            places.append(max(nearest, places[-1] + 1 if places else 0))
        if places[-1] >= n_steps - 1:
            raise UsageError(f"n_steps: expected at least 5 for four selections, got {n_steps}; name the steps in `at`")
    else:
        places = list(at)
    cluster: Select = Cluster() if clustering else Random()
    resample: Select = Resample(lam, potential) if resampling else Random()
    selects = (cluster, cluster, resample, resample)
    return Plan(
        TTS_VAR_SIZES[0] * n,
        {step: (size * n, select) for step, size, select in zip(places, TTS_VAR_SIZES[1:], selects, strict=True)},
    )


def feynman_kac(
    n: int,
    n_steps: int,
    *,
    lam: float = 10.0,
    potential: Potential = "max",
    adaptive: bool = False,
    draw: bool = False,
) -> Plan:
    """Make a Feynman-Kac plan: resample n particles after one, two, three and four fifths of the steps, and at the end.

    Args:
        n: Particles.
        n_steps: Steps of the generator, >= 2.
        lam: Sharpness in units of 1 / reward.
        potential: See `FeynmanKac`.
        adaptive: Resample only where the effective sample size has fallen.
        draw: Return one of the particles as drawn, a sample of the tilted law, rather than the best of them.

    Raises:
        UsageError: If there are fewer than two steps.

    Source: arXiv 2501.06848, whose GenEval script resamples every 20 of 100 steps from 20 to 80 and at the last.
    """
    if n_steps < 2:
        raise UsageError(f"n_steps: expected at least 2, got {n_steps}")
    select = FeynmanKac(lam, potential, adaptive)
    places = {max(round(k / 5 * n_steps) - 1, 0) for k in (1, 2, 3, 4)} | {n_steps - 1}
    return Plan(n, dict.fromkeys(sorted(places), (n, select)), finish=First() if draw else Top())


METHODS: Final = ("tts-var", "cluster", "resample", "random", "fk", "best-of-n", "importance")


def check_method(method: str, lam: float | None = None) -> None:
    """Raise a `UsageError` if there is no such method, or it does not use `lam`."""
    if method not in METHODS:
        raise UsageError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    if lam is not None and method in ("best-of-n", "random", "cluster"):
        raise UsageError(f"lam: expected it to be left out, got {lam}; {method} draws by no reward")


def named_plan(method: str, n: int, n_steps: int, *, lam: float | None = None) -> Plan:
    """Make a plan by its name on the command line.

    Args:
        method: `tts-var`; `cluster`, `resample` or `random`, which are its parts and its control on the same schedule, dropping
            candidates at random in place of the omitted parts; `fk`; `best-of-n`; or `importance`.
        n: Finalists, particles or candidates.
        n_steps: Steps of the generator.
        lam: Sharpness; None for 10 as published.

    Raises:
        UsageError: If there is no such method, or it does not use `lam`.
    """
    check_method(method, lam)
    sharp = 10.0 if lam is None else lam
    if method == "best-of-n":
        return best_of_n(n)
    if method == "importance":
        return importance_sampling(n, lam=sharp)
    if method == "fk":
        return feynman_kac(n, n_steps, lam=sharp)
    clustering, resampling = method in ("tts-var", "cluster"), method in ("tts-var", "resample")
    return tts_var(n, n_steps, lam=sharp, clustering=clustering, resampling=resampling)
