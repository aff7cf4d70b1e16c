"""What stands in for the few names that a pickle of data needs: makers of bytes, sets and numpy arrays.

The names are those by which CPython 3.8 to 3.14 and numpy 1.x and 2.x pickle their values; arguments are checked one by one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from geneval_reward.errors import GenEvalError


class UnpickleError(GenEvalError, ValueError):
    """A pickle that holds more than data, is damaged, or asks for too much."""


@dataclass
class Ledger:
    """What may still be copied: without it, a short pickle could have one large value copied many times.

    Attributes:
        bytes_left: Bytes that may still be copied, or read as the values of an array.
        items_left: Members of containers that may still be copied.
    """

    bytes_left: int
    items_left: int

    def charge(self, *, size: int = 0, items: int = 0) -> None:
        """Take from what is left.

        Raises:
            UnpickleError: If nothing is left.
        """
        self.bytes_left -= size
        self.items_left -= items
        if self.bytes_left < 0 or self.items_left < 0:
            raise UnpickleError("expected each value to be copied once, got repeated copies")


@dataclass(frozen=True, eq=False)
class Global:
    """A name of a pickle with what stands in for it.

    Attributes:
        name: As it was asked for, for messages.
        make: The call's arguments and the ledger, to a value.
    """

    name: str
    make: Callable[[tuple[Any, ...], Ledger], Any]


@dataclass(eq=False)
class DType:
    """A numpy dtype in the making: pickles give the byte order only after the call.

    Attributes:
        code: Such as `f4`.
        order: `<`, `>` or `|`.
    """

    code: str
    order: str = "|"

    def set_state(self, state: Any) -> None:
        """Take the byte order from what BUILD gives.

        Raises:
            UnpickleError: If the state is of a structured, shaped or annotated dtype.
        """
        plain = type(state) is tuple and len(state) == 8 and all(part is None for part in state[2:5])
        if not plain or type(state[1]) is not str or state[1] not in ("<", ">", "|"):
            raise UnpickleError("expected the state of a plain dtype, got another")
        self.order = state[1]

    def finished(self) -> np.dtype[Any]:
        """The dtype."""
        return np.dtype(self.order + self.code)


@dataclass(eq=False)
class PendingArray:
    """An array between the call that makes it and the state that fills it.

    Attributes:
        memo_slots: Where the pickle keeps it; the finished array goes there too.
    """

    memo_slots: list[int] = field(default_factory=list)

    def finish(self, state: Any, ledger: Ledger) -> npt.NDArray[Any]:
        """The array.

        Raises:
            UnpickleError: If the state is not that of a plain array.
        """
        if type(state) is not tuple or len(state) != 5 or type(state[3]) not in (bool, int):
            raise UnpickleError("expected the state of a plain array, got another")
        return _array(state[4], state[1], state[2], "F" if state[3] else "C", ledger)


KEYS: Final = frozenset({str, bytes, int, float, bool, type(None)})
"""Types that may be keys of dicts and members of sets."""


def hashable(value: Any) -> Any:
    """The value if it may be a key: atoms only, since hashing nested tuples can be made to take forever.

    Raises:
        UnpickleError: If it may not.
    """
    if type(value) not in KEYS:
        raise UnpickleError(f"expected strings, bytes, numbers or None as keys, got {type(value).__name__}")
    # Integers of 64 bits have few collisions; of larger ones any number hash alike.
    if type(value) is int and value.bit_length() > 64:
        raise UnpickleError("expected integers of at most 64 bits as keys, got a larger one")
    return value


# Objects ("O"), records ("V") and dates are left out.
_CODES: Final = re.compile(r"[biufc]\d{1,2}|[SU]\d{1,6}")
_MAX_DIMENSIONS: Final = 8
_MAX_EXTENT: Final = 2**31


def _dtype(arguments: tuple[Any, ...], _: Ledger) -> DType:
    code = arguments[0] if arguments else None
    if type(code) is not str or not _CODES.fullmatch(code):
        shown = repr(code[:20]) if type(code) is str else type(code).__name__
        raise UnpickleError(f"expected a dtype of numbers, booleans, bytes or strings, got {shown}")
    return DType(code)


def _array(buffer: Any, shape: Any, dtype: Any, order: Any, ledger: Ledger) -> npt.NDArray[Any]:
    if type(dtype) is not DType or type(shape) is not tuple or type(buffer) not in (bytes, bytearray):
        raise UnpickleError("expected bytes, a shape and a dtype of an array, got something else")
    if len(shape) > _MAX_DIMENSIONS or any(type(n) is not int or not 0 <= n <= _MAX_EXTENT for n in shape):
        raise UnpickleError(f"expected at most {_MAX_DIMENSIONS} dimensions of integers >= 0, got another shape")
    if type(order) is not str or order not in ("C", "F"):
        raise UnpickleError("expected the order C or F, got another")
    kind = dtype.finished()
    if kind.itemsize == 0:
        raise UnpickleError("expected an array of a dtype of some bytes, got one of none")
    expected = math.prod(shape) * kind.itemsize
    if expected != len(buffer):
        raise UnpickleError(f"expected {expected:,} bytes for an array's shape, got {len(buffer):,}")
    # An array is a view, but its values are looked at, and a scalar is a copy: bytes named often must not cost that often.
    ledger.charge(size=len(buffer))
    flat = np.frombuffer(buffer, kind) if buffer else np.empty(0, kind)
    _check_values(flat)
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _check_values(flat: npt.NDArray[Any]) -> None:
    """Refuse bytes that numpy takes without a look and that are no value of their type."""
    if flat.dtype.kind == "b" and flat.size and flat.view(np.uint8).max() > 1:
        raise UnpickleError("expected booleans of 0 or 1, got another byte")
    if flat.dtype.kind == "U" and flat.size and flat.view(f"{flat.dtype.str[0]}u4").max() > 0x10FFFF:
        raise UnpickleError("expected characters of Unicode, got a larger number")


def _scalar(arguments: tuple[Any, ...], ledger: Ledger) -> Any:
    dtype, data = arguments
    # Empty strings have a dtype of no bytes, which an array may not have.
    if type(dtype) is DType and type(data) is bytes and dtype.code in ("U0", "S0"):
        return np.str_() if dtype.code == "U0" else np.bytes_()
    return _array(data, (1,), dtype, "C", ledger)[0]


def _from_buffer(arguments: tuple[Any, ...], ledger: Ledger) -> npt.NDArray[Any]:
    buffer, dtype, shape, order = arguments
    return _array(buffer, shape, dtype, order, ledger)


def _reconstruct(arguments: tuple[Any, ...], _: Ledger) -> PendingArray:
    if len(arguments) != 3 or arguments[0] is not _NDARRAY:
        raise UnpickleError("expected an empty numpy array to fill, got another class")
    return PendingArray()


def _never(arguments: tuple[Any, ...], _: Ledger) -> Any:
    raise UnpickleError("expected numpy's arrays by way of their state, got a call of the class")


def _encode(arguments: tuple[Any, ...], ledger: Ledger) -> bytes:
    """Bytes as protocols 0 to 2 write them."""
    text, encoding = arguments
    if type(text) is not str or type(encoding) is not str or encoding not in ("latin1", "latin-1"):
        raise UnpickleError("expected bytes as a latin1 string, got another encoding")
    ledger.charge(size=len(text))
    return text.encode("latin1")


def _bytes(arguments: tuple[Any, ...], _: Ledger) -> bytes:
    if arguments:
        raise UnpickleError("expected empty bytes, got a call with arguments")
    return b""


def _bytearray(arguments: tuple[Any, ...], ledger: Ledger) -> bytearray:
    if arguments and (len(arguments) > 1 or type(arguments[0]) is not bytes):
        raise UnpickleError("expected a bytearray of bytes, got something else")
    ledger.charge(size=len(arguments[0]) if arguments else 0)
    return bytearray(*arguments)


def _complex(arguments: tuple[Any, ...], _: Ledger) -> complex:
    if len(arguments) != 2 or any(type(part) is not float for part in arguments):
        raise UnpickleError("expected a complex number of two floats, got something else")
    return complex(*arguments)


def _members(arguments: tuple[Any, ...], ledger: Ledger) -> list[Any]:
    if len(arguments) != 1 or type(arguments[0]) is not list:
        raise UnpickleError("expected a set of a list, got something else")
    ledger.charge(items=len(arguments[0]))
    return [hashable(item) for item in arguments[0]]


_NDARRAY: Final = Global("numpy.ndarray", _never)

GLOBALS: Final[dict[tuple[str, str], Global]] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): Global("numpy.dtype", _dtype),
    ("_codecs", "encode"): Global("_codecs.encode", _encode),
}
"""Every name that a pickle may use."""

for _package in ("numpy.core", "numpy._core"):
    GLOBALS[f"{_package}.multiarray", "_reconstruct"] = Global("_reconstruct", _reconstruct)
    GLOBALS[f"{_package}.multiarray", "scalar"] = Global("scalar", _scalar)
    GLOBALS[f"{_package}.numeric", "_frombuffer"] = Global("_frombuffer", _from_buffer)
for _package in ("builtins", "__builtin__"):
    GLOBALS[_package, "bytes"] = Global("bytes", _bytes)
    GLOBALS[_package, "bytearray"] = Global("bytearray", _bytearray)
    GLOBALS[_package, "complex"] = Global("complex", _complex)
    GLOBALS[_package, "set"] = Global("set", lambda arguments, ledger: set(_members(arguments, ledger)))
    GLOBALS[_package, "frozenset"] = Global(
        "frozenset", lambda arguments, ledger: frozenset(_members(arguments, ledger))
    )
