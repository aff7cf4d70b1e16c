"""Read plain data from a pickle without running code.

Flow-GRPO's client sends pickles, and Python's unpickler calls whatever a pickle names. So the opcodes are checked first: only
those that build plain data are allowed, and their cost is bounded. Then Python's own unpickler reads the bytes, with a
`find_class` that refuses every name.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Iterator
from typing import Any, Final, NoReturn

from geneval_reward.errors import GenEvalError

MAX_OPERATIONS: Final = 200_000
"""Opcodes of a pickle, and values in its result, where a value that is referenced twice counts twice."""

MAX_DEPTH: Final = 16
"""Depth of nested containers."""

_MAX_NAMED_AGAIN: Final = 256 * 2**20
"""Bytes of all strings fetched from the memo. Equal strings may be compared byte for byte at every use as a key."""

_MAX_INTEGER: Final = 64  # bytes

_ATOMS: Final = frozenset(
    "NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT SHORT_BINUNICODE BINUNICODE BINUNICODE8 "
    "SHORT_BINBYTES BINBYTES BINBYTES8 BYTEARRAY8".split()
)
_CONTAINERS: Final = frozenset(
    "EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT DICT SETITEM SETITEMS".split()
)
_PUTS: Final = frozenset({"BINPUT", "LONG_BINPUT", "MEMOIZE"})
_GETS: Final = frozenset({"BINGET", "LONG_BINGET"})
_ADMITTED: Final = _ATOMS | _CONTAINERS | _PUTS | _GETS | {"PROTO", "FRAME", "MARK", "STOP"}

_OPCODES: Final = {opcode.code: opcode for opcode in pickletools.opcodes}

_PREFIXES: Final = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}


class UnpickleError(GenEvalError, ValueError):
    """A pickle that is not plain data, or is too large."""


def load_plain_data(data: bytes) -> Any:
    """Read a pickle of protocol 3, 4 or 5 that holds nothing but plain data.

    Plain data is None, bool, int, float, str, bytes, bytearray, list, tuple and dict. Nothing that the pickle names is imported
    or called. The caller must limit the number of bytes.

    Args:
        data: The pickle.

    Returns:
        The value.

    Raises:
        UnpickleError: If the pickle holds other types, calls or cycles, is truncated, or would take too much time or memory.

    Examples:
        >>> import pickle
        >>> load_plain_data(pickle.dumps({"images": [b"..."], "only_strict": True}))
        {'images': [b'...'], 'only_strict': True}
        >>> class Hostile:
        ...     def __reduce__(self):
        ...         return exec, ("raise SystemExit",)
        >>> load_plain_data(pickle.dumps(Hostile()))
        Traceback (most recent call last):
        ...
        geneval_reward.service.flow_grpo.unpickle.UnpickleError: pickle: expected plain data (dict, list, tuple, ...
    """
    _check_opcodes(data)
    try:
        value = _PlainUnpickler(io.BytesIO(data)).load()
    except UnpickleError:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged pickle may raise anything
        text = f"{type(error).__name__}: {error}"[:200]
        raise UnpickleError(f"pickle: expected a whole and valid one, got {text!a}; send it again") from None
    _check_size(value)
    return value


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> NoReturn:
        _refuse(f"the name {ascii(module)[:100]}.{ascii(name)[:100]}")

    def persistent_load(self, pid: Any) -> NoReturn:
        _refuse("a persistent id")


def _refuse(what: str) -> NoReturn:
    raise UnpickleError(
        "pickle: expected plain data (dict, list, tuple, str, bytes, int, float, bool, None) of protocol 3 to 5, got "
        f"{what}; convert arrays and numpy values by tolist()"
    )


def _check_opcodes(data: bytes) -> None:
    """Refuse opcodes that import or call, and pickles whose opcodes cost more than their bytes."""
    weights: list[int] = []  # bytes that comparing each memo entry may read
    named_again = 0
    weight = 0  # of the value on top of the stack
    for count, (name, at, number, size) in enumerate(_opcodes(data)):
        if count >= MAX_OPERATIONS:
            raise UnpickleError(f"pickle: expected at most {MAX_OPERATIONS:,} operations, got more; send fewer images")
        if name.startswith("LONG") and name in _ATOMS and size > _MAX_INTEGER:
            _refuse(f"an integer of {size:,} bytes at byte {at}")
        if name in _PUTS:
            if name != "MEMOIZE" and number != len(weights):
                _refuse(f"a memo entry out of order at byte {at}")
            weights.append(weight)
        elif name in _GETS:
            if number >= len(weights):
                _refuse(f"a value that was not stored before, at byte {at}")
            weight = weights[number]
            named_again += weight
            if named_again > _MAX_NAMED_AGAIN:
                _refuse(f"long strings or tuples that are named again, at byte {at}")
        elif name in _ATOMS:
            weight = size
        elif name in _CONTAINERS:
            # Hashing a tuple that holds the same tuple several times takes exponential time, so none may be referenced again.
            weight = _MAX_NAMED_AGAIN + 1 if name.startswith("TUPLE") else 0


def _opcodes(data: bytes) -> Iterator[tuple[str, int, int, int]]:
    """Yield each opcode's name, position, numeric argument and string-argument length, without copying any string."""
    at = 0
    while True:
        code = data[at : at + 1]
        opcode = _OPCODES.get(code.decode("latin-1"))
        if opcode is None or opcode.name not in _ADMITTED:
            found = "the end of the bytes" if not code else ascii(code) if opcode is None else opcode.name
            _refuse(f"{found} at byte {at:,}")
        fixed = 0 if opcode.arg is None else opcode.arg.n
        length = fixed if fixed >= 0 else _PREFIXES[fixed]
        number = int.from_bytes(data[at + 1 : at + 1 + length], "little")
        size = 0 if fixed >= 0 else number
        if at + 1 + length + size > len(data):
            raise UnpickleError(f"pickle: expected a whole one, got one that is cut off at byte {at:,}; send it again")
        yield opcode.name, at, number, size
        at += 1 + length + size
        if opcode.name == "STOP":
            if at != len(data):
                raise UnpickleError(
                    f"pickle: expected its end at byte {at:,}, got {len(data):,} bytes; send one pickle"
                )
            return


def _check_size(value: Any) -> None:
    """Refuse results that code could not safely traverse: cycles, deep nesting, and references that multiply."""
    waiting = [(value, 1)]
    count = 0
    while waiting:
        value, depth = waiting.pop()
        if not isinstance(value, dict | list | tuple):
            continue
        count += len(value)
        if depth > MAX_DEPTH or count > MAX_OPERATIONS:
            raise UnpickleError(
                f"pickle: expected at most {MAX_DEPTH} containers within one another and {MAX_OPERATIONS:,} values, got more; "
                "send fewer images"
            )
        parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        waiting += [(part, depth + 1) for part in parts]
