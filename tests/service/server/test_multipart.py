import contextlib

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geneval_reward.service.server.multipart import FormError, parse_form

PIECES = st.lists(
    st.one_of(st.binary(max_size=50), st.sampled_from([b"\r\n", b"--", b"\r\n--", b"--edge", b"\r", b"--edge--"]))
)


def form(parts, boundary="edge"):
    files = [(name, ("f", data, "application/octet-stream")) for name, data in parts]
    request = httpx.Request(
        "POST", "http://x", files=files, headers={"content-type": f"multipart/form-data; boundary={boundary}"}
    )
    return request.read(), request.headers["content-type"]


@settings(deadline=None)
@given(st.lists(PIECES.map(b"".join), min_size=1, max_size=5))
def test_what_httpx_sends_comes_back(datas):
    # Random bytes hold no boundary of 30 characters, but much that begins like one.
    parts = [(f"part{index}", data) for index, data in enumerate(datas)]
    body, kind = form(parts, "edge" * 8)
    assert [(name, bytes(data)) for name, data in parse_form(bytearray(body), kind, 10)] == parts


def test_forms_that_are_none():
    body, kind = form([("a", b"1"), ("b", b"2"), ("c", b"3")])
    assert len(parse_form(body, kind, 3)) == 3
    with pytest.raises(FormError, match="at most 2 parts"):
        parse_form(body, kind, 2)
    with pytest.raises(FormError, match="cut off"):
        parse_form(body[:-10], kind, 9)
    with pytest.raises(FormError, match="boundary"):
        parse_form(body, "multipart/form-data", 9)
    with pytest.raises(FormError):
        parse_form(b"not a form", kind, 9)
    head = b'--edge\r\nContent-Disposition: form-data; name="a"\r\nContent-Transfer-Encoding: base64\r\n\r\n'
    with pytest.raises(FormError, match="encoding"):
        parse_form(head + b"QQ==\r\n--edge--\r\n", kind, 9)
    with pytest.raises(FormError):
        parse_form(b"--edge\r\nX: " + b"y" * 10_000 + b"\r\n\r\n\r\n--edge--\r\n", kind, 9)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_give_parts_or_an_error_of_ours(data):
    for body in (data, b"--edge\r\n" + data, form([("a", data)])[0][:-3]):
        with contextlib.suppress(FormError):
            parse_form(body, "multipart/form-data; boundary=edge", 9)
