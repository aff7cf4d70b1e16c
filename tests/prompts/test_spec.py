import json
import pickle
import tracemalloc
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geneval_reward.errors import GenEvalError, SpecError
from geneval_reward.prompts import (
    CLASS_NAMES,
    COLORS,
    RELATIONS,
    TAGS,
    Include,
    Position,
    PromptSpec,
    Vocabulary,
    class_id,
    official_suite,
)


def record(*include: Any, tag: Any = "two_object", **more: Any) -> dict[str, Any]:
    return {"tag": tag, "include": list(include), **more}


def obj(name: Any = "dog", count: Any = 1, **more: Any) -> dict[str, Any]:
    return {"class": name, "count": count, **more}


@st.composite
def records(draw: st.DrawFn) -> dict[str, Any]:
    names, counts = st.sampled_from(CLASS_NAMES), st.integers(1, 40)
    include = []
    for index in range(draw(st.integers(1, 5))):
        item: dict[str, Any] = {"class": draw(names), "count": draw(counts)}
        if draw(st.booleans()):
            item["color"] = draw(st.sampled_from(COLORS))
        if index and draw(st.booleans()):
            pair = st.tuples(st.sampled_from(RELATIONS), st.integers(0, index - 1)).map(list)
            pairs = draw(st.lists(pair, min_size=1, max_size=3))
            item["position"] = pairs[0] if len(pairs) == 1 else pairs
        include.append(item)
    made: dict[str, Any] = {"tag": draw(st.sampled_from(TAGS)), "include": include}
    exclude = draw(st.lists(st.tuples(names, counts), max_size=3))
    if exclude:
        made["exclude"] = [{"class": name, "count": count} for name, count in exclude]
    made["prompt"] = draw(st.text(min_size=1).filter(str.strip))
    return made


@given(records())
def test_any_record_comes_back(made: dict[str, Any]) -> None:
    spec = PromptSpec.parse(made)
    assert spec.to_record() == made
    assert list(spec.to_record()) == [key for key in ("tag", "include", "exclude", "prompt") if key in made]
    assert spec.to_json() == json.dumps(made)
    assert PromptSpec.parse(spec.to_json()) == PromptSpec.parse(spec.to_json().encode()) == spec
    assert PromptSpec.parse(spec) is spec
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert hash(PromptSpec.parse(spec.to_json())) == hash(spec)


@given(records())
def test_any_record_renders_and_names_all_that_it_asks_for(made: dict[str, Any]) -> None:
    spec = PromptSpec.parse(made)
    text = spec.render()
    assert text.startswith("a photo of ")
    for item in spec.include:
        assert item.class_name in text
        assert item.color is None or f"{item.color} {item.class_name}" in text
    assert set(spec.class_names) == {item["class"] for item in made["include"] + made.get("exclude", [])}
    assert len(set(spec.class_names)) == len(spec.class_names)
    assert set(spec.colored_class_names) == {item["class"] for item in made["include"] if "color" in item}


@given(records())
def test_none_counts_as_missing(made: dict[str, Any]) -> None:
    # Arrow gives every row the keys of all rows.
    full = {"exclude": None, **made, "include": [{"color": None, "position": None, **item} for item in made["include"]]}
    full["another"] = None
    assert PromptSpec.parse(full) == PromptSpec.parse(made)


@pytest.mark.parametrize(
    ("include", "text"),
    [
        ([obj("orange", color="orange")], "a photo of an orange orange"),
        ([obj("apple", 3, color="red")], "a photo of three red apples"),
        ([obj("bus", 2)], "a photo of two buses"),
        ([obj("sheep", 16)], "a photo of sixteen sheeps"),
        ([obj("sheep", 17)], "a photo of 17 sheeps"),
        ([obj("cup"), obj("cat", position=["left of", 0])], "a photo of a cat left of a cup"),
        (
            [obj("cup"), obj("bed"), obj("cat", 2, position=[["left of", 0], ["above", 1]])],
            "a photo of two cats left of a cup and above a bed",
        ),
        ([obj("cup"), obj("cat", position=["below", 0]), obj("dog")], "a photo of a cat below a cup and a dog"),
    ],
)
def test_wording(include: list[dict[str, Any]], text: str) -> None:
    assert PromptSpec.parse(record(*include)).prompt == text


