"""Folders of images: numbers come from file names, so that a missing file shifts nothing."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from geneval_reward.prompts import official_suite
from geneval_reward.results.layout import read_folder, write_prompt_folder

SPEC = official_suite()[0]


@pytest.fixture
def put(tmp_path):
    """Put images of these names into the folder of a prompt."""

    def call(*names, number=0):
        samples = write_prompt_folder(tmp_path, number, SPEC)
        for name in names:
            Image.new("RGB", (4, 4)).save(samples / name)
        return tmp_path

    return call


def found(folder):
    return [(item.path.name, item.index) for item in folder.items]


def test_a_missing_file_shifts_no_number(put) -> None:
    folder = read_folder(put("0001.png", "0003.png"))
    assert found(folder) == [("0001.png", 1), ("0003.png", 3)]
    assert not folder.problems
    assert found(read_folder(put("0000.png"))) == [("0000.png", 0), ("0001.png", 1), ("0003.png", 3)]


def test_ten_comes_after_two(put) -> None:
    assert found(read_folder(put("10.png", "2.png", "1.jpg"))) == [("1.jpg", 1), ("2.png", 2), ("10.png", 10)]


def test_a_number_given_twice_is_told_and_order_counts(put) -> None:
    folder = read_folder(put("0.png", "0000.png", "0002.png"))
    assert sorted(index for _, index in found(folder)) == [0, 1, 2]
    assert len(folder.problems) == 1
    assert "00000/samples: expected a number of its own in every image's name, got number 0 in" in folder.problems[0]


def test_a_missing_file_of_a_flat_folder_shifts_no_number(tmp_path) -> None:
    lines = [json.loads(SPEC.to_json()) | {"filename": f"{name}.png"} for name in "abc"]
    (tmp_path / "meta.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name in "bc":
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
    folder = read_folder(tmp_path, tmp_path / "meta.jsonl")
    assert found(folder) == [("b.png", 1), ("c.png", 2)]
    assert "expected the image a.png" in folder.problems[0]


def test_images_are_dealt_by_their_numbers(tmp_path) -> None:
    for number in range(12):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{number}.png")
    (tmp_path / "meta.jsonl").write_text("".join(spec.to_json() + "\n" for spec in official_suite()[:2]))
    folder = read_folder(tmp_path, tmp_path / "meta.jsonl")
    assert found(folder) == [(f"{number}.png", number % 6) for number in range(12)]


@given(st.sets(st.integers(0, 10**9), min_size=1, max_size=8), st.integers(1, 6))
def test_numbers_are_those_of_the_names_in_any_width(tmp_path_factory, numbers, width) -> None:
    root = tmp_path_factory.mktemp("law")
    samples = write_prompt_folder(root, 0, SPEC)
    for number in numbers:
        (samples / f"{number:0{width}d}.png").touch()
    assert [item.index for item in read_folder(root).items] == sorted(numbers)
