"""`LazyScorer`: a scorer by name, import path or function, loaded when it is first needed."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import torch

from geneval_reward.errors import UsageError
from geneval_reward.scorer.geneval import GenEvalScorer
from geneval_reward.scorer.protocol import Scorer
from geneval_reward.support.imports import import_object, is_import_path
from geneval_reward.support.signatures import check_part
from geneval_reward.vision.backends import resolve_device

_MEMBERS: Final = ("name", "rules", "score(images, specs)", "fingerprint()", "to(device)")  # of a `Scorer`


class LazyScorer:
    """A scorer that is loaded when it is first needed, once for everybody who shares this object.

    Copies share what was loaded. Pickled, it takes along only what it was made from.

    Args:
        source: A scorer, a function that makes one, the import path of either (`module:attribute` or `file.py:attribute`), or
            the name of a backend.
        **options: Keyword arguments of `GenEvalScorer.from_pretrained`; only with the name of a backend. With an import path
            only `device`, and those that change nothing (None, False, `auto`).

    Raises:
        UsageError: If `source` is none of these, its members do not fit, or there are options for a scorer that exists already.
    """

    def __init__(self, source: Scorer | Callable[[], Scorer] | str, **options: Any) -> None:
        self.source = source
        self.options = options
        self._lock = threading.Lock()
        self._loaded: Scorer | None = None
        path = isinstance(source, str) and is_import_path(source)
        given = [
            name for name in options if not path or (name != "device" and options[name] not in (None, False, "auto"))
        ]
        if given and (path or not isinstance(source, str)):
            raise UsageError(f"{given[0]}: expected no options beside a ready scorer; give them to the scorer")
        if isinstance(source, str) and not path:
            return
        found = import_object(source, "scorer") if isinstance(source, str) else source
        if inspect.getattr_static(found, "score", None) is not None and not inspect.isclass(found):
            self._loaded = _checked(found)
        elif not callable(found):
            raise UsageError(
                f"scorer: expected a scorer or the name of a backend, got {type(found).__name__}, which lacks "
                "score(images, specs); see geneval_reward.Scorer"
            )
        elif path:
            check_part("scorer", found, "()")

    @property
    def loaded(self) -> Scorer | None:
        """The scorer, if there is one already."""
        return self._loaded

    def load(self, device: torch.device | str | None = None) -> Scorer:
        """Return the scorer, loading it now if need be.

        Args:
            device: Where to load a backend, or what an import path makes; None for the `device` among the options, or `auto`. A
                scorer that exists already stays where it is.
        """
        with self._lock:
            if self._loaded is None:
                options = self.options if device is None else {**self.options, "device": device}
                if not isinstance(self.source, str):
                    self._loaded = _checked(self.source())  # type: ignore[operator]
                elif is_import_path(self.source):
                    made = _checked(import_object(self.source, "scorer")())
                    made.to(resolve_device(options.get("device", "auto")))
                    self._loaded = made
                else:
                    self._loaded = GenEvalScorer.from_pretrained(self.source, **options)
            return self._loaded

    def __deepcopy__(self, memo: dict[int, Any]) -> LazyScorer:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(LazyScorer, self.source, **self.options), ()

    def __repr__(self) -> str:
        return repr(self.source)


def _checked(scorer: Any) -> Scorer:
    check_part("scorer", scorer, *_MEMBERS)
    found: Scorer = scorer
    return found
