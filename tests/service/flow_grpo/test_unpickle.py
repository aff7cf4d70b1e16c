"""Hostile and honest pickles. The test of a hostile one is a canary: a file that it would create."""

import contextlib
import copyreg
import io
import os
import pickle
import struct
import time
import tracemalloc
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from geneval_reward.service.flow_grpo.unpickle import Limits, UnpickleError, restricted_loads

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


class Call:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, state: Any = None) -> None:
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.parts


class Plain:
    """An instance with a dict."""

    def __init__(self) -> None:
        self.value = 1


class Slots:
    __slots__ = ("value",)


class Subclass(dict):  # type: ignore[type-arg]
    """A container that is not exactly a builtin one."""


def refused(data: bytes, limits: Limits | None = None) -> str:
    with pytest.raises(UnpickleError) as caught:
        restricted_loads(data, limits)
    message = str(caught.value)
    assert message.startswith("pickle: expected ")
    assert ", got " in message
    assert message.isprintable()
    assert len(message) < 500
    return message


def read_or_refuse(data: bytes) -> None:
    try:
        restricted_loads(data)
    except UnpickleError:
        refused(data)


def numpy_array_pickle(shape: bytes, dtype: bytes, data: bytes, reduce_shape: bytes = b"K\x00\x85") -> bytes:
    """Protocol 2 as numpy writes it, with parts of one's own."""
    return (
        b"\x80\x02cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + reduce_shape + b"C\x01b\x87R(K\x01"
        + shape + b"cnumpy\ndtype\nX" + struct.pack("<I", len(dtype)) + dtype
        + b"\x89\x88\x87R(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89" + data + b"tb."
    )  # fmt: skip


def binary(data: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(data)) + data


# -- what is admitted -------------------------------------------------------------------------------------------------


def same(left: Any, right: Any) -> bool:
    """Equal in type and value, all the way down, NaN included."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return len(left) == len(right) and all(
            same(a, b) and same(left[a], right[b]) for a, b in zip(left, right, strict=True)
        )
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, np.ndarray | np.generic):
        return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
    return left == right or (left != left and right != right)


integers = st.integers(-(2**500), 2**500)
keys = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(max_size=9) | st.binary(max_size=9)
)
dtypes = (
    arrays.boolean_dtypes()
    | arrays.integer_dtypes(endianness="?")
    | arrays.floating_dtypes(endianness="?")
    | arrays.complex_number_dtypes(endianness="?")
    | arrays.byte_string_dtypes(endianness="?", min_len=1, max_len=5)
    | arrays.unicode_string_dtypes(endianness="?", min_len=1, max_len=5)
)
some_arrays = dtypes.flatmap(
    lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, min_side=0, max_side=3))
)
# Indexing gives scalars in the native order, as numpy scalars are.
scalars = some_arrays.filter(lambda array: array.size > 0).map(lambda array: array.ravel()[0])
atoms = keys | integers | st.complex_numbers() | st.binary().map(bytearray) | some_arrays | scalars
sets = st.sets(st.integers(0, 99) | st.text(max_size=3) | st.none(), max_size=4)
values = st.recursive(
    atoms | sets | sets.map(frozenset),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(keys.filter(lambda key: key == key), inner, max_size=4)
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(values, st.sampled_from(PROTOCOLS))
def test_admitted_values_come_back_as_they_were(value: Any, protocol: int) -> None:
    assert same(restricted_loads(pickle.dumps(value, protocol)), value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_layouts_of_arrays(protocol: int) -> None:
    base = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    views = [base, base.T, base[:, ::2], base[::-1], np.asfortranarray(base), base[:0], np.array(7), base > 3]
    for array, back in zip(views, restricted_loads(pickle.dumps(views, protocol)), strict=True):
        assert np.array_equal(array, back)
        assert array.dtype == back.dtype


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_names_of_numpy_1_are_known(protocol: int) -> None:
    value = {"array": np.arange(6).reshape(2, 3), "scalar": np.float32(0.5)}
    data = pickle.dumps(value, protocol)
    # Lengths differ by one, so the names are replaced where they stand as lines (protocols 0 to 3) or with their length.
    for module in (b"multiarray", b"numeric"):
        new, old = b"numpy._core." + module, b"numpy.core." + module
        data = data.replace(b"\x8c" + bytes([len(new)]) + new, b"\x8c" + bytes([len(old)]) + old).replace(
            b"c" + new, b"c" + old
        )
    data = data[:2] + data[11:] if protocol >= 4 else data  # without the frame, whose length is no longer right
    assert b"numpy._core" not in data
    assert same(restricted_loads(data), value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_shared_values_stay_shared(protocol: int) -> None:
    shared = ["a", np.arange(3)]
    back = restricted_loads(pickle.dumps([shared, shared, shared[1]], protocol))
    assert back[0] is back[1]
    assert back[2] is back[0][1]


@given(st.binary(max_size=60))
@settings(max_examples=100, deadline=None)
def test_any_bytes_give_a_value_or_the_one_error(data: bytes) -> None:
    read_or_refuse(b"\x80\x04" + data)


@given(values, st.sampled_from(PROTOCOLS), st.data())
@settings(max_examples=60, deadline=None)
def test_a_damaged_pickle_gives_a_value_or_the_one_error(value: Any, protocol: int, data: st.DataObject) -> None:
    good = bytearray(pickle.dumps(value, protocol))
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    read_or_refuse(bytes(good))


# -- what is refused --------------------------------------------------------------------------------------------------

CODE = "open({path!r}, 'w').close()"


def hostile(canary: Path) -> dict[str, Any]:
    path = str(canary)
    code = CODE.format(path=path)
    return {
        "os.system": Call(os.system, f"touch {path}"),
        "os.mkdir": Call(os.mkdir, path),
        "eval": Call(eval, code),
        "exec": Call(exec, code),
        "compile": Call(compile, code, "x", "exec"),
        "getattr": Call(getattr, "x", "join"),
        "import": Call(__import__, "os"),
        "open": Call(open, path, "w"),
        "in a list": [1, Call(eval, code)],
        "as a key": {Call(eval, code): 1},
        "as an argument": Call(np.dtype, Call(eval, code)),
        "in a state": Call(Plain, state={"value": Call(eval, code)}),
        "numpy load": Call(np.load, path),
        "numpy memmap": Call(np.memmap, path, "uint8", "w+", 0, (1,)),
        "numpy fromfile": Call(np.fromfile, path),
        "numpy testing runstring": Call(np.testing.runstring, code, {}),
        "reduced with an iterator": Call(map, eval, [code]),
        "an instance": Plain(),
        "an instance with slots": Slots(),
        "an ordered dict": OrderedDict(a=1),
        "a subclass of dict": Subclass(a=1),
        "a class": Plain,
        "a function": os.getcwd,
        "type": type,
        "object": object(),
        "a path": canary,
        "a slice": slice(1),
        "a range": range(10**12),
        "an exception": ValueError("x"),
        "an object array": np.array([{}, None], dtype=object),
        "an object array that calls": np.array([Call(eval, code)], dtype=object),
        "a structured array": np.zeros(2, dtype=[("a", "i4")]),
        "dates": np.zeros(2, dtype="M8[s]"),
        "raw bytes": np.zeros(2, dtype="V4"),
        "a masked array": np.ma.array([1], mask=[True]),
        "a matrix": Call(np.ndarray, (2,)),
        "a subclass of ndarray": np.rec.array([(1,)], dtype=[("a", int)]),
        "a bare dtype": np.dtype("f4"),
        "a huge bytearray": Call(bytearray, 2**40),
        "bytes by size": Call(bytes, 2**40),
        "complex of a string": Call(complex, "1"),
        "a set of an iterator": Call(set, Call(map, eval, [code])),
        "a nested tuple as a key": {((1, 2), 3): 4},
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", hostile(Path("unused")))
def test_hostile_objects(name: str, protocol: int, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    refused(pickle.dumps(hostile(canary)[name], protocol))
    assert not canary.exists()


def test_the_canary_would_show_it(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    for name in ("os.system", "eval", "in a list", "as an argument", "an object array that calls"):
        data = pickle.dumps(hostile(canary)[name])
        with contextlib.suppress(TypeError, ValueError):  # of numpy, after the call
            pickle.loads(data)
        assert canary.exists(), name
        canary.unlink()


def opcodes(canary: str) -> dict[str, bytes]:
    call = f"open({canary!r}, 'w')".encode()
    ext = pickle.EXT1 + b"\x01."
    return {
        "nothing": b"",
        "only a protocol": b"\x80\x04",
        "no stop": b"\x80\x04K\x01",
        "an empty stack": b".",
        "two values": b"K\x01K\x02.",
        "an open mark": b"(K\x01.",
        "a bare mark": b"(.",
        "bytes after the end": pickle.dumps(1) + b"x",
        "a second pickle": pickle.dumps(1) * 2,
        "pop of nothing": b"0.",
        "get of nothing": b"h\x07.",
        "get by text": b"gnonsense\n.",
        "dup of nothing": b"2.",
        "append to nothing": b"K\x01a.",
        "append to a number": b"K\x01K\x02a.",
        "append to a name": b"cnumpy\ndtype\nK\x01a.",
        "items of a list": b"]K\x01K\x02s.",
        "an odd dict": b"}(K\x01u.",
        "add to a list": b"\x80\x04](K\x01\x90.",
        "a list as a key": b"}]K\x01s.",
        "a tuple as a key": b"})K\x01s.",
        "an array as a key": b"}" + pickle.dumps(np.arange(2), 2)[2:-1] + b"K\x01s.",
        "a large integer as a key": b"}\x8a\x10" + b"\x01" * 16 + b"K\x01s.",
        "INST": b"(S'" + call + b"'\ni__builtin__\neval\n.",
        "INST with UNICODE": b"(V" + call + b"\nibuiltins\neval\n.",
        "OBJ": b"(cbuiltins\neval\nV" + call + b"\no.",
        "NEWOBJ": b"\x80\x02cbuiltins\ndict\n)\x81.",
        "NEWOBJ_EX": b"\x80\x04cbuiltins\ndict\n)}\x92.",
        "persistent id": b"Pabc\n.",
        "binary persistent id": b"K\x01Q.",
        "ext 1": ext,
        "ext 2": pickle.EXT2 + b"\x01\x00.",
        "ext 4": pickle.EXT4 + b"\x01\x00\x00\x00.",
        "next buffer": b"\x80\x05\x97.",
        "read-only buffer": b"\x80\x05C\x01a\x98.",
        "a string of Python 2": b"S'a'\n.",
        "a bad escape": b"S'\\q'\n.",
        "a name with a dot": b"\x80\x04\x8c\x05numpy\x8c\x0ddtype.__init__\x93.",
        "a name that is no string": b"\x80\x04K\x01K\x02\x93.",
        "a nested list as a name": b"\x80\x04" + b"]" * 5000 + b"a" * 4999 + b"]\x93.",
        "copyreg": b"ccopyreg\n_reconstructor\n(cbuiltins\nobject\ncbuiltins\nobject\nNtR.",
        "copyreg add_extension": b"ccopyreg\nadd_extension\n(Vbuiltins\nVeval\nK\x01tR.",
        "codecs by another encoding": b"c_codecs\nencode\n(Va\nVzip\ntR.",
        "codecs decode": b"c_codecs\ndecode\n(Va\nVrot13\ntR.",
        "a call of a call": b"cnumpy\ndtype\n(Vu1\ntR)R.",
        "a call of a number": b"K\x01)R.",
        "a call of ndarray": b"cnumpy\nndarray\nI1000000\n\x85R.",
        "a call with a list": b"cnumpy\ndtype\n]R.",
        "a state for a name": b"cnumpy\ndtype\n}b.",
        "slots for a name": b"cnumpy\ndtype\nN}V__code__\nNs\x86b.",
        "a state for a dict": b"}}b.",
        "a bare name": b"cnumpy\ndtype\n.",
        "a name in a list": b"]cnumpy\ndtype\na.",
        "an unfinished array": b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85Vb\ntR.",
        "the class of another": b"cnumpy._core.multiarray\n_reconstruct\n(cbuiltins\nset\nK\x00\x85Vb\ntR.",
        "an array within its own state": b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85Vb\ntRq\x01"
        b"(K\x01h\x01h\x01h\x01h\x01tb.",
        "a dtype by a dict": b"cnumpy\ndtype\n(}tR.",
        "a dtype of fields": b"cnumpy\ndtype\n(Vi4,i4\ntR.",
        "an array of nothing": b"cnumpy._core.numeric\n_frombuffer\n(C\x00cnumpy\ndtype\n(VU0\ntRJ\xff\xff\xff\x7f\x85VC\ntR.",
        "a dtype that is none": b"cnumpy\ndtype\n(Vi3\ntR.",
        "a dtype with metadata": b"cnumpy\ndtype\n(Vi4\ntR(K\x04V<\nNNNK\x01K\x01K\x00}tb.",
        "a scalar of an object": b"cnumpy._core.multiarray\nscalar\n(cnumpy\ndtype\n(VO8\ntR]tR.",
        "a scalar of too few bytes": b"cnumpy._core.multiarray\nscalar\n(cnumpy\ndtype\n(Vi4\ntRC\x01atR.",
        "a scalar of a list": b"cnumpy._core.multiarray\nscalar\n(cnumpy\ndtype\n(Vi4\ntR]tR.",
        "a self-containing list": b"]q\x00h\x00a.",
        "a self-containing dict": b"}q\x00K\x01h\x00s.",
        "a cycle of two": b"]q\x00]q\x01h\x00ah\x01a0h\x00h\x01a.",
        "huge binary": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"abc.",
        "huge string": b"\x80\x04\x8d" + struct.pack("<Q", 2**63 - 1) + b"abc.",
        "huge bytearray": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"abc.",
        "a negative length": b"T" + struct.pack("<i", -1) + b"abc.",
        "a negative long": b"\x80\x02\x8b" + struct.pack("<i", -5) + b"abc.",
        "a long integer": b"\x80\x02\x8b" + struct.pack("<i", 1000) + b"\x7f" * 1000 + b".",
        "an integer in many digits": b"I" + b"9" * 5000 + b"\n.",
        "a long in many digits": b"L" + b"9" * 400 + b"L\n.",
        "bad unicode": b"X\x02\x00\x00\x00\xff\xff.",
        "an unknown opcode": b"\xff.",
        "a zlib stream": b"x\x9c\x01\x00.",
        "HTML": b"<html></html>",
    }  # fmt: skip


@pytest.mark.parametrize("name", opcodes("unused"))
def test_hostile_opcodes(name: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    refused(opcodes(str(canary))[name])
    assert not canary.exists()


def test_truncated_anywhere() -> None:
    whole = pickle.dumps({"images": [b"abc", np.arange(5)], "meta": [{"a": "b", "c": 1.5}], "flag": True})
    for length in range(len(whole)):
        refused(whole[:length])


def test_extension_codes_of_this_process_are_not_looked_up() -> None:
    copyreg.add_extension("builtins", "eval", 0x99)
    try:
        data = pickle.dumps(Call(eval, "1"), 2)
        assert pickle.EXT1 in data
        assert "EXT1" in refused(data)
    finally:
        copyreg.remove_extension("builtins", "eval", 0x99)


def test_a_pickler_with_persistent_ids() -> None:
    class Persistent(pickle.Pickler):
        def persistent_id(self, thing: Any) -> Any:
            return "id" if isinstance(thing, Plain) else None

    for protocol in PROTOCOLS:
        stream = io.BytesIO()
        Persistent(stream, protocol).dump([Plain()])
        assert "PERSID" in refused(stream.getvalue())


def test_names_cannot_write_into_the_log() -> None:
    message = refused(b"\x80\x04" + b"\x8c\x06os\nfoo" + b"\x8c\x05\x1b[31m\x93.")
    assert "\\n" in message
    assert len(refused(b"c" + b"m" * 10_000 + b"\nname\n.")) < 300


@pytest.mark.parametrize(
    ("shape", "dtype", "data"),
    [
        (b"J\xff\xff\xff\x7f\x85", b"f8", binary(b"")),
        (b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86", b"f8", binary(bytes(8))),
        (b"\x8a\x09" + b"\xff" * 8 + b"\x00\x85", b"u1", binary(b"")),
        (b"J\xff\xff\xff\xff\x85", b"u1", binary(b"")),
        (b"J\xff\xff\xff\xffJ\xff\xff\xff\xff\x86", b"u1", binary(b"a")),
        (b"K\x02\x85", b"u1", binary(b"abc")),
        (b"\x88\x85", b"u1", binary(b"a")),
        (b"]", b"u1", binary(b"")),
        (b"(" + b"K\x01" * 40 + b"t", b"u1", binary(b"a")),
        (b"K\x00J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x87", b"S9", binary(b"")),
        (b"K\x01\x85", b"O8", binary(bytes(8))),
        (b"K\x01\x85", b"V8", binary(bytes(8))),
        (b"K\x01\x85", b"m8", binary(bytes(8))),
        (b"K\x01\x85", b"O8", b"]K\x01a"),
        (b"K\x01\x85", b"b1", binary(b"\x07")),
        (b"K\x01\x85", b"U1", binary(b"\xff" * 4)),
        (b"K\x01\x85", b"u1", b"]K\x01a"),
    ],
)
def test_hostile_arrays(shape: bytes, dtype: bytes, data: bytes) -> None:
    tracemalloc.start()
    refused(numpy_array_pickle(shape, dtype, data))
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_the_array_builder_of_these_tests_is_right() -> None:
    good = numpy_array_pickle(b"K\x02\x85", b"u2", binary(b"\x01\x00\x02\x00"))
    assert np.array_equal(restricted_loads(good), pickle.loads(good))
    assert restricted_loads(good).tolist() == [1, 2]


def many_calls(name: bytes, arguments: bytes, count: int) -> bytes:
    """One name and one tuple of arguments, kept in the memo and called often, at three opcodes a call."""
    return b"\x80\x02c" + name + b"\nq\x000(" + arguments + b"tq\x010](" + b"h\x00h\x01R" * count + b"e."


def little_endian(code: bytes, size: int = -1) -> bytes:
    state = b"(K\x03X\x01\x00\x00\x00<NNN" + b"J" + struct.pack("<i", size) + b"J\xff\xff\xff\xffK\x00tb"
    return b"cnumpy\ndtype\nV" + code + b"\n\x85R" + state


def test_the_builder_of_calls_is_right() -> None:
    data = many_calls(b"numpy._core.multiarray\nscalar", little_endian(b"U3", 12) + binary(b"a\0\0\0" * 3), 2)
    assert restricted_loads(data) == pickle.loads(data) == ["aaa", "aaa"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_large_values_are_copied_as_often_as_they_are_meant_to(protocol: int) -> None:
    value = [
        np.str_("\xe4\u20ac" * 3000),
        np.bytes_(b"\xff" * 5000),
        bytearray(b"a" * 9000),
        np.ones(9000, bool),
        b"b" * 9000,
    ]
    assert same(restricted_loads(pickle.dumps(value, protocol)), value)


def test_a_list_named_often_is_looked_at_once() -> None:
    data = b"\x80\x02]q\x00(" + b"K\x01" * 60_000 + b"e0](" + b"h\x00" * 3000 + b"e."
    start = time.process_time()
    assert "200,000 values" in refused(data)
    assert time.process_time() - start < 0.5


def bombs() -> dict[str, bytes]:
    doubling = b"]q\x00" + b"".join(b"](" + b"h%c" % n + b"h%c" % n + b"eq%c" % (n + 1) for n in range(60)) + b"."
    tuples = b")q\x00" + b"".join(b"h%ch%c\x86q%c" % (n, n, n + 1) for n in range(60)) + b"."
    text = b"\x80\x02X" + struct.pack("<I", 100_000) + b"a" * 100_000 + b"q\x00X\x06\x00\x00\x00latin1q\x01"
    encode = b"](" + text + b"00" + b"c_codecs\nencode\nh\x00h\x01\x86R" * 10_000 + b"e."
    arrays_again = (
        b"\x80\x02B\x00\x10\x00\x00" + b"a" * 4096 + b"q\x000]" + b"cbuiltins\nbytearray\nh\x00\x85Ra" * 5000 + b"."
    )
    members = b"\x80\x02](" + b"".join(b"J" + struct.pack("<i", n) for n in range(20_000)) + b"eq\x00]q\x01("
    return {
        "deep lists": b"]" * 100_000 + b"a" * 99_999 + b".",
        "deep tuples": b")" + b"\x85" * 100_000 + b".",
        "deep dicts": b"}" * 50_000 + b"".join([b"K\x01"]) + b".",
        "deep marks": b"(" * 150_000 + b".",
        "many operations": b"\x80\x02" + b"N0" * 1_000_000 + b"N.",
        "many memo entries": b"]" + b"\x94" * 1_000_000 + b".",
        "memo entries of large numbers": b"N"
        + b"".join(b"r" + struct.pack("<I", n * 12345) for n in range(250_000))
        + b".",
        "doubling lists": doubling.replace(b"](", b"]("),
        "doubling tuples": tuples,
        "one string encoded often": encode,
        "one bytes copied often": arrays_again,
        "one list made into sets often": members + b"cbuiltins\nset\nh\x00\x85R" * 1000 + b"e.",
        "one string scalar copied often": many_calls(
            b"numpy._core.multiarray\nscalar", little_endian(b"U99999") + binary(b"a\0\0\0" * 99_999), 2000
        ),
        "one bytes scalar copied often": many_calls(
            b"numpy._core.multiarray\nscalar", little_endian(b"S400000") + binary(b"a" * 400_000), 2000
        ),
        "one buffer checked often": many_calls(
            b"numpy._core.numeric\n_frombuffer",
            binary(b"\1" * 2**20) + little_endian(b"b1") + b"J" + struct.pack("<i", 2**20) + b"\x85VC\n",
            60_000,
        ),
        "one state given often": b"\x80\x02cnumpy._core.multiarray\n_reconstruct\nq\x000"
        b"(cnumpy\nndarray\nK\x00\x85Vb\ntq\x010(K\x01J"
        + struct.pack("<i", 2**20)
        + b"\x85"
        + little_endian(b"b1")
        + b"\x89"
        + binary(b"\1" * 2**20)
        + b"tq\x020]("
        + b"h\x00h\x01Rh\x02b" * 20_000
        + b"e.",
        "many frames": b"\x80\x04" + (b"\x95" + bytes(8)) * 300_000 + b"N.",
    }


@pytest.mark.parametrize("name", bombs())
def test_bombs(name: str) -> None:
    data = bombs()[name]
    tracemalloc.start()
    start = time.process_time()
    refused(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000_000
    assert time.process_time() - start < 10


def test_limits() -> None:
    assert restricted_loads(pickle.dumps([1] * 10), Limits(max_items=11)) == [1] * 10
    assert "10 values" in refused(pickle.dumps([1] * 10), Limits(max_items=10))
    assert "2 levels" in refused(pickle.dumps([[[1]]]), Limits(max_depth=2))
    assert restricted_loads(pickle.dumps([[1]]), Limits(max_depth=2)) == [[1]]
    assert "at most 5 bytes" in refused(pickle.dumps("abcdef"), Limits(max_bytes=5))
    assert "at most 3 operations" in refused(pickle.dumps(["abcdef"]), Limits(max_operations=3))
    assert "at most 8 bits" in refused(pickle.dumps(256), Limits(max_integer_bits=8))


def test_the_stand_ins_cannot_be_changed_between_requests() -> None:
    refused(b"cnumpy\ndtype\n}Vmake\nNsb.")
    refused(b"cnumpy\ndtype\nN}Vmake\nNs\x86b.")
    assert restricted_loads(pickle.dumps(np.float32(2))) == 2
