import json
import os
import resource
import stat

import pytest

from geneval_reward.errors import FileError
from geneval_reward.support.files import parse_json, read_json, read_lines, write_whole

ODD = "Sun.\u2028a\u2029b\x85c\x0bd\x0ce\x1cf"


def test_lines_end_at_line_feeds_alone(tmp_path):
    path = tmp_path / "a.jsonl"
    # JSON has no raw control characters below U+0020, but texts of a prompt file may.
    path.write_bytes(f"\ufeff{ODD}\r\n\n  \n{json.dumps(ODD, ensure_ascii=False)}\n".encode())
    assert read_lines(path) == [(1, ODD), (4, json.dumps(ODD, ensure_ascii=False))]
    assert json.loads(read_lines(path)[1][1]) == ODD


def test_text_that_is_not_utf8_names_file_and_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"{}\n\xff\n")
    with pytest.raises(FileError, match=r"a\.jsonl line 2: expected UTF-8 text.*save the file as UTF-8"):
        read_lines(path)
    path.write_text("{}", encoding="utf-16")
    with pytest.raises(FileError, match="line 1: expected UTF-8"):
        read_lines(path)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "1" * 5_000, b"\xff", "[" * 70])
def test_whatever_is_no_json_is_one_kind_of_error(text):
    with pytest.raises(FileError, match="expected JSON, got"):
        parse_json(text)


def test_a_json_file_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": 1}', encoding="utf-8-sig")
    assert read_json(path) == {"a": 1}
    path.write_text("{")
    with pytest.raises(FileError, match=r"a\.json: expected JSON, got '\{'"):
        read_json(path)


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write_whole(path, "new" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_mode_of_a_file_is_kept(tmp_path):
    path, new, link = tmp_path / "old", tmp_path / "new", tmp_path / "link"
    path.write_text("old")
    path.chmod(0o664)
    link.symlink_to(path)
    write_whole(link, "text")
    assert path.read_text() == "text"
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o664
    before = os.umask(0o027)
    try:
        write_whole(new, b"bytes")
    finally:
        os.umask(before)
    assert stat.S_IMODE(new.stat().st_mode) == 0o640
    write_whole("/dev/null", "text")
