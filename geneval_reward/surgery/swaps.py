"""`Swaps`: replacements of modules and attributes that are taken back in reverse order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from geneval_reward.errors import UsageError


class Swaps:
    """A record of replacements inside a model. It keeps what it took out, so `undo` restores the model bit for bit.

    Args:
        model: The model.

    Examples:
        >>> model = nn.Sequential(nn.Linear(2, 2))
        >>> swaps = Swaps(model)
        >>> swaps.module("0", nn.Identity())
        >>> swaps.undo()
        >>> model[0]
        Linear(in_features=2, out_features=2, bias=True)
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._done: list[tuple[str, Any, Callable[[], Any], Callable[[], None]]] = []

    def module(self, path: str, new: nn.Module) -> None:
        """Put a module in the place of another, which is named as in `named_modules`.

        Raises:
            UsageError: If there is no module of this name.
        """
        try:
            old = self.model.get_submodule(path)
        except AttributeError:
            raise UsageError(
                f"expected the name of a module of {type(self.model).__name__}, got {path!r}, which it does not have"
            ) from None
        self.model.set_submodule(path, new)
        self._done.append(
            (path, new, lambda: self.model.get_submodule(path), lambda: self.model.set_submodule(path, old))
        )

    def attribute(self, owner: Any, name: str, new: Any) -> None:
        """Give an attribute of the model, of one of its modules or of its configuration another value."""
        old = getattr(owner, name)

        def put(value: Any) -> None:
            if isinstance(owner, nn.Module) and isinstance(value, nn.Module) != isinstance(
                getattr(owner, name), nn.Module
            ):
                delattr(owner, name)  # a registered module cannot be overwritten by a plain value
            setattr(owner, name, value)

        put(new)
        self._done.append((name, new, lambda: getattr(owner, name), lambda: put(old)))

    def undo(self) -> None:
        """Take all replacements back, the last first; a second call does nothing.

        Raises:
            UsageError: If something else has replaced them since; nothing is taken back then.
        """
        checked: list[str] = []
        for name, new, read, _ in reversed(self._done):
            # What was replaced first inside a module that was then replaced itself is out of reach until that is undone.
            if any(name == other or name.startswith(f"{other}.") for other in checked):
                continue
            checked.append(name)
            if read() is not new:
                raise UsageError(f"undo: expected {name} as this plan left it; undo first what was applied later")
        while self._done:
            self._done.pop()[3]()