def test_records_as_pandas_reads_them_from_parquet() -> None:
    made = record(obj("cup"), obj("cat", position=np.array(["left of", np.int64(0)], object)), tag="position")
    made["include"] = np.array(made["include"], object)
    assert PromptSpec.parse(made).include[1].positions == (Position("left of", 0),)
    made["include"][1]["position"] = [["left of", torch.tensor(0)]]
    assert PromptSpec.parse(made).include[1].positions == (Position("left of", 0),)


def test_bounds_hold_at_every_door() -> None:
    """What one record may cost is bounded here and nowhere else."""
    most = record(*[obj("cup", position=[["above", 0]] * 8 if 0 < n <= 8 else None) for n in range(64)])
    assert len(PromptSpec.parse(most).include) == 64
    assert PromptSpec.parse(record(obj(count=10_000), prompt="x" * 8192)).include[0].count == 10_000
    for bad, message in (
        (record(*[obj("cup")] * 65), "include: expected a list of at most 64, got 65"),
        (record(*[obj("cup")] * 60, exclude=[obj("cat")] * 5), "exclude: expected a list of at most 4, got 5"),
        (
            record(obj(), obj(position=[["above", 0]] * 9)),
            r"include\[1\]\.position: expected a list of at most 8, got 9",
        ),
        (record(obj(), *[obj(position=[["above", 0]] * 8)] * 9), "include: expected at most 64 relations, got 72"),
        (record(obj(count=10**400)), r"count: expected an integer in 1\.\.10,000, got an integer of 1329 bits"),
        (record(obj(count=10**5000)), "got an integer of"),
        (record(obj(), prompt="x" * 8193), "prompt: expected at most 8,192 characters, got 8,193"),
    ):
        with pytest.raises(SpecError, match=message):
            PromptSpec.parse(bad)


@pytest.mark.parametrize("key", ["tag", "class", "color", "relation", "key"])
def test_a_long_word_costs_what_it_is_and_no_more(key: str) -> None:
    """difflib indexes every character of a word: 44 times its size."""
    word = "a" * 3_000_000
    clause = obj(word if key == "class" else "dog", color=word if key == "color" else None)
    clause["position"] = [word, 0] if key == "relation" else None
    made = record(obj(), clause, tag=word if key == "tag" else "colors") | ({word: 1} if key == "key" else {})
    tracemalloc.start()
    try:
        with pytest.raises(SpecError) as caught:
            PromptSpec.parse(made)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 400


def test_arrays_where_text_is_expected_are_refused_as_such() -> None:
    two = np.array([1, 2])
    for bad in (record(obj(), tag=two), record(obj(color=two)), record(obj(two))):
        with pytest.raises(SpecError, match="got a ndarray"):
            PromptSpec.parse(bad)


def test_numpy_counts_and_tuples_are_understood() -> None:
    made = {"tag": "position", "include": (obj("cup"), obj("cat", np.int64(2), position=("left of", 0)))}
    spec = PromptSpec.parse(made)
    assert spec.include[1] == Include("cat", 2, None, (Position("left of", 0),))
    assert type(spec.include[1].count) is int


def test_prompt_may_differ_from_the_wording() -> None:
    spec = PromptSpec.parse(record(obj(), prompt="ein Hund"))
    assert (spec.prompt, spec.render()) == ("ein Hund", "a photo of a dog")


