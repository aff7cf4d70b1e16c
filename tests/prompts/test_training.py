import json
from collections import Counter
from itertools import islice, permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geneval_reward.prompts import (
    CLASS_NAMES,
    COLORS,
    DEFAULT_MIX,
    RELATIONS,
    TAGS,
    Exclude,
    Include,
    Position,
    PromptSpec,
    iter_training_prompts,
    meaning,
    official_suite,
    training_prompts,
)
from geneval_reward.prompts.suite import position


def spec(*include: Include, tag: str = "two_object", exclude: tuple[Exclude, ...] = ()) -> PromptSpec:
    return PromptSpec(tag, include, exclude, "x")


def test_seeded_and_prefix_stable() -> None:
    assert training_prompts(300, seed=3) == training_prompts(300, seed=3)
    assert training_prompts(300, seed=3)[:100] == training_prompts(100, seed=3)
    assert training_prompts(300, seed=3, unique=True)[:100] == training_prompts(100, seed=3, unique=True)
    assert training_prompts(100, seed=3) != training_prompts(100, seed=4)
    assert list(islice(iter_training_prompts(3), 50)) == training_prompts(50, seed=3)
    assert training_prompts(0) == []


def test_the_order_of_the_mix_does_not_matter() -> None:
    assert training_prompts(50, mix=dict(reversed(DEFAULT_MIX.items()))) == training_prompts(50)


def test_mix_keeps_its_proportions() -> None:
    n = 8000
    counts = Counter(spec.tag for spec in training_prompts(n, seed=1))
    total = sum(DEFAULT_MIX.values())
    for tag in TAGS:
        share = DEFAULT_MIX[tag] / total
        assert abs(counts[tag] - n * share) <= 5 * (n * share * (1 - share)) ** 0.5, tag
    assert set(Counter(spec.tag for spec in training_prompts(200, mix={"colors": 1}))) == {"colors"}


def as_facts(spec: PromptSpec) -> object:
    """The meaning of a suite-shaped record, computed another way than the package does."""
    names = [(item.class_name, item.count, item.color) for item in spec.include]
    if spec.tag == "position":
        relation = spec.include[1].positions[0].relation
        subject, target = spec.include[1].class_name, spec.include[0].class_name
        if relation in ("right of", "below"):
            subject, target = target, subject
        return spec.tag, "x" if relation in ("left of", "right of") else "y", subject, target
    return spec.tag, tuple(sorted(names, key=str))


def test_never_a_meaning_of_the_suite() -> None:
    suite = {as_facts(spec) for spec in official_suite()}
    texts = {spec.prompt for spec in official_suite()}
    drawn = training_prompts(8000, seed=5)
    assert not {as_facts(spec) for spec in drawn} & suite
    assert not {spec.prompt for spec in drawn} & texts
    # The guard is not idle: left to itself the stream does meet the suite.
    loose = training_prompts(2000, seed=5, exclude=())
    assert {as_facts(spec) for spec in loose} & suite


def test_every_prompt_is_a_valid_record_in_the_benchmarks_wording() -> None:
    mix = dict.fromkeys(TAGS, 1)
    for drawn in training_prompts(600, seed=2, mix=mix, exclude=()):
        assert PromptSpec.parse(json.loads(drawn.to_json())) == drawn
        assert drawn.render() == drawn.prompt
        assert not any(item.class_name == "person" and item.color for item in drawn.include)
        if drawn.tag == "color_attr":
            assert drawn.include[0].color != drawn.include[1].color


def test_twenty_thousand_different_meanings() -> None:
    drawn = training_prompts(20_000, seed=0, unique=True)
    assert len({as_facts(spec) for spec in drawn}) == len({meaning(spec) for spec in drawn}) == 20_000
    assert not {as_facts(spec) for spec in drawn} & {as_facts(spec) for spec in official_suite()}


