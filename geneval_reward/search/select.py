"""Selections: choose which candidates of a prompt to keep, by rewards or features."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt
from scipy.cluster.vq import kmeans2

from geneval_reward.errors import UsageError

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
Potential = Literal["value", "difference", "max", "sum"]
POTENTIALS: Final = ("value", "difference", "max", "sum")


@dataclass(frozen=True)
class Group:
    """The candidates of one prompt as a selection sees them.

    Attributes:
        rewards: `(n,)`, NaN where a candidate has none; None if the plan needs no rewards here.
        history: `(k, n)` rewards of the candidates' ancestors at the k earlier checks, oldest first.
        log_weights: `(n,)` log weights that Feynman-Kac has not yet used in a draw.
        features: `(n, d)`, or `(n, p, d)` for p patches; None if no selection needs them.
        last: Whether the candidates are finished images.
    """

    rewards: Floats | None
    history: Floats
    log_weights: Floats
    features: Floats | None = None
    last: bool = False

    @property
    def count(self) -> int:
        """Number of candidates."""
        return len(self.log_weights)

    @property
    def known(self) -> Floats:
        """The rewards, which must not be None."""
        if self.rewards is None:
            raise UsageError("rewards: expected one per candidate for this selection, got none; give search a reward")
        return self.rewards


class Select(Protocol):
    """Chooses `keep` of the candidates; `rows` may repeat a candidate only if `copies` says so.

    Attributes:
        name: Its name in the lineage.
        needs: `rewards`, `features` or an empty string.
        copies: Whether a candidate may be chosen several times.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def needs(self) -> str: ...  # noqa: D102

    @property
    def copies(self) -> bool: ...  # noqa: D102

    def __call__(self, group: Group, keep: int, rng: np.random.Generator) -> tuple[Rows, Floats]:
        """Return `(keep,)` rows and the log weights that they carry on."""
        ...


@dataclass(frozen=True)
class First:
    """Chooses the first candidates, without looking at anything."""

    name: ClassVar[str] = "first"
    needs: ClassVar[str] = ""
    copies: ClassVar[bool] = False

    def __call__(self, group: Group, keep: int, rng: np.random.Generator) -> tuple[Rows, Floats]:
        """Choose."""
        return np.arange(keep), np.zeros(keep)


@dataclass(frozen=True)
class Random:
    """Chooses candidates at random without repetition: the control for all other selections."""

    name: ClassVar[str] = "random"
    needs: ClassVar[str] = ""
    copies: ClassVar[bool] = False

    def __call__(self, group: Group, keep: int, rng: np.random.Generator) -> tuple[Rows, Floats]:
        """Choose."""
        return np.sort(rng.choice(group.count, keep, replace=False)), np.zeros(keep)


@dataclass(frozen=True)
class Top:
    """Chooses the highest rewards, best first; ties go to the earlier one. Candidates without a reward come last."""

    name: ClassVar[str] = "top"
    needs: ClassVar[str] = "rewards"
    copies: ClassVar[bool] = False

    def __call__(self, group: Group, keep: int, rng: np.random.Generator) -> tuple[Rows, Floats]:
        """Choose."""
        order = np.argsort(-np.nan_to_num(group.known, nan=-np.inf, neginf=-np.inf), kind="stable")
        return order[:keep], np.zeros(keep)


@dataclass(frozen=True)
class Resample:
    """Draws with replacement, `p ~ exp(lam * potential)`: a selection, not a sample of a tilted law.

    Attributes:
        lam: Sharpness: multiplies the potential in units of its standard deviation over the group or, with
            `relative=False`, the potential itself. The released code uses 10 with ImageReward, whose values vary by about 1.
        potential: `value`, the reward now; `difference` from the check before; `max` or `sum` over all checks so far.
        relative: See `lam`. With it, candidates whose potentials are all equal are drawn with equal chances.

    Source: TTS-VAR (arXiv 2507.18537), whose released code runs only `value`.
    """

    lam: float = 10.0
    potential: Potential = "value"
    relative: bool = True
    name: ClassVar[str] = "resample"
    needs: ClassVar[str] = "rewards"
    copies: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check(self.lam, self.potential)

    def __call__(self, group: Group, keep: int, rng: np.random.Generator) -> tuple[Rows, Floats]:
        """Choose."""
        scores = potential_of(self.potential, np.vstack([group.history, group.known]))
        if self.relative:
            spread = float(np.nanstd(scores)) if np.isfinite(scores).any() else 0.0
            # Treat a spread that is only rounding as none.
            largest = float(np.nanmax(np.abs(scores), initial=0.0))
            scores = (
                scores / spread if spread > 1e-9 * max(largest, 1e-300) else np.where(np.isnan(scores), np.nan, 0.0)
            )
        return rng.choice(group.count, keep, p=chances(self.lam * scores)), np.zeros(keep)


