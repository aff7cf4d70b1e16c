import hashlib
import json
from collections import Counter

import pytest

from geneval_reward.errors import SpecError
from geneval_reward.prompts import (
    CLASS_NAMES,
    COLORS,
    SUITE_SHA256,
    TAGS,
    PromptSpec,
    official_suite,
    resolve,
    suite_by_prompt,
)
from geneval_reward.prompts import suite as suite_module

# sha256 of the files of djghosh13/geneval `prompts/`: evaluation_metadata.jsonl, generation_prompts.txt, object_names.txt.
RECORDS = "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"
PROMPTS = "55b6e3650e980c13daf30569eb666e000faf19bfc2b7b4cbe999fcdb7aa9d680"
NAMES = "608f6a0e5c8ca1c7a92b818430141fe268c85b7930b50f4160f1d65893b5bacd"


def sha256(lines: list[str]) -> str:
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def test_records_are_the_published_file() -> None:
    lines = [spec.to_json() for spec in official_suite()]
    assert sha256(lines) == RECORDS == SUITE_SHA256
    assert sum(len(line) + 1 for line in lines) == 85_209


def test_prompts_and_class_names_are_the_published_files() -> None:
    assert sha256([spec.prompt for spec in official_suite()]) == PROMPTS
    assert sha256(list(CLASS_NAMES)) == NAMES


def test_tags_come_in_blocks_of_the_published_sizes() -> None:
    tags = [spec.tag for spec in official_suite()]
    assert dict(Counter(tags)) == dict(zip(TAGS, (80, 99, 80, 94, 100, 100), strict=True))
    assert [tags.index(tag) for tag in TAGS] == [0, 80, 179, 259, 353, 453]


def test_contents_are_as_the_benchmark_describes_itself() -> None:
    specs = official_suite()
    by_tag = {tag: [spec for spec in specs if spec.tag == tag] for tag in TAGS}
    assert Counter(spec.include[0].count for spec in by_tag["counting"]) == {2: 26, 3: 28, 4: 26}
    assert all(spec.exclude[0].count == spec.include[0].count + 1 for spec in by_tag["counting"])
    relations = Counter(spec.include[1].positions[0].relation for spec in by_tag["position"])
    assert relations == {"left of": 19, "right of": 27, "above": 26, "below": 28}
    assert {spec.include[1].positions[0].target for spec in by_tag["position"]} == {0}
    assert all(spec.include[0].color != spec.include[1].color for spec in by_tag["color_attr"])
    assert not any(item.class_name == "person" and item.color for spec in specs for item in spec.include)
    assert "a photo of an orange orange" in suite_by_prompt()
    words = " ".join(spec.prompt for spec in by_tag["counting"])
    assert all(
        odd in words for odd in ("benchs", "toothbrushs", "sandwichs", "knifes", "sheeps", "broccolis", "persons")
    )
    assert set(COLORS) == {item.color for spec in specs for item in spec.include} - {None}


@pytest.mark.parametrize("index", range(0, 553, 50))
def test_every_record_comes_back_byte_for_byte(index: int) -> None:
    for spec in official_suite()[index : index + 50]:
        line = spec.to_json()
        again = PromptSpec.parse(line)
        assert again == spec
        assert again.to_json() == line
        assert PromptSpec.parse(json.loads(line)).to_record() == json.loads(line)
        assert spec.render() == spec.prompt
        bare = json.loads(line)
        del bare["prompt"]
        assert PromptSpec.parse(bare) == spec


def test_prompt_texts_resolve() -> None:
    assert len(suite_by_prompt()) == 553
    for spec in official_suite():
        assert resolve(spec.prompt) is spec
    spec = official_suite()[300]
    assert resolve(spec) is spec
    assert resolve(spec.to_json()) == resolve("  " + spec.to_json()) == resolve(spec.to_record()) == spec


def test_extra_prompt_texts_come_first() -> None:
    mine = PromptSpec.parse({"tag": "two_object", "include": [{"class": "bench", "count": 2}], "prompt": "my benches"})
    assert resolve("my benches", {"my benches": mine}) is mine
    assert resolve("a photo of a bench", {"a photo of a bench": mine}) is mine
    assert resolve("a photo of a bench", {"my benches": mine}).tag == "single_object"


@pytest.mark.parametrize("text", ["a photo of a dragon", "", "a bench that sits", '["not a record"]'])
def test_unknown_prompt_text_says_what_to_pass(text: str) -> None:
    with pytest.raises(
        SpecError, match=r"^prompt: expected a prompt text of the official suite, got .*; pass its record"
    ):
        resolve(text)


def test_a_wrong_stream_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite_module, "SUITE_SEED", 44)
    with pytest.raises(RuntimeError, match=r"expected sha256 5c48e.*reinstall"):
        suite_module.official_suite.__wrapped__()