@pytest.mark.parametrize(
    ("mix", "capacity"),
    [
        ({"counting": 1}, 240 - 80),
        ({"colors": 1}, 790 - 94),
        ({"two_object": 1}, 80 * 79 // 2 - 99),
        ({"counting": 1, "colors": 3}, 160 + 696),
    ],
)
def test_unique_gives_every_meaning_and_then_says_so(mix: dict[str, int], capacity: int) -> None:
    suite = {as_facts(spec) for spec in official_suite()}
    assert len({facts for facts in suite if facts[0] in mix}) == len([s for s in official_suite() if s.tag in mix])  # type: ignore[index]
    drawn = training_prompts(capacity, mix=mix, unique=True)
    assert len({as_facts(spec) for spec in drawn}) == capacity
    with pytest.raises(ValueError, match=rf"n: expected at most {capacity} prompts .*, got {capacity + 1}"):
        training_prompts(capacity + 1, mix=mix, unique=True)


def test_a_task_that_has_run_out_hands_its_share_on() -> None:
    drawn = training_prompts(2000, mix={"counting": 9, "position": 1}, unique=True)
    assert Counter(spec.tag for spec in drawn) == {"counting": 160, "position": 1840}


def test_position_capacity_counts_mirrors_once() -> None:
    # Excluding all but a few meanings leaves exactly those.
    every = [position(a, b, relation) for a in range(80) for b in range(80) if a != b for relation in (0, 2)]
    assert len({meaning(spec) for spec in every}) == len(every) == 80 * 79 * 4 // 2
    kept = every[:2] + every[-3:]
    left = list(iter_training_prompts(1, mix={"position": 1}, unique=True, exclude=every[2:-3]))
    assert len(left) == 5
    assert {meaning(spec) for spec in left} == {meaning(spec) for spec in kept}


def test_excluded_tasks_and_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"mix: expected weight 0 for single_object, got 2; every .* excluded"):
        training_prompts(1, mix={"single_object": 2, "colors": 1})
    assert len(training_prompts(80, mix={"single_object": 1}, exclude=(), unique=True)) == 80
    with pytest.raises(ValueError, match=r"mix: expected tasks of .*, got 'colours'"):
        training_prompts(1, mix={"colours": 1})
    for weight in (-1, 0.5, True):
        with pytest.raises(ValueError, match=rf"mix: expected an integer weight >= 0 for colors, got {weight}"):
            training_prompts(1, mix={"colors": weight})
    with pytest.raises(ValueError, match=r"mix: expected at least one task with a weight above 0"):
        training_prompts(1, mix={"colors": 0})
    with pytest.raises(ValueError, match=r"n: expected an integer >= 0, got -1"):
        training_prompts(-1)
    with pytest.raises(ValueError, match=r"seed: expected an integer >= 0, got -2"):
        training_prompts(1, seed=-2)


def test_what_means_the_same() -> None:
    cat, dog = Include("cat"), Include("dog")
    red_cat, blue_dog = Include("cat", 1, "red"), Include("dog", 1, "blue")
    left = spec(dog, Include("cat", 1, None, (Position("left of", 0),)))
    right = spec(cat, Include("dog", 1, None, (Position("right of", 0),)))
    assert meaning(spec(cat, dog)) == meaning(spec(dog, cat))
    assert meaning(spec(red_cat, blue_dog)) == meaning(spec(blue_dog, red_cat))
    assert meaning(left) == meaning(right)


def test_what_does_not_mean_the_same() -> None:
    cat, dog = Include("cat"), Include("dog")
    left = Include("cat", 1, None, (Position("left of", 0),))
    records = [
        spec(cat),
        spec(cat, cat),
        spec(cat, dog),
        spec(Include("cat", 2)),
        spec(Include("cat", 2), exclude=(Exclude("cat", 3),)),
        spec(Include("cat", 1, "red"), Include("dog", 1, "blue")),
        spec(Include("cat", 1, "blue"), Include("dog", 1, "red")),
        spec(dog, left),
        spec(dog, Include("cat", 1, None, (Position("right of", 0),))),
        spec(dog, Include("cat", 1, None, (Position("above", 0),))),
        spec(cat, Include("dog", 1, None, (Position("above", 0),))),
    ]
    assert len({meaning(record) for record in records}) == len(records)


