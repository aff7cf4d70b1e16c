"""Images are found by name, and only below the folder."""

import os

import pytest

from geneval_reward.errors import ResultsError
from geneval_reward.study.report.locate import locate


@pytest.fixture
def tree(tmp_path):
    for name in ("run/00000/samples/0000.png", "run/images/00001/samples/0000.png", "run/flat.png", "secret.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def test_beside_the_file_and_below_images(tree):
    names = ["00000/samples/0000.png", "00001/samples/0000.png", "00002/samples/0000.png"]
    found = locate(names, tree / "run" / "r.jsonl")
    assert [None if path is None else path.relative_to(tree.resolve()).as_posix() for path in found] == [
        "run/00000/samples/0000.png",
        "run/images/00001/samples/0000.png",
        None,
    ]


def test_paths_of_the_official_script_are_matched_by_their_end(tree):
    names = [
        "/home/someone/outputs/00000/samples/0000.png",
        "C:\\outputs\\00001\\samples\\0000.png",
        "deep/down/flat.png",
    ]
    found = locate(names, tree / "elsewhere.jsonl", tree / "run")
    assert found[0] is not None
    assert found[1] is None  # it is below images, not below run
    assert found[2] == tree.resolve() / "run" / "flat.png"


def test_a_shared_bare_name_is_nobodys(tree):
    assert locate(["a/flat.png", "b/flat.png"], tree / "r.jsonl", tree / "run") == [None, None]


@pytest.mark.parametrize("name", ["../secret.png", "x/../../secret.png", "", "/", "..", "a\x00b"])
def test_a_name_never_leads_out(tree, name):
    assert locate([name], tree / "run" / "r.jsonl", tree / "run") == [None]


def test_an_absolute_name_is_only_looked_for_below(tree):
    assert locate([str(tree / "secret.png")], tree / "run" / "r.jsonl") == [None]


def test_a_link_that_leads_out_is_not_followed(tree):
    os.symlink(tree / "secret.png", tree / "run" / "link.png")
    assert locate(["link.png"], tree / "run" / "r.jsonl") == [None]


def test_no_such_folder(tree):
    with pytest.raises(ResultsError, match=r"expected the folder with the images .* got nothing"):
        locate(["a.png"], tree / "r.jsonl", tree / "nowhere")
