import json
import time

import pytest

from geneval_reward.prompts import Vocabulary, official_suite
from geneval_reward.results.check import check_file

LINES = [
    b"\xef\xbb\xbfa photo of seven cups",
    b'{"tag": "texture", "include": [{"class": "cup", "count": 1}], "id": 3}\r',
    b'{"tag": "colors", "include": [{"class": "dgo", "count": 1}]}',
    b"",
    b'{"file_name": "a.png", "prompt": "a red cup"}',
    b'{"file_name": "b.png", "metadata": {"tag": "single_object", "include": [{"class": "cup", "count": 1}]}}',
    b"a cup next to a dog",
    b'{"tag": "single_object"',
    b"a photo of seven cups",
    b"\xff\xfe",
    b'{"exlude": []}',
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b"\n".join(LINES))
    return path


def test_every_problem_is_named_with_its_line(file):
    found = check_file(file, Vocabulary())
    assert [spec.tag for spec in found.specs] == ["counting", "texture", "colors", "single_object", "counting"]
    assert found.repeated == [9]
    for problem, words in zip(
        found.problems,
        [
            "line 3: include[0].class: expected one of the 80 GenEval class names, got 'dgo'; did you mean 'dog'?",
            "line 7: prompt: expected a prompt text of the official suite, got 'a cup next to a dog'",
            "line 8: expected JSON, got",
            "line 10: expected UTF-8 text, got",
            "line 11: record: expected keys of tag, include, exclude, prompt, got 'exlude'; did you mean 'exclude'?",
        ],
        strict=True,
    ):
        assert problem.startswith(words), problem


def test_the_words_are_those_of_the_scorer(file):
    found = check_file(file, Vocabulary(("dgo", "cup")))
    assert not any(problem.startswith("line 3:") for problem in found.problems)


def test_thousands_of_lines_take_seconds_at_most(tmp_path):
    path = tmp_path / "many.jsonl"
    path.write_text(
        "".join(json.dumps(spec.to_record() | {"id": n}) + "\n" for n in range(20) for spec in official_suite())
    )
    start = time.process_time()
    found = check_file(path, Vocabulary())
    assert (len(found.specs), found.problems, len(found.repeated)) == (11_060, [], 11_060 - 553)
    assert time.process_time() - start < 5
