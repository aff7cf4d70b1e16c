"""The package's exceptions.

    GenEvalError(Exception)
     ├── SpecError(ValueError)      a prompt record that is not one
     ├── ImageError(ValueError)     an image that cannot be scored
     ├── WeightsError(OSError)      weights that are missing, wrong or damaged
     ├── ResultsError(ValueError)   a results file that cannot be read
     ├── SelfTestError(RuntimeError)  a backend that does not see what it must see
     ├── RoundError(RuntimeError)   a scoring round within a training run that failed
     └── ServiceError(OSError)      a reward server that cannot start, be reached or answer

Every message says what was expected, what came and what to do, and names the argument, index or file.
"""

from __future__ import annotations


class GenEvalError(Exception):
    """Base class of all errors that this package raises on purpose."""


class SpecError(GenEvalError, ValueError):
    """A prompt record, prompt string or class, colour, relation or tag that is not valid."""


class ImageError(GenEvalError, ValueError):
    """An image that cannot be scored: wrong range, shape, mode, or a file that cannot be decoded."""


class WeightsError(GenEvalError, OSError):
    """Model weights that are missing, damaged, of another architecture, or not permitted."""


class ResultsError(GenEvalError, ValueError):
    """A results file that cannot be read or does not fit what is asked of it."""


class SelfTestError(GenEvalError, RuntimeError):
    """A loaded backend that does not find what a working one must find."""


class RoundError(GenEvalError, RuntimeError):
    """A scoring round within a training run that failed, on any rank; raised on all of them."""


class ServiceError(GenEvalError, OSError):
    """A reward server that cannot start, cannot be reached in time, or refuses a request; names it and its last answer."""
