"""Hostile and honest pickles. The test of a hostile one is a canary: a file that it would create."""

import contextlib
import copyreg
import io
import os
import pickle
import pickletools
import random
import struct
import time
import tracemalloc
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geneval_reward.service.flow_grpo.unpickle import MAX_DEPTH, MAX_OPERATIONS, UnpickleError, load_plain_data

PROTOCOLS = (3, 4, 5)


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments, state=None):
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.parts


class Plain:
    def __init__(self):
        self.value = 1


class Subclass(dict):
    """A container that is not exactly a builtin one."""


def refused(data):
    with pytest.raises(UnpickleError) as caught:
        load_plain_data(data)
    message = str(caught.value)
    assert message.startswith("pickle: expected ")
    assert ", got " in message
    assert message.isprintable()
    assert len(message) < 500
    return message


atoms = (
    st.none() | st.booleans() | st.integers(-(2**400), 2**400) | st.floats(allow_nan=False) | st.text() | st.binary()
)
keys = st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.binary(max_size=9)
values = st.recursive(
    atoms,
    lambda inner: (
        st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple) | st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=8,
)


@settings(max_examples=80, deadline=None)
@given(values, st.sampled_from(PROTOCOLS))
def test_admitted_values_come_back_as_they_were(value, protocol):
    found = load_plain_data(pickle.dumps(value, protocol))
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_request_of_the_public_client(protocol):
    images = [os.urandom(60_000) for _ in range(64)]
    record = {"tag": "counting", "include": [{"class": "bench", "count": 2}], "prompt": "two benches"}
    body = {"images": images, "meta_datas": [dict(record) for _ in range(64)], "only_strict": True}
    data = pickle.dumps(body, protocol)
    begun = time.process_time()
    assert load_plain_data(data) == body
    assert time.process_time() - begun < 0.5
    # One image and one record many times: the pickle names them again.
    again = body | {"images": images[:1] * 100, "meta_datas": [record] * 100}
    assert load_plain_data(pickle.dumps(again, protocol)) == again
    assert load_plain_data(pickletools.optimize(data)) == body


CALLS = [
    Call(os.system, "touch {canary}"),
    Call(eval, "open('{canary}', 'w')"),
    Call(exec, "open('{canary}', 'w')"),
    Call(open, "{canary}", "w"),
    Call(copyreg._reconstructor, Plain, object, None),
    Call(Plain, state={"value": 2}),
    Plain(),
    Subclass(a=1),
    OrderedDict(a=1),
    len,
    Plain,
    {1, 2},
    frozenset({1}),
    1j,
    np.arange(3),
    np.float32(1),
    Path("x"),
]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("number", range(len(CALLS)))
def test_nothing_else_is_read_and_nothing_is_called(number, protocol, tmp_path):
    canary = tmp_path / "canary"
    call = CALLS[number]
    if isinstance(call, Call):
        call = Call(call.parts[0], *(a.format(canary=canary) if isinstance(a, str) else a for a in call.parts[1]))
    refused(pickle.dumps({"images": [call], "only_strict": call}, protocol))
    assert not canary.exists()


def test_the_canary_works(tmp_path):
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(Call(os.system, f"touch {canary}")))
    assert canary.exists()


def test_names_are_refused_by_the_unpickler_too():
    from geneval_reward.service.flow_grpo import unpickle

    reader = next(
        value for value in vars(unpickle).values() if isinstance(value, type) and issubclass(value, pickle.Unpickler)
    )
    for data in (b"cos\nsystem\n.", b"\x80\x04\x8c\x02os\x8c\x06system\x93.", b"Pone\n."):
        with pytest.raises(UnpickleError, match="expected plain data"):
            reader(io.BytesIO(data)).load()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the end of the bytes"),
        (b"\x80\x04", "the end of the bytes"),
        (b"hello", "at byte 0"),
        (b"\x80\x04N.more", "send one pickle"),
        (b"\x80\x04h\x05.", "a value that was not stored before"),
        (b"\x80\x04Nr\xff\xff\xff\x7f.", "a memo entry out of order"),
        (b"\x80\x04B\xff\xff\xff\xff.", "cut off"),
        (b"\x80\x04\x8e" + b"\xff" * 8 + b".", "cut off"),
        (b"\x80\x04\x8b" + struct.pack("<i", 100) + bytes(100) + b".", "an integer of 100 bytes"),
        (b"I" + b"9" * 10**6 + b"\n.", "INT at byte 0"),
        (b"F" + b"\x01" * 10**6 + b"\n.", "FLOAT at byte 0"),
        (b"\x80\x04].0", "send one pickle"),
        (b"\x80\x04]a.", "expected a whole and valid one"),
        (b"\x80\x04}]N" + b"s.", "expected a whole and valid one"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
        (b"\x82\x01.", "EXT1"),
        (b"\x80\x04K\x01Q.", "BINPERSID"),
    ],
)
def test_damaged_and_senseless_pickles(data, message):
    assert message in refused(data)


