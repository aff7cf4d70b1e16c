"""A random stream that never changes: PCG64, seeded and read as NumPy does it, but without NumPy.

The official suite is defined by a seed of NumPy's generator. Drawing it here keeps the suite, and training prompts with a seed,
independent of the version of NumPy that happens to be installed.

Sources: M. O'Neill, "PCG: A Family of Simple Fast Space-Efficient Statistically Good Algorithms" (2014), XSL-RR 128/64;
"seed_seq_fe" (M. O'Neill 2015) as in numpy's SeedSequence; D. Lemire, "Fast Random Integer Generation in an Interval"
(2019); Floyd's set sampling (Bentley & Floyd 1987). Equal to `numpy.random.default_rng` for what is drawn here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from geneval_reward.errors import UsageError

_M32: Final = 0xFFFFFFFF
_M64: Final = 0xFFFFFFFFFFFFFFFF
_M128: Final = (1 << 128) - 1
_PCG_MULTIPLIER: Final = 0x2360ED051FC65DA44385DF649FCCF645


class Stream:
    """Draws integers and samples from a seed.

    Args:
        seed: Any integer >= 0.

    Examples:
        >>> stream = Stream(43)
        >>> stream.below(80), stream.sample(80, 2)
        (40, [32, 51])
    """

    def __init__(self, seed: int) -> None:
        if seed < 0:
            raise UsageError(f"seed: expected an integer >= 0, got {seed}")
        words = _seed_words(seed, 8)
        first, second, third, fourth = (words[i] | words[i + 1] << 32 for i in range(0, 8, 2))
        self._increment = ((third << 64 | fourth) << 1 | 1) & _M128
        self._state = (self._increment + (first << 64 | second)) & _M128
        self._state = (self._state * _PCG_MULTIPLIER + self._increment) & _M128
        self._half: int | None = None

    def below(self, bound: int) -> int:
        """Draw an integer in `[0, bound)`, with 1 <= bound <= 2**32 - 1."""
        if bound == 1:
            return 0
        product = self._next32() * bound
        if product & _M32 < bound:
            floor = (_M32 + 1 - bound) % bound
            while product & _M32 < floor:
                product = self._next32() * bound
        return product >> 32

    def sample(self, population: int, size: int) -> list[int]:
        """Draw `size` distinct integers of `[0, population)` in random order."""
        chosen: list[int] = []
        for top in range(population - size, population):
            value = self.below(top + 1)
            chosen.append(top if value in chosen else value)
        for i in range(size - 1, 0, -1):
            j = self.below(i + 1)
            chosen[i], chosen[j] = chosen[j], chosen[i]
        return chosen

    def weighted(self, weights: Sequence[int]) -> int:
        """Draw an index in proportion to integer weights."""
        ticket = self.below(sum(weights))
        for index, weight in enumerate(weights):
            ticket -= weight
            if ticket < 0:
                return index
        raise AssertionError("unreachable: the ticket is below the sum of the weights")

    def _next32(self) -> int:
        # One 64-bit output serves two draws, the low half first.
        if self._half is not None:
            value, self._half = self._half, None
            return value
        self._state = (self._state * _PCG_MULTIPLIER + self._increment) & _M128
        folded = (self._state >> 64 ^ self._state) & _M64
        turn = self._state >> 122
        output = (folded >> turn | folded << (64 - turn)) & _M64
        self._half = output >> 32
        return output & _M32


def _seed_words(seed: int, count: int) -> list[int]:
    """Spread a seed over `count` 32-bit words."""
    entropy = [seed >> shift & _M32 for shift in range(0, max(seed.bit_length(), 1), 32)]
    hashed = _Hash(0x43B0D7E5, 0x931E8875)
    pool = [hashed(entropy[i] if i < len(entropy) else 0) for i in range(4)]
    for source in range(4):
        for target in range(4):
            if source != target:
                pool[target] = _mix(pool[target], hashed(pool[source]))
    for word in entropy[4:]:
        for target in range(4):
            pool[target] = _mix(pool[target], hashed(word))
    out = _Hash(0x8B51F9DD, 0x58F38DED)
    return [out(pool[i % 4]) for i in range(count)]


class _Hash:
    """A hash whose constant changes with every call."""

    def __init__(self, constant: int, multiplier: int) -> None:
        self._constant, self._multiplier = constant, multiplier

    def __call__(self, value: int) -> int:
        value ^= self._constant
        self._constant = self._constant * self._multiplier & _M32
        value = value * self._constant & _M32
        return value ^ value >> 16


def _mix(x: int, y: int) -> int:
    value = (0xCA01F9DD * x - 0x4973F715 * y) & _M32
    return value ^ value >> 16