@st.composite
def shuffled(draw: st.DrawFn) -> tuple[PromptSpec, PromptSpec]:
    """A record of different objects, and the same one in another order: a relation that would point forward is mirrored."""
    names = draw(st.lists(st.sampled_from(CLASS_NAMES), min_size=1, max_size=5, unique=True))
    items = [(name, draw(st.integers(1, 4)), draw(st.sampled_from((None, *COLORS)))) for name in names]
    place = st.tuples(st.sampled_from(RELATIONS), st.integers(0, 4), st.integers(0, 4))
    places = [p for p in draw(st.lists(place, max_size=5)) if p[1] != p[2] and max(p[1:]) < len(items)]
    exclude = tuple(Exclude(name, 9) for name in draw(st.lists(st.sampled_from(CLASS_NAMES), max_size=3)))
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

    def build(order: list[int], unwanted: tuple[Exclude, ...]) -> PromptSpec:
        positions: dict[int, list[Position]] = {i: [] for i in order}
        for relation, subject, target in places:
            if order.index(target) < order.index(subject):
                positions[subject].append(Position(relation, order.index(target)))
            else:
                positions[target].append(Position(opposite[relation], order.index(subject)))
        return spec(*(Include(*items[i], tuple(positions[i])) for i in order), exclude=unwanted)

    order = draw(st.permutations(range(len(items))))
    return build(list(range(len(items))), exclude), build(list(order), tuple(draw(st.permutations(exclude))))


@given(shuffled())
@settings(max_examples=200)
def test_meaning_is_free_of_order(pair: tuple[PromptSpec, PromptSpec]) -> None:
    first, second = pair
    assert meaning(first) == meaning(second)
    assert hash(meaning(first)) == hash(meaning(second))


@given(shuffled(), st.sampled_from(CLASS_NAMES), st.integers(1, 4))
def test_another_object_is_another_meaning(pair: tuple[PromptSpec, PromptSpec], name: str, count: int) -> None:
    record = pair[0]
    more = PromptSpec(record.tag, (*record.include, Include(name, count)), record.exclude, "x")
    assert meaning(more) != meaning(record)


def a(name, *positions, color=None):
    return {"class": name, "count": 1, "color": color, "position": list(positions) or None}


@pytest.mark.parametrize(
    "include",
    [
        # The second cup is the one that a dog is below, whichever cup comes first.
        [a("cup"), a("cup"), a("dog", ["below", 1])],
        # Two pairs that are alike, and two that differ further away.
        [a("cup"), a("cup"), a("dog", ["below", 0]), a("dog", ["below", 1])],
        [a("cup"), a("cup"), a("dog", ["below", 0]), a("dog", ["below", 1]), a("cat", ["left of", 3])],
        [a("cup"), a("cup", ["left of", 0]), a("cup", ["left of", 1]), a("cup", ["above", 0])],
        [a("cup", color="red"), a("cup"), a("cup"), a("bed", ["above", 0], ["above", 1])],
    ],
)
def test_the_order_of_equal_clauses_does_not_matter(include):
    spec = PromptSpec.parse({"tag": "position", "include": include})
    size = len(include)
    links = [(place.relation, i, place.target) for i, item in enumerate(spec.include) for place in item.positions]
    turned = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    seen = set()
    for order in permutations(range(size)):
        # A relation must point to an earlier clause, so it is said from the other side where the order has changed.
        clauses = [{"class": include[i]["class"], "count": 1, "color": include[i]["color"]} for i in order]
        for relation, subject, target in links:
            later, earlier = order.index(subject), order.index(target)
            if later < earlier:
                later, earlier, relation = earlier, later, turned[relation]
            clauses[later].setdefault("position", []).append([relation, earlier])
        seen.add(meaning(PromptSpec.parse({"tag": "position", "include": clauses})))
    assert len(seen) == 1
    assert len(next(iter(seen)).objects) == size


def test_equal_clauses_in_different_places_differ():
    one = PromptSpec.parse({"tag": "position", "include": [a("cup"), a("cup"), a("dog", ["below", 0], ["left of", 1])]})
    two = PromptSpec.parse({"tag": "position", "include": [a("cup"), a("cup"), a("dog", ["below", 0], ["left of", 0])]})
    assert meaning(one) != meaning(two)
