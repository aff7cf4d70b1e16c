import sys

import pytest

from geneval_reward.errors import UsageError
from geneval_reward.support.imports import import_object, is_import_path, source_file


def test_both_forms_are_imported(tmp_path):
    file = tmp_path / "my-model.py"
    file.write_text("class Model:\n    size = 3\n")
    assert import_object("math:gcd", "function")(4, 6) == 2
    assert import_object("collections:OrderedDict.fromkeys", "function")("ab") == {"a": None, "b": None}
    assert import_object(f"{file}:Model.size", "model") == 3
    assert source_file(f"{file}:Model") == file.resolve()
    # A file is run once per process, so that two attributes of it share their state.
    assert import_object(f"{file}:Model", "model") is import_object(f"{file}:Model", "reward")


def test_a_file_does_not_take_the_place_of_a_module(tmp_path):
    (tmp_path / "colorsys.py").write_text("value = 1\n")
    assert import_object(f"{tmp_path}/colorsys.py:value", "model") == 1
    import colorsys

    assert colorsys.rgb_to_hsv(1.0, 0.0, 0.0)[1] == 1.0


def test_dataclasses_of_a_file_find_their_module(tmp_path):
    (tmp_path / "m.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass(slots=True)\nclass Settings:\n    size: int = 2\n"
    )
    assert import_object(f"{tmp_path}/m.py:Settings", "model")().size == 2


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no.such.module:thing", "model: expected module:attribute or file.py:attribute to import, got 'no.such"),
        ("{}/nothing.py:make", "model: expected module:attribute or file.py:attribute .*there is no file"),
        ("math:no", "model: expected math to define no, got 'math:no'"),
        ("math", "model: expected module:attribute or file.py:attribute to import, got 'math'$"),
        ("math:", "model: expected module:attribute"),
        ("https://host:80/x", "model: expected module:attribute"),
    ],
)
def test_what_cannot_be_imported_is_refused_in_one_line(tmp_path, path, message):
    with pytest.raises(UsageError, match=message):
        import_object(path.format(tmp_path), "model")


def test_a_file_that_fails_keeps_its_own_error_and_leaves_nothing_behind(tmp_path):
    file = tmp_path / "broken.py"
    file.write_text("1 / 0\n")
    before = set(sys.modules)
    with pytest.raises(ZeroDivisionError):
        import_object(f"{file}:make", "model")
    assert not {name for name in set(sys.modules) - before if name.startswith("broken")}
    file.write_text("def make(): return 7\n")
    assert import_object(f"{file}:make", "model")() == 7


def test_existing_files_are_no_import_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_import_path("a:b")
    (tmp_path / "a:b").mkdir()
    assert not is_import_path("a:b")
    assert not is_import_path("owner/name")
    assert not is_import_path("https://host:80/x")