BAD: list[tuple[Any, str]] = [
    (None, r"record: expected a mapping, a JSON string or a PromptSpec, got NoneType"),
    ([obj()], r"record: expected a mapping.* got list"),
    ("a photo of a dog", r"record: expected JSON, got 'a photo of a dog'.*resolve"),
    ('{"tag": "colors", ', r"record: expected JSON, got"),
    ("[1]", r"record: expected a JSON object, got a JSON list"),
    (b"\xff\xfe\xfa", r"record: expected JSON, got"),
    ("[" * 100_000, r"record: expected JSON, got one that is nested too deeply"),
    ({}, r"tag: expected one of single_object, .*color_attr, or a name of your own, got None"),
    (record(obj(), tag="colour"), r"tag: expected one of .*, got 'colour'; did you mean 'colors'\?"),
    (record(obj(), tag=["colors"]), r"tag: expected one of .*, got \['colors'\]"),
    ({"tag": "colors"}, r"include: expected a list, got NoneType"),
    (record(), r"include: expected at least one clause, got an empty list"),
    ({"tag": "colors", "include": obj()}, r"include: expected a list, got dict"),
    (record("dog"), r"include\[0\]: expected a mapping with 'class' and 'count', got str"),
    (record(obj(), None), r"include\[1\]: expected a mapping"),
    *(
        (record(obj(), tag=tag), r"tag: expected .*a name of your own of at most 64 letters")
        for tag in ("", "a b", "1", "[/x]", "é")
    ),
    (record(obj(), tag="overall"), r"tag: expected a name that no other number has, got 'overall'"),
    (record({"count": 1}), r"include\[0\]\.class: expected the name of a class, got None"),
    *((record(obj(name)), r"include\[0\]\.class: .*printable") for name in ("", " dog", "a\nb", "a" * 65, "\ud800")),
    (record(obj(16)), r"include\[0\]\.class: .*got 16"),
    (record(obj(["dog"])), r"include\[0\]\.class: .*got \['dog'\]"),
    (record({"class": "dog"}), r"include\[0\]\.count: expected an integer in 1\.\.10,000, got None"),
    *(
        (record(obj(count=n)), rf"include\[0\]\.count: expected an integer in 1\.\.10,000, got {n!r}")
        for n in (0, -1, True, 1.5, 1.0)
    ),
    (record(obj(count="2")), r"include\[0\]\.count: expected an integer in 1\.\.10,000, got '2'"),
    (record(obj(color=["red"])), r"include\[0\]\.color: expected the name of a colour, got \['red'\]"),
    (record(obj(color="")), r"include\[0\]\.color: expected the name of a colour, of 1 to 64"),
    (record(obj(colour="red")), r"include\[0\]: expected keys of class, count, color, position, got 'colour'"),
    (record(obj(), prompts="x"), r"record: expected keys of tag, include, exclude, prompt, got 'prompts'"),
    (record(obj(), prompt=3), r"prompt: expected a string, got int"),
    (record(obj(), prompt=" "), r"prompt: expected text, got an empty string; leave the key out"),
    (record(obj(), exclude=obj()), r"exclude: expected a list, got dict"),
    (record(obj(), exclude=0), r"exclude: expected a list, got int"),
    (record(obj(), exclude=[obj(7)]), r"exclude\[0\]\.class: expected the name of a class, got 7"),
    (record(obj(), note=object()), r"record: expected JSON values under 'note', got"),
    (record(obj(), note="x" * 20_000), r"record: expected at most 16,384 characters of further keys, got 20,"),
    (record(obj()) | {3: "x"}, r"record: expected keys of .* or names of your own of at most 64 characters, got 3"),
    (record(obj(), exclude=[obj("cat", 0)]), r"exclude\[0\]\.count: expected an integer in 1\.\.10,000, got 0"),
    (record(obj(), exclude=[obj("cat", color="red")]), r"exclude\[0\]: expected keys of class, count, got 'color'"),
    (record(obj(), obj(position=["over", 0])), r"include\[1\]\.position: expected a relation of left of, .*got 'over'"),
    (record(obj(), obj(position=["left", 0])), r"got 'left'; did you mean 'left of'\?"),
    (
        record(obj(), obj(position=["left of"])),
        r"expected \[relation, index of an earlier include clause\], got \['left of'\]",
    ),
    (record(obj(), obj(position="left of")), r"include\[1\]\.position: expected a list, got str"),
    (record(obj(position=["left of", 0])), r"none: the first clause has no earlier one\), got 0"),
    (record(obj(), obj(position=["left of", 1])), r"include\[1\]\.position: .*\(0\.\.0\), got 1"),
    (record(obj(), obj(position=["left of", 2]), obj()), r"include\[1\]\.position: .*\(0\.\.0\), got 2"),
    (record(obj(), obj(position=["left of", -1])), r"include\[1\]\.position: .*got -1"),
    (record(obj(), obj(position=["left of", False])), r"include\[1\]\.position: .*got False"),
    (record(obj(), obj(position=["left of", "0"])), r"include\[1\]\.position: .*got '0'"),
    (record(obj(), obj(position=[["above", 0], ["left of", 3]])), r"include\[1\]\.position: .*\(0\.\.0\), got 3"),
]


@pytest.mark.parametrize(("bad", "message"), BAD, ids=range(len(BAD)))
def test_bad_records_are_refused_with_their_place(bad: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        PromptSpec.parse(bad)


json_like = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 9)
    | st.floats()
    | st.sampled_from(["dog", "red", "left of", "colors", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["tag", "include", "exclude", "class", "count", "color", "position", "prompt"]), inner
        )
    ),
    max_leaves=12,
)


@given(st.text() | json_like)
def test_garbage_raises_nothing_else(garbage: Any) -> None:
    with suppress(GenEvalError):
        PromptSpec.parse(garbage)


