import json
import os
from collections import Counter

import numpy as np
import pytest

from geneval_reward.errors import SpecError, UsageError
from geneval_reward.prompts import DEFAULT_MIX, TAGS, official_suite, read_prompts, training_prompts

SUITE = official_suite()


def test_a_number_is_that_many_in_all_and_a_number_per_tag_says_so():
    for prompts in (60, "60", " 60 ", np.int64(60)):
        assert Counter(spec.tag for spec in read_prompts(prompts)) == dict.fromkeys(TAGS, 10)
    assert read_prompts("10/task") == read_prompts(60)
    assert len(read_prompts(7)) == 7
    assert read_prompts(60, seed=1) != read_prompts(60)
    assert set(read_prompts(60)) <= set(read_prompts(100))
    assert read_prompts(553) == SUITE


def test_training_numbers_are_drawn_anew():
    assert read_prompts(100, seed=3, numbers="training") == tuple(training_prompts(100, 3))
    drawn = read_prompts("4/task", seed=3, numbers="training")
    assert Counter(spec.tag for spec in drawn) == {tag: 4 for tag, weight in DEFAULT_MIX.items() if weight}
    assert not set(drawn) & set(SUITE)
    assert read_prompts("suite", numbers="training") == SUITE


def test_sets_by_name():
    assert read_prompts("suite") == read_prompts("official") == SUITE
    assert read_prompts("mine", suites={"mine": lambda: SUITE[:3]}) == SUITE[:3]
    with pytest.raises(UsageError, match=r"prompts: expected 'suite', 'mine', a number.*or a file.*got 'yours'"):
        read_prompts("yours", suites={"mine": lambda: SUITE[:3]})


def test_lists_and_files_hold_records_and_known_texts(tmp_path):
    forms = [SUITE[0], SUITE[1].to_record(), SUITE[2].to_json(), f" {SUITE[3].prompt} "]
    assert read_prompts(forms) == read_prompts(iter(forms)) == SUITE[:4]
    # pandas hands out columns as arrays.
    assert read_prompts(np.array([spec.prompt for spec in SUITE[:4]], object)) == SUITE[:4]
    path = tmp_path / "prompts.jsonl"
    path.write_text(f"{SUITE[0].to_json()}\r\n\n{SUITE[3].prompt}\n", encoding="utf-8-sig")
    assert read_prompts(path) == read_prompts(str(path)) == (SUITE[0], SUITE[3])


def test_a_prompt_may_hold_a_line_separator(tmp_path):
    path = tmp_path / "prompts.jsonl"
    record = SUITE[0].to_record() | {"prompt": "Sun.\u2028\x85 A bench."}
    path.write_text(json.dumps(record, ensure_ascii=False) + "\n", encoding="utf-8")
    assert [spec.prompt for spec in read_prompts(path)] == ["Sun.\u2028\x85 A bench."]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (0, "expected a number of prompts >= 1, got 0"),
        ("-3", "expected a number of prompts >= 1, got '-3'"),
        (5, r"expected 6 \(one per task\) to 553 prompts in all, got 5; for 5 of each task write 5/task"),
        ("81/task", "at most 80 prompts of single_object"),
        (True, "a list of records, got bool"),
        (2.5, "got float"),
        (None, "got NoneType"),
        ({"tag": "counting"}, "got dict"),
        ([], "at least one prompt, got none"),
        (["a photo of a bench", "a photo of nothing"], r"prompts\[1\]: prompt: expected a prompt text"),
        ("no-such-file", "got 'no-such-file'"),
        ("a\0b", r"got 'a\\x00b'"),
        ("x" * 5000, r"got 'x{100}\.\.\.'"),
    ],
)
def test_refusals(prompts, message):
    with pytest.raises((SpecError, UsageError), match=message):
        read_prompts(prompts)


def test_a_bad_line_is_named_and_a_pipe_is_not_waited_for(tmp_path):
    path, pipe = tmp_path / "prompts.jsonl", tmp_path / "pipe"
    path.write_text(f"{SUITE[0].to_json()}\n{{}}\n")
    with pytest.raises(SpecError, match=r"prompts\.jsonl line 2: tag"):
        read_prompts(path)
    os.mkfifo(pipe)
    with pytest.raises(UsageError, match="which is no file"):
        read_prompts(pipe)


def test_repeats_are_refused_on_request():
    assert len(read_prompts([SUITE[0], SUITE[0]])) == 2
    with pytest.raises(SpecError, match=r"prompts\[2\]: expected each record once, got that of prompts\[0\] again"):
        read_prompts([SUITE[0], SUITE[1], SUITE[0]], unique=True)