def test_cycles_depth_and_references_that_multiply():
    cycle = []
    cycle.append(cycle)
    refused(pickle.dumps(cycle))
    deep = []
    for _ in range(MAX_DEPTH):
        deep = [deep]
    refused(pickle.dumps(deep))
    many = b"\x80\x04]\x94" + b"]\x94(" + b"h\x00" * 9 + b"e"
    for index in range(1, 10):
        many += b"]\x94(" + b"h" + bytes([index]) + (b"h" + bytes([index])) * 9 + b"e"
    refused(many + b".")
    refused(pickle.dumps([0] * (MAX_OPERATIONS + 1)))


def timed(data):
    """Seconds of the processor until it is refused or read."""
    begun = time.process_time()
    with contextlib.suppress(UnpickleError):
        load_plain_data(data)
    return time.process_time() - begun


def long_keys(size, uses):
    """Two equal but different keys of so many bytes, used again and again: each use compares all of their bytes."""
    key = b"X" + struct.pack("<I", size) + b"a" * size
    put = b"\x80\x03}(" + key + b"q\x00N" + key + b"q\x01N"
    return put + b"h\x00Nh\x01N" * (uses // 2) + b"u."


def test_long_equal_keys_do_not_freeze():
    assert timed(long_keys(2**23, 12_000)) < 2
    assert load_plain_data(long_keys(100, 1000)) == {"a" * 100: None}


def test_tuples_as_keys_do_not_freeze():
    """Each level of a tuple that holds the one below twice doubles the time of its hash."""
    tower = b"\x80\x04}K\x01\x85\x94"
    for index in range(40):
        tower += b"0h" + bytes([index]) + b"h" + bytes([index]) + b"\x86\x94"
    assert timed(tower + b"Ns.") < 1
    tower = b"\x80\x04}K\x01\x85\x94" + b"".join(b"h" + bytes([i]) + b"\x86\x94" for i in range(40)) + b"Ns."
    assert timed(tower) < 1


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04" + b"F" + b"\x01" * 2**22 + b"\n.",
        b"\x80\x04X" + struct.pack("<I", 2**22) + b"\xff" * 2**22 + b".",
        b"\x80\x04" + b"(" * 150_000 + b".",
        b"\x80\x04" + b"]\x94" * 90_000,
        b"\x80\x04Nr" + struct.pack("<I", 2**31 - 1) + b".",
        b"c" + b"os" * 2**20 + b"\nsystem\n.",
    ],
)
@pytest.mark.slow
def test_memory_is_bounded_by_the_bytes(data):
    tracemalloc.start()
    try:
        refused(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5 * len(data) + 2**22


def test_random_damage_gives_no_other_error():
    rng = random.Random(0)
    record = {"tag": "counting", "include": [{"class": "bench", "count": 2}], "prompt": "two benches"}
    seeds = [
        pickle.dumps({"images": [b"x" * 300] * 2, "meta_datas": [record] * 2, "only_strict": True}, p) for p in range(6)
    ]
    codes = [code.code.encode("latin-1") for code in pickletools.opcodes]
    for _ in range(6000):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data))
            data[at : at + rng.randint(0, 2)] = rng.choice(codes) + bytes(
                rng.randrange(256) for _ in range(rng.randint(0, 3))
            )
        with contextlib.suppress(UnpickleError):
            load_plain_data(bytes(data))