@given(records(), st.data())
def test_a_damaged_record_raises_nothing_else(made: dict[str, Any], data: st.DataObject) -> None:
    target: Any = data.draw(st.sampled_from([made, made["include"][0], *made.get("exclude", [])]))
    target[data.draw(st.sampled_from(sorted(target)))] = data.draw(json_like)
    try:
        spec = PromptSpec.parse(made)
    except GenEvalError:
        return
    assert PromptSpec.parse(spec.to_json()) == spec


def test_class_id_is_the_coco_index() -> None:
    assert [class_id(name) for name in CLASS_NAMES] == list(range(80))
    assert [CLASS_NAMES[i] for i in (0, 16, 64, 65, 66, 79)] == [
        "person", "dog", "computer mouse", "tv remote", "computer keyboard", "toothbrush",
    ]  # fmt: skip
    with pytest.raises(SpecError, match=r"^target: expected"):
        class_id("thing", "target")


def test_what_pandas_fills_with_nan_counts_as_missing() -> None:
    """A table of records with and without `exclude` has NaN where it is missing."""
    nan = float("nan")
    made = {**record(obj("cup", color=nan, position=nan)), "exclude": nan, "prompt": nan, "note": nan}
    assert PromptSpec.parse(made) == PromptSpec.parse(record(obj("cup")))


def test_half_a_character_is_no_text() -> None:
    with pytest.raises(SpecError, match="prompt: expected text, got half of a character"):
        PromptSpec.parse(record(obj(), prompt="a \ud800"))


UNKNOWN: list[tuple[Any, str]] = [
    (record(obj("dragon fruit")), r"include\[0\]\.class: .*got 'dragon fruit'; see geneval_reward.prompts.CLASS_NAMES"),
    (record(obj("dgo")), r"got 'dgo'; did you mean 'dog'\?"),
    (record(obj("mouse")), r"got 'mouse'; GenEval calls it 'computer mouse'"),
    (record(obj("Remote")), r"got 'Remote'; GenEval calls it 'tv remote'"),
    (record(obj(), obj("keyboard")), r"include\[1\]\.class: .*GenEval calls it 'computer keyboard'"),
    (record(obj(color="gray")), r"include\[0\]\.color: expected one of red, orange, .*white, got 'gray'"),
    (record(obj(color="Red")), r"got 'Red'; did you mean 'red'\?"),
    (record(obj(), exclude=[obj("cta")]), r"exclude\[0\]\.class: .*did you mean 'cat'\?"),
]


@pytest.mark.parametrize(("made", "message"), UNKNOWN, ids=range(len(UNKNOWN)))
def test_words_are_for_the_scorer_to_know(made: Any, message: str) -> None:
    spec = PromptSpec.parse(made)
    assert PromptSpec.parse(spec.to_json()) == spec
    with pytest.raises(SpecError, match=message):
        Vocabulary().check(spec)
    Vocabulary((*CLASS_NAMES, *spec.class_names), (*COLORS, "gray", "Red")).check(spec)


def test_the_vocabulary_of_the_benchmark_knows_its_words() -> None:
    for spec in official_suite():
        Vocabulary().check(spec)
    assert Vocabulary().digest() != Vocabulary(("teapot",)).digest()


def test_further_keys_are_handed_through_and_change_nothing_else() -> None:
    made = record(obj("cup"), prompt="a cup", note="mine", id=7, nested={"a": [1, None, "é"]})
    spec = PromptSpec.parse(made)
    assert spec.to_record() == made
    assert list(spec.to_record()) == ["tag", "include", "prompt", "note", "id", "nested"]
    plain = PromptSpec.parse(record(obj("cup"), prompt="a cup"))
    assert (spec, hash(spec), spec.core.to_json()) == (plain, hash(plain), plain.to_json())
    assert plain.core is plain
    assert pickle.loads(pickle.dumps(spec)).extra == spec.extra == PromptSpec.parse(spec.to_json()).extra
    assert PromptSpec.parse(record(obj(), table=np.array([1, 2]))).extra == {"table": [1, 2]}


def test_a_task_of_ones_own_is_a_name() -> None:
    for tag in ("texture", "my-task_2.b", "three_object", "count"):
        assert PromptSpec.parse(record(obj(), tag=tag)).tag == tag
    for tag in ("Counting", "two_objects", "color", "positions"):
        with pytest.raises(SpecError, match="did you mean"):
            PromptSpec.parse(record(obj(), tag=tag))
