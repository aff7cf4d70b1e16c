import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geneval_reward.errors import SpecError
from geneval_reward.generate import Shard, read_rewrites
from geneval_reward.prompts import official_suite

SPECS = official_suite()[:3]


def write(path, *lines):
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def pairs(*texts):
    return [{"prompt": spec.prompt, "rewritten": text} for spec, text in zip(SPECS, texts, strict=True)]


def test_both_forms(tmp_path) -> None:
    found = read_rewrites(write(tmp_path / "a", *pairs("one", SPECS[1].prompt, "three")), SPECS)
    assert found == {SPECS[0]: "one", SPECS[2]: "three"}
    records = [json.loads(spec.to_json()) | {"prompt": f"long {i}"} for i, spec in enumerate(SPECS)]
    assert read_rewrites(write(tmp_path / "b", *reversed(records), ""), SPECS) == {
        spec: f"long {i}" for i, spec in enumerate(SPECS)
    }


def test_rewritten_texts_may_hold_line_separators(tmp_path) -> None:
    """Language models write U+2028, and JSON lets it stand."""
    texts = [f"Sun.\u2028\x85{spec.prompt}" for spec in SPECS]
    path = tmp_path / "rewrites.jsonl"
    path.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in pairs(*texts)), "utf-8-sig")
    assert read_rewrites(path, SPECS) == dict(zip(SPECS, texts, strict=True))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (pairs("a", "b", "c")[:2], "expected a line for every prompt, got none for 1 of 3, such as 'a photo of"),
        (
            [*pairs("a", "b", "c"), {"prompt": SPECS[0].prompt, "rewritten": "again"}],
            "line 4: expected one line per prompt",
        ),
        (
            [{"prompt": "a photo of Mars", "rewritten": "x"}],
            "line 1: expected a prompt of the set, got 'a photo of Mars'",
        ),
        (pairs("", "b", "c"), "line 1: rewritten: expected text, got ''"),
        (["{"], "line 1: expected JSON"),
        (["[" * 100_000], "line 1: expected JSON, got one that is nested too deeply"),
        ([{"prompt": ["x"], "rewritten": "x"}], "line 1: expected a prompt of the set"),
        (["[]"], "line 1: expected a JSON object, got a JSON list"),
        ([{"prompt": "x"}], "expected 'prompt' and 'rewritten', or a whole record"),
        ([{"include": 3, "prompt": "x"}], "line 1: tag: expected one of"),
    ],
)
def test_bad_rewrites(tmp_path, lines, message) -> None:
    with pytest.raises(SpecError, match=message):
        read_rewrites(write(tmp_path / "a", *lines), SPECS)
    with pytest.raises(SpecError, match="expected a file of rewritten prompts"):
        read_rewrites(tmp_path / "missing", SPECS)


@given(st.integers(1, 9), st.integers(0, 40))
def test_shards_cover_everything_once(count, size) -> None:
    parts = [Shard(index, count).of(range(size)) for index in range(count)]
    assert sorted(item for part in parts for item in part) == list(range(size))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def torchrun(rank, world):
    return {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": "0"}


def test_torchrun_and_the_option_go_together() -> None:
    every = [Shard.current(f"{i}/2", torchrun(rank, 3)) for i in range(2) for rank in range(3)]
    assert {shard.index for shard in every} == set(range(6))
    assert {shard.count for shard in every} == {6}
    assert Shard.current(None, {}) == Shard(0, 1)


@pytest.mark.parametrize("text", ["4/4", "1", "a/b", "-1/2", "0/0"])
def test_bad_shards(text) -> None:
    with pytest.raises(ValueError, match="shard: expected i/n"):
        Shard.current(text, {})
    with pytest.raises(ValueError, match="RANK, WORLD_SIZE: expected integers"):
        Shard.current(None, torchrun("x", 1))
    with pytest.raises(ValueError, match=r"RANK, WORLD_SIZE: expected a rank of 0\.\.0, got 3 of 1; unset them"):
        Shard.current(None, torchrun(3, 1))


def test_variables_that_no_launcher_set_leave_out_no_prompts() -> None:
    """Pods of Kubeflow have them, and so has a shell from which a process of torchrun was debugged."""
    assert Shard.current(None, {"RANK": "0", "WORLD_SIZE": "3"}) == Shard(0, 1)
    assert Shard.current("1/2", {"RANK": "3"}) == Shard(1, 2)
