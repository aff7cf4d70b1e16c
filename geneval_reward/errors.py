"""The package's exceptions.

    GenEvalError(Exception)
     ├── UsageError(ValueError)     an argument that is not valid
     ├── SpecError(ValueError)      a prompt record that is not one
     ├── ImageError(ValueError)     an image that cannot be scored
     ├── WeightsError(OSError)      weights that are missing, wrong or damaged
     ├── ScoringError(RuntimeError)  a batch of which some images could not be scored; carries the verdicts of the others
     ├── FileError(ValueError)      a file whose content is not what it must be
     │    └── ResultsError          a results file that cannot be read or does not fit
     ├── DependencyError(ImportError)  an optional package that is not installed or cannot be used
     ├── SelfTestError(RuntimeError)  a backend that does not see what it must see
     ├── SearchError(RuntimeError)  a search whose reward failed for every candidate; carries what was found
     ├── GeneratorError(OSError)   a generator's own process that cannot start, ends, hangs, or gives no images
     ├── RoundError(RuntimeError)   a scoring round within a training run that failed
     │    └── OutOfStepError        the same where weights are sharded, so that the run cannot go on
     └── ServiceError(OSError)      a reward server that cannot start, be reached or answer

Every message says what was expected, what came and what to do, and names the argument, index or file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class GenEvalError(Exception):
    """Base class of all errors that this package raises on purpose."""


class UsageError(GenEvalError, ValueError):
    """An argument or option that is not valid. The command line prints it as one line."""


class SpecError(GenEvalError, ValueError):
    """A prompt record, prompt string or class, colour, relation or tag that is not valid."""


class ImageError(GenEvalError, ValueError):
    """An image that cannot be scored: wrong range, shape, mode, or a file that cannot be decoded."""


class WeightsError(GenEvalError, OSError):
    """Model weights that are missing, damaged, of another architecture, or not permitted."""


class ScoringError(GenEvalError, RuntimeError):
    """A batch of which some images could not be scored, though the others could.

    Raised by scorers that judge each image on its own, such as a remote one. A host that can go on without some images
    catches it and uses `verdicts`; nothing that was judged is lost.

    Args:
        verdicts: One entry per image of the batch, in order: the `Verdict`, or None where there is none.
        errors: One entry per image: what went wrong, or None where the image was judged.
    """

    def __init__(self, verdicts: Sequence[Any], errors: Sequence[Exception | None]) -> None:
        failed = [(index, error) for index, error in enumerate(errors) if error is not None]
        index, first = failed[0]
        super().__init__(
            f"{len(failed)} of {len(errors)} images could not be scored; the first is images[{index}]: {first}"
        )
        self.verdicts = list(verdicts)
        self.errors = list(errors)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.verdicts, self.errors)


class FileError(GenEvalError, ValueError):
    """A file, or one line of it, that is not the UTF-8 text or JSON that it must be."""


class ResultsError(FileError):
    """A results file that cannot be read or does not fit what is asked of it."""


class DependencyError(GenEvalError, ImportError):
    """An optional package that is not installed, or that is installed but cannot be imported; says what to install."""


class SelfTestError(GenEvalError, RuntimeError):
    """A loaded backend that does not find what a working one must find."""


class GeneratorError(GenEvalError, OSError):
    """A generator's own process that cannot start, ends, does not answer, or gives something else than images."""


class RoundError(GenEvalError, RuntimeError):
    """A scoring round within a training run that failed, on any rank; raised on all of them."""


class OutOfStepError(RoundError):
    """Sampling that failed on this rank while other ranks wait for its share of the weights; the run cannot go on."""


class SearchError(GenEvalError, RuntimeError):
    """A search whose reward raised for every candidate.

    Args:
        message: What happened.
        found: The `geneval_reward.search.Found` until then: its images are the finished candidates, none if there are none yet.
    """

    def __init__(self, message: str, found: Any) -> None:
        super().__init__(message)
        self.found = found

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.found)


class ServiceError(GenEvalError, OSError):
    """A reward server that cannot start, cannot be reached in time, or refuses a request; names it and its last answer."""


def name_some(names: Sequence[str], count: int | None = None, shown: int = 5, separator: str = ", ") -> str:
    """List the first few names for a message, and say how many more there are.

    Args:
        names: Names; only the first `shown` are needed.
        count: Number of names in all; None takes the length of `names`.
        shown: How many names to list.
        separator: What to write between them; `; ` if the names hold commas.

    Examples:
        >>> name_some(["a", "b", "c"], shown=2)
        'a, b and 1 more'
    """
    more = (len(names) if count is None else count) - shown
    return separator.join(names[:shown]) + (f" and {more:,} more" if more > 0 else "")
