import sys
from pathlib import Path

import pytest

from geneval_reward.generate import ForeignGenerator
from geneval_reward.generate.identity import identify
from geneval_reward.generate.packaged import find_generator, list_generators


def test_the_files_are_found_by_name():
    found = list_generators()
    assert list(found) == [
        "bagel",
        "infinity",
        "orthus",
        "ovis_u1",
        "show_o",
        "show_o2",
        "tokenflow",
        "unilip",
        "unipic",
    ]
    for name, model in found.items():
        path, _, kind = model.source.rpartition(":")
        assert Path(path) == model.path
        assert model.path.stem == name
        assert f"class {kind}" in model.path.read_text()
        assert model.title.endswith("for `ForeignGenerator`.")


def test_the_name_is_enough_for_a_generator_and_its_identity():
    model = find_generator("unipic")
    assert ForeignGenerator("unipic", python=sys.executable).model == model.source
    assert identify("unipic") == identify(model.source) != identify("unilip")


def test_another_name_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match=r"expected file.py:NAME, module:NAME or one of bagel, infinity.*got 'sana'"):
        find_generator("sana")
