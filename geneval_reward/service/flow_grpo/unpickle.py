"""A restricted unpickler: data out of a pickle, never code.

Other trainers speak pickle over HTTP. Python's own unpickler calls whatever a request names; this one does not use it at all.
It interprets the opcodes itself (`pickletools` reads their arguments), knows only those that make builtin values and numpy
arrays, and checks every step against `Limits` before memory is taken.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import numpy as np

from geneval_reward.service.flow_grpo.unpickle_values import (
    GLOBALS,
    KEYS,
    DType,
    Global,
    Ledger,
    PendingArray,
    UnpickleError,
    hashable,
)

__all__ = ["Limits", "UnpickleError", "restricted_loads"]


@dataclass(frozen=True)
class Limits:
    """How much a pickle may ask for.

    Attributes:
        max_bytes: Length of the pickle.
        max_operations: Opcodes, and with them stack, memo and containers, before the whole is refused.
        max_items: Values in the result, where one that is named twice counts twice. It bounds what a walk over the result costs.
        max_depth: Containers within one another.
        max_integer_bits: Size of an integer.
    """

    max_bytes: int = 64 * 1024**2
    max_operations: int = 200_000
    max_items: int = 200_000
    max_depth: int = 16
    max_integer_bits: int = 512


def restricted_loads(data: bytes, limits: Limits | None = None) -> Any:
    """Read a pickle that holds nothing but data.

    Admitted are None, bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set and frozenset, exactly these
    types, with None, booleans, numbers, strings and bytes as keys and members of sets; and numpy arrays and scalars of
    numbers, booleans, bytes and strings. Protocols 0 to 5.

    Nothing named by the pickle is imported or called. Arrays are views of the pickle's own bytes, so that no shape takes memory
    which did not come over the wire.

    Args:
        data: The pickle.
        limits: What it may ask for.

    Returns:
        The value.

    Raises:
        UnpickleError: For anything else: other types, calls, persistent ids, extension codes, out-of-band buffers, cycles, a
            truncated or oversized pickle, bytes after its end. The message names what was met and at which byte.

    Example:
        >>> import pickle
        >>> restricted_loads(pickle.dumps({"images": [b"..."], "only_strict": True}))
        {'images': [b'...'], 'only_strict': True}
        >>> class Hostile:
        ...     def __reduce__(self):
        ...         return exec, ("raise SystemExit",)
        >>> restricted_loads(pickle.dumps(Hostile(), protocol=4))
        Traceback (most recent call last):
        ...
        geneval_reward.service.flow_grpo.unpickle_values.UnpickleError: pickle: expected only builtin containers, ...
    """
    limits = Limits() if limits is None else limits
    if len(data) > limits.max_bytes:
        raise UnpickleError(
            f"pickle: expected at most {limits.max_bytes:,} bytes, got {len(data):,}; send less at a time"
        )
    value = _Machine(data, limits).run()
    _check_result(value, limits)
    return value


class _Machine:
    """The stack machine that a pickle is a program for, without the instructions that reach outside."""

    def __init__(self, data: bytes, limits: Limits) -> None:
        self.stream = io.BytesIO(data)
        self.limits = limits
        # Twice, since protocols 0 to 2 write bytes as text: it is encoded first, and made into an array or bytearray then.
        self.ledger = Ledger(bytes_left=2 * len(data), items_left=limits.max_operations)
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(self.limits.max_operations):
            start = self.stream.tell()
            code = self.stream.read(1)
            try:
                if code == b".":
                    return self._finish()
                self._step(code)
            except UnpickleError as error:
                raise UnpickleError(f"pickle: {error} at byte {start}; send data only") from None
            # What pickletools' argument readers and the value makers raise on damaged or senseless input.
            except (ValueError, TypeError, OverflowError, IndexError, KeyError) as error:
                raise UnpickleError(
                    f"pickle: expected a whole and valid one, got {_shown(error)} at byte {start}; send it again"
                ) from None
        raise UnpickleError(
            f"pickle: expected at most {self.limits.max_operations:,} operations, got more; send less at a time"
        )

    def _finish(self) -> Any:
        if self.marks or len(self.stack) != 1:
            raise UnpickleError("expected one value at its end, got another number")
        if self.stream.read(1):
            raise UnpickleError("expected nothing after its end, got more bytes")
        return self.stack[0]

    def _step(self, code: bytes) -> None:
        if not code:
            raise UnpickleError("expected a whole pickle, got one that is cut off")
        opcode = _OPCODES.get(code)
        if opcode is None:
            raise UnpickleError(f"expected an opcode of data, got {_NAMES.get(code, repr(code))}")
        # The opcode is known to be harmless before its argument is read.
        argument = None if opcode.arg is None else opcode.arg.reader(self.stream)
        if opcode.name in _LITERALS:
            if type(argument) is int and argument.bit_length() > self.limits.max_integer_bits:
                raise UnpickleError(
                    f"expected integers of at most {self.limits.max_integer_bits} bits, got a larger one"
                )
            self.stack.append(argument)
        else:
            _HANDLERS[opcode.name](self, argument)

    def pop_to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def pop(self, _: Any) -> None:
        # As in Python's unpickler, POP on an empty segment removes the mark.
        if self.stack:
            self.stack.pop()
        else:
            self.pop_to_mark()

    def list_extend(self, items: list[Any]) -> None:
        _exactly(self.stack[-1], list).extend(items)

    def dict_update(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise UnpickleError("expected a value for each key, got a key alone")
        target = _exactly(self.stack[-1], dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[hashable(key)] = value

    def set_update(self, items: list[Any]) -> None:
        _exactly(self.stack[-1], set).update(hashable(item) for item in items)

    def pop_last(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError("a stack that is too short")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def put(self, index: int | None) -> None:
        value = self.stack[-1]
        index = len(self.memo) if index is None else index
        if type(value) is PendingArray:
            value.memo_slots.append(index)
        self.memo[index] = value

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise UnpickleError("expected a value that was stored before, got the name of none")
        self.stack.append(self.memo[index])

    def look_up(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise UnpickleError("expected names as strings, got another type")
        if (module, name) not in GLOBALS:
            raise UnpickleError(
                "expected only builtin containers, numbers, strings, bytes and numpy arrays, "
                f"got the name {_shown(f'{module}.{name}')}"
            )
        self.stack.append(GLOBALS[module, name])

    def reduce(self, _: Any) -> None:
        function, arguments = self.pop_last(2)
        if type(function) is not Global or type(arguments) is not tuple:
            raise UnpickleError(f"expected no call, got one of {type(function).__name__}")
        self.stack.append(function.make(arguments, self.ledger))

    def build(self, _: Any) -> None:
        target, state = self.pop_last(2)
        if type(target) is DType:
            target.set_state(state)
            self.stack.append(target)
        elif type(target) is PendingArray:
            array = target.finish(state, self.ledger)
            for slot in target.memo_slots:
                self.memo[slot] = array
            self.stack.append(array)
        else:
            raise UnpickleError(f"expected no state for objects, got one for {type(target).__name__}")


_ATOMS: Final = KEYS | {complex, bytearray, np.ndarray}
_CONTAINERS: Final = frozenset({list, tuple, dict, set, frozenset})

_LITERALS: Final = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT BINBYTES SHORT_BINBYTES "
    "BINBYTES8 BYTEARRAY8 UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8".split()
)

_Handler = Callable[[_Machine, Any], None]

_HANDLERS: Final[dict[str, _Handler]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": lambda machine, _: _drop(machine.pop_to_mark()),
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "NONE": lambda machine, _: machine.stack.append(None),
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_TUPLE": lambda machine, _: machine.stack.append(()),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_SET": lambda machine, _: machine.stack.append(set()),
    "LIST": lambda machine, _: _push(machine, list, machine.pop_to_mark()),
    "TUPLE": lambda machine, _: _push(machine, tuple, machine.pop_to_mark()),
    "TUPLE1": lambda machine, _: _push(machine, tuple, machine.pop_last(1)),
    "TUPLE2": lambda machine, _: _push(machine, tuple, machine.pop_last(2)),
    "TUPLE3": lambda machine, _: _push(machine, tuple, machine.pop_last(3)),
    "FROZENSET": lambda machine, _: _push(machine, frozenset, [hashable(item) for item in machine.pop_to_mark()]),
    "DICT": lambda machine, _: _push_dict(machine, machine.pop_to_mark()),
    "APPEND": lambda machine, _: machine.list_extend(machine.pop_last(1)),
    "APPENDS": lambda machine, _: machine.list_extend(machine.pop_to_mark()),
    "SETITEM": lambda machine, _: machine.dict_update(machine.pop_last(2)),
    "SETITEMS": lambda machine, _: machine.dict_update(machine.pop_to_mark()),
    "ADDITEMS": lambda machine, _: machine.set_update(machine.pop_to_mark()),
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.put,
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": lambda machine, pair: machine.look_up(*pair.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.look_up(*machine.pop_last(2)),
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}

# Left out on purpose: INST, OBJ, NEWOBJ, NEWOBJ_EX (instances); PERSID, BINPERSID, EXT1, EXT2, EXT4 (names by other ways);
# NEXT_BUFFER, READONLY_BUFFER (memory that is not in the pickle); STRING, BINSTRING, SHORT_BINSTRING (Python 2).
_OPCODES: Final = {
    opcode.code.encode("latin1"): opcode
    for opcode in pickletools.opcodes
    if opcode.name in _LITERALS or opcode.name in _HANDLERS
}
_NAMES: Final = {opcode.code.encode("latin1"): opcode.name for opcode in pickletools.opcodes}


def _push(machine: _Machine, kind: Callable[[list[Any]], Any], items: list[Any]) -> None:
    machine.stack.append(kind(items))


def _drop(_: Any) -> None:
    return None


def _push_dict(machine: _Machine, items: list[Any]) -> None:
    machine.stack.append({})
    machine.dict_update(items)


def _exactly(value: Any, kind: type[Any]) -> Any:
    if type(value) is not kind:
        raise UnpickleError(f"expected a {kind.__name__} to fill, got {type(value).__name__}")
    return value


def _shown(thing: object) -> str:
    """Text of the other side for a message: one line, harmless in a log, not long."""
    text = repr(thing) if isinstance(thing, str) else repr(str(thing))
    return text if len(text) <= 120 else f"{text[:120]}..."


def _check_result(root: Any, limits: Limits) -> None:
    """Refuse leftovers, cycles and what unfolds to too much; without recursion, since the depth is not known yet."""
    measured: dict[int, tuple[int, int]] = {}
    entered: set[int] = set()
    todo: list[tuple[Any, bool]] = [(root, False)]
    while todo:
        value, seen = todo.pop()
        if type(value) in _ATOMS or isinstance(value, np.generic):
            continue
        if type(value) not in _CONTAINERS:
            raise UnpickleError(
                f"pickle: expected only finished values, got a bare {type(value).__name__}; send data only"
            )
        key = id(value)
        if seen:
            entered.discard(key)
            sizes = [measured.get(id(child), (1, 0)) for child in _children(value)]
            count, depth = 1 + sum(size for size, _ in sizes), 1 + max((depth for _, depth in sizes), default=0)
            if count > limits.max_items or depth > limits.max_depth:
                raise UnpickleError(
                    f"pickle: expected at most {limits.max_items:,} values within {limits.max_depth} levels, got more; "
                    "send less at a time"
                )
            measured[key] = count, depth
        elif key in entered:
            raise UnpickleError("pickle: expected no container within itself, got one; send data only")
        elif key not in measured:
            entered.add(key)
            todo.append((value, True))
            todo.extend((child, False) for child in _children(value))


def _children(value: Any) -> Iterator[Any]:
    return chain(value.keys(), value.values()) if type(value) is dict else iter(value)
