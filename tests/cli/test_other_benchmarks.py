"""`mt-geneval`, `geneval2` and counterfactual prompts from the command line."""

import json

import pytest
from judge_fakes import make_model
from PIL import Image

from geneval_reward.prompts import PromptSpec


@pytest.fixture
def translations(tmp_path):
    """The benchmark's folder with five made German segments, and one system that always has the woman."""
    files = {
        "data/context/geneval-context-wikiprofessions-2to1-test.en_de.en": "Before. <sep> The visitor came in number",
        "data/context/geneval-context-wikiprofessions-original-test.en_de.de": "Die Ärztin kam als Nummer",
        "data/context/geneval-context-wikiprofessions-flipped-test.en_de.de": "Der Arzt kam als Nummer",
        "said/context.de": "Die Ärztin kam als Nummer",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{text} {n}\n" for n in range(5)), encoding="utf-8")


@pytest.mark.usefixtures("translations")
def test_a_table_of_translations(run) -> None:
    result, code, _ = run("mt-geneval", "data", "said", "--format", "json")
    assert code == 0
    (row,) = json.loads(result.stdout)["rows"]
    assert (row["language"], row["accuracy"], row["segments"]) == ("de", 1.0, 5)
    assert row["bleu"] == pytest.approx(100)


@pytest.mark.usefixtures("translations")
def test_missing_translations_are_named_once(run, tmp_path) -> None:
    result, code, messages = run("mt-geneval", "data", "said", "-l", "de", "-l", "it")
    assert (code, messages.count("it: ")) == (1, 1)
    assert "it: " not in result.stdout
    (tmp_path / "empty").mkdir()
    _, code, messages = run("mt-geneval", "data", "empty")
    assert code == 2
    assert "expected context.LANG or masculine.LANG and feminine.LANG" in messages


def test_counterfactual_prompts_come_in_pairs(run) -> None:
    result, code, _ = run("prompts", "--counterfactual", "--task", "position")
    assert code == 0
    specs = [PromptSpec.parse(line) for line in result.stdout.splitlines()]
    assert len(specs) == 198
    assert {spec.tag for spec in specs} == {"position"}
    for first, second in zip(specs[::2], specs[1::2], strict=True):
        assert first.prompt != second.prompt
        assert set(first.class_names) == set(second.class_names)


def test_geneval2_is_scored_from_files(run, tmp_path) -> None:
    for part in make_model("Qwen2VL"):
        part.save_pretrained(tmp_path / "tiny")
    record = {"prompt": "a cup", "atom_count": 1, "vqa_list": [["Are there cups?", "Yes"]], "skills": ["object"]}
    (tmp_path / "g.jsonl").write_text(json.dumps(record) + "\n")
    Image.new("RGB", (64, 64)).save(tmp_path / "cup.png")
    (tmp_path / "images.json").write_text(json.dumps({"a cup": "cup.png"}))
    arguments = ("g.jsonl", "images.json", "--checkpoint", "tiny", "--device", "cpu", "--format", "json")
    result, code, messages = run("geneval2", *arguments)
    assert code == 0, messages
    found = json.loads(result.stdout)
    assert found["prompts"] == 1
    assert found["problems"] == []
