"""`RewardBins`: rewards as levels in [0, 1], the form in which a model is told how good an image is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from geneval_reward.errors import FileError, UsageError
from geneval_reward.support.files import parse_json

Kind = Literal["quantile", "values"]
Levels = npt.NDArray[np.float32]

MOST_VALUES = 16
"""A reward with no more distinct values than this has one bin per value."""


@dataclass(frozen=True)
class RewardBins:
    """The bins of several rewards.

    A bin's level is its index divided by the highest index, so the worst bin is 0 and the best is 1. What has no reward has
    no bin: its index is -1 and its level is NaN, for which `RewardTokens` has a token of its own.

    - **values**: a reward with few distinct values, such as a GenEval verdict, has a bin for each of them. A value that was
      not among those that were fitted belongs to the nearest, and of two equally near ones to the lower.
    - **quantile**: a continuous reward has bins of equally many samples, as far as ties allow: samples with the same value are
      always in the same bin, and bins that would be empty are left out, so there may be fewer than were asked for. The outer
      bins have no outer edge: they take in all that lies beyond.

    Attributes:
        kinds: `values` or `quantile` for each reward, in the order of the tokens.
        edges: For `values` the values in rising order; for `quantile` the inner edges, in rising order. A value on an edge
            belongs to the bin above it.

    Source: 64 quantile bins and the levels `index / (bins - 1)` are those of MIRO (arXiv 2510.25897). The released code takes
    quantiles over distinct values, uses uniform bins if there are fewer than 65 of them, and stores 0 for a missing score.

    Examples:
        >>> bins = RewardBins.fit({"geneval": [0, 1, 1, None], "aesthetic": [5.1, 4.0, 6.2, 5.7]}, bins=2)
        >>> bins.kinds, bins.count("geneval")
        ({'geneval': 'values', 'aesthetic': 'values'}, 2)
        >>> bins.index("geneval", [1, None]).tolist()
        [1, -1]
    """

    kinds: Mapping[str, Kind]
    edges: Mapping[str, tuple[float, ...]] = field(repr=False)

    def __post_init__(self) -> None:
        if not self.kinds or set(self.kinds) != set(self.edges):
            raise UsageError(
                f"edges: expected those of {', '.join(self.kinds) or 'some rewards'}, got {list(self.edges)}"
            )
        for name, kind in self.kinds.items():
            if kind not in ("quantile", "values"):
                raise UsageError(f"kinds[{name!r}]: expected quantile or values, got {kind!r}")
            edges = np.asarray(self.edges[name], float)
            least = 2 if kind == "values" else 1
            if len(edges) < least or not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
                raise UsageError(
                    f"edges[{name!r}]: expected at least {least} finite numbers in rising order, got {self.edges[name]}"
                )

    @classmethod
    def fit(
        cls,
        rewards: Mapping[str, Sequence[float | None] | npt.NDArray[np.float64]],
        bins: int = 64,
        kinds: Mapping[str, Kind] | None = None,
    ) -> RewardBins:
        """Choose the bins for annotated samples.

        Args:
            rewards: The values of each reward, one per sample; None or NaN where there is none.
            bins: Number of bins of a continuous reward, >= 2.
            kinds: The kind of rewards for which the number of distinct values (up to 16: `values`) should not decide.

        Raises:
            UsageError: If a reward has fewer than two distinct values, an infinite one, or text.
        """
        if bins < 2:
            raise UsageError(f"bins: expected an integer >= 2, got {bins}")
        unknown = sorted(set(kinds or {}) - set(rewards))
        if unknown:
            raise UsageError(f"kinds: expected names of {', '.join(rewards)}, got {unknown[0]!r}")
        found: dict[str, Kind] = {}
        edges: dict[str, tuple[float, ...]] = {}
        for name, column in rewards.items():
            values = _numbers(name, column)
            values = np.sort(values[~np.isnan(values)])
            distinct = np.unique(values)
            if len(distinct) < 2:
                raise UsageError(
                    f"rewards[{name!r}]: expected at least two distinct values, got {len(distinct)} in {len(values)} samples "
                    f"of {len(column)} that have one; leave this reward out, since it tells nothing apart"
                )
            found[name] = (kinds or {}).get(name, "values" if len(distinct) <= MOST_VALUES else "quantile")
            if found[name] == "values":
                edges[name] = tuple(distinct.tolist())
            else:
                # Edges are values of samples, and an edge at the lowest value would leave the bin below it empty.
                cuts = np.unique(values[np.arange(1, bins) * len(values) // bins])
                edges[name] = tuple(cuts[cuts > values[0]].tolist()) or (float(distinct[-1]),)
        return cls(found, edges)

    @property
    def names(self) -> tuple[str, ...]:
        """The rewards in the order of their tokens."""
        return tuple(self.kinds)

    def count(self, name: str) -> int:
        """Return the number of bins of a reward."""
        return len(self._edges(name)) + (self.kinds[name] == "quantile")

    def index(self, name: str, values: Sequence[float | None] | npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """Return the bin of each value, from 0; -1 for None and NaN.

        Raises:
            UsageError: If there is no such reward, or a value is infinite or text.
        """
        edges, numbers = self._edges(name), _numbers(name, values)
        if self.kinds[name] == "values":
            middles = (edges[:-1] + edges[1:]) / 2
            found = np.searchsorted(middles, numbers, side="left")
        else:
            found = np.searchsorted(edges, numbers, side="right")
        return np.where(np.isnan(numbers), -1, found).astype(np.int64)

    def levels(self, rewards: Mapping[str, Sequence[float | None] | npt.NDArray[np.float64]]) -> Levels:
        """Return the levels of samples, `(n, rewards)` float32 in [0, 1], with NaN where a reward is missing.

        Raises:
            UsageError: If a reward is missing, or they are not equally many.
        """
        missing = [name for name in self.names if name not in rewards]
        if missing:
            raise UsageError(f"rewards: expected {', '.join(self.names)}, got none named {missing[0]!r}")
        if len({len(rewards[name]) for name in self.names}) > 1:
            sizes = {name: len(rewards[name]) for name in self.names}
            raise UsageError(f"rewards: expected as many values of each, got {sizes}")
        columns = []
        for name in self.names:
            index = self.index(name, rewards[name])
            columns.append(np.where(index < 0, np.nan, index / (self.count(name) - 1)))
        return np.stack(columns, 1).astype(np.float32)

    def to_json(self) -> str:
        """Return the bins as one JSON object: `{reward: {"kind": ..., "edges": [...]}}`."""
        return json.dumps({name: {"kind": kind, "edges": self.edges[name]} for name, kind in self.kinds.items()})

    @classmethod
    def from_json(cls, text: str) -> RewardBins:
        """Read what `to_json` wrote.

        Raises:
            FileError: If the text is not of this form.
            UsageError: If the edges are not in order.
        """
        found: Any = parse_json(text)
        try:
            kinds = {name: one["kind"] for name, one in found.items()}
            edges = {name: tuple(float(edge) for edge in one["edges"]) for name, one in found.items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise FileError(f"bins: expected what RewardBins.to_json writes, got {text[:60]!r} ({error!r})") from error
        return cls(kinds, edges)

    def _edges(self, name: str) -> npt.NDArray[np.float64]:
        if name not in self.kinds:
            raise UsageError(f"name: expected one of {', '.join(self.names)}, got {name!r}")
        return np.asarray(self.edges[name], float)


def _numbers(name: str, values: Any) -> npt.NDArray[np.float64]:
    try:
        numbers = np.array([np.nan if value is None else value for value in values], np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(f"rewards[{name!r}]: expected numbers and None, got {error}") from error
    infinite = np.flatnonzero(np.isinf(numbers))
    if len(infinite):
        raise UsageError(
            f"rewards[{name!r}][{infinite[0]}]: expected a finite number or None, got {numbers[infinite[0]]}"
        )
    return numbers