@dataclass(frozen=True)
class FeynmanKac:
    """Draws with replacement by particle weights whose product over all checks is `exp(lam * final reward)`.

    At the last step the weight is divided by the product of those before, so that the finalists are a weighted sample of the
    model's law tilted by `exp(lam * reward)`, whatever the potential on the way.

    Attributes:
        lam: Sharpness, in units of 1 / reward.
        potential: As for `Resample`; `sum` is called ADD in the released code.
        adaptive: Draw only if the effective sample size has fallen below half of the candidates; otherwise they keep their
            weights until the next check. At the last step this rule always holds.

    Source: Feynman-Kac steering (arXiv 2501.06848) and its released code. Weights are kept as logarithms, so they need no
    upper bound (1e10 there).
    """

    lam: float = 10.0
    potential: Potential = "max"
    adaptive: bool = False
    name: ClassVar[str] = "feynman-kac"
    needs: ClassVar[str] = "rewards"
    copies: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check(self.lam, self.potential)

    def log_potentials(self, rewards: Floats, last: bool) -> Floats:
        """Compute the log weights of every check, `(k, n)`; NaN where there is no reward.

        Args:
            rewards: `(k, n)`, oldest first.
            last: Whether the last check is at the last step.
        """
        steps = [potential_of(self.potential, rewards[: k + 1]) for k in range(len(rewards))]
        logs = self.lam * np.vstack(steps)
        if last:
            past = np.nan_to_num(logs[:-1], nan=0.0).sum(0)
            logs[-1] = self.lam * rewards[-1] - past
        return logs

    def __call__(self, group: Group, keep: int, rng: np.random.Generator) -> tuple[Rows, Floats]:
        """Choose."""
        weights = group.log_weights + self.log_potentials(np.vstack([group.history, group.known]), group.last)[-1]
        p = chances(weights)
        size = 1 / float((p**2).sum())
        if (self.adaptive or group.last) and size >= group.count / 2 and keep == group.count:
            finite = np.where(np.isfinite(weights), weights, -np.inf)
            return np.arange(keep), finite - finite.max() if np.isfinite(finite).any() else np.zeros(keep)
        return rng.choice(group.count, keep, p=p), np.zeros(keep)


@dataclass(frozen=True)
class Cluster:
    """Keeps the candidate nearest the centre of each of `keep` feature clusters (k-means++); uses no reward.

    Features with patches are first reduced to a vector per image: the projections of its patches on their first principal
    component. The component's sign is fixed (its largest entry is positive); the released code leaves it to the solver, which
    can flip the vectors of similar images.

    Source: TTS-VAR (arXiv 2507.18537).
    """

    name: ClassVar[str] = "cluster"
    needs: ClassVar[str] = "features"
    copies: ClassVar[bool] = False

    def __call__(self, group: Group, keep: int, rng: np.random.Generator) -> tuple[Rows, Floats]:
        """Choose."""
        if group.features is None or len(group.features) != group.count:
            got = "none" if group.features is None else str(len(group.features))
            raise UsageError(f"features: expected one row for each of {group.count} candidates, got {got}")
        points = (
            first_component(group.features) if group.features.ndim == 3 else group.features.reshape(group.count, -1)
        )
        if not np.isfinite(points).all():
            raise UsageError("features: expected finite numbers, got NaN or infinity")
        centres = spread_points(points, keep, rng)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*clusters is empty.*")
            centres = kmeans2(points, centres, minit="matrix")[0]
        rows: list[int] = []
        for centre in centres:
            distances = ((points - centre) ** 2).sum(1)
            distances[rows] = np.inf  # one candidate may be the nearest to two centres
            rows.append(int(distances.argmin()))
        return np.sort(np.array(rows, np.int64)), np.zeros(keep)


def spread_points(points: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Choose `count` of the points `(n, d)` as initial centres, with probability proportional to squared distance (k-means++).

    If fewer points are distinct, the rest are drawn with equal probability.
    """
    rows = [int(rng.integers(len(points)))]
    while len(rows) < count:
        distances = ((points[:, None] - points[rows]) ** 2).sum(2).min(1)
        distances[rows] = 0
        if not distances.any():
            distances = np.ones(len(points))
            distances[rows] = 0
        rows.append(int(rng.choice(len(points), p=distances / distances.sum())))
    return points[rows]


def first_component(features: Floats) -> Floats:
    """Project the patches of each image on their first principal component: `(n, p, d)` to `(n, p)`, with a fixed sign."""
    centred = features - features.mean(1, keepdims=True)
    component = np.linalg.svd(centred, full_matrices=False)[2][:, 0]
    largest = np.abs(component).argmax(1)
    sign = np.sign(component[np.arange(len(component)), largest])
    projected: Floats = np.einsum("npd,nd->np", centred, component * np.where(sign == 0, 1, sign)[:, None])
    return projected


def potential_of(potential: Potential, rewards: Floats) -> Floats:
    """Reduce the rewards `(k, n)` of all checks so far to one number per candidate; NaN if it has no reward now."""
    now = rewards[-1]
    if potential == "difference" and len(rewards) > 1:
        now = now - np.nan_to_num(rewards[-2], nan=0.0)
    elif potential == "max":
        now = np.where(np.isnan(now), np.nan, np.fmax.reduce(rewards, axis=0))
    elif potential == "sum":
        now = np.where(np.isnan(now), np.nan, np.nansum(rewards, axis=0))
    return np.where(np.isfinite(now), now, np.nan)


def chances(log_weights: Floats) -> Floats:
    """Convert log weights `(n,)` to probabilities: 0 for NaN and -infinity, and uniform if nothing else is left."""
    logs = np.where(np.isnan(log_weights), -np.inf, log_weights)
    if not np.isfinite(logs).any():
        return np.full(len(logs), 1 / len(logs))
    weights = np.exp(logs - logs.max())
    result: Floats = weights / weights.sum()
    return result


def _check(lam: float, potential: str) -> None:
    if not (np.isfinite(lam) and lam >= 0):
        raise UsageError(f"lam: expected a number >= 0, got {lam!r}")
    if potential not in POTENTIALS:
        raise UsageError(f"potential: expected one of {', '.join(POTENTIALS)}, got {potential!r}")
