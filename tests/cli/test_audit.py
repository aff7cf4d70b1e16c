"""A second judge from the command line: another detector, an image-text model, a pairwise judge, a file."""

import json
import re
import shutil

import pytest
from judge_fakes import Oracle, make_model

from geneval_reward import judges
from geneval_reward.results import read_results


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    for part in make_model("Qwen2VL"):
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def scored(run, images):
    """The eight images scored by `lite`: every even one right, every odd one wrong."""
    _, code, messages = run("score", images, "--out", "a.jsonl", "--device", "cpu", "--limit", 8)
    assert code == 0, messages
    return images


def turned(path, out, *rows):
    """The file with some verdicts turned round."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        found[row]["correct"] = not found[row]["correct"]
        found[row]["reason"] = "" if found[row]["correct"] else "expected something else"
    out.write_text("".join(json.dumps(one) + "\n" for one in found))


def test_agreement_with_a_file_is_counted_and_shown(run, scored, tmp_path):
    turned(tmp_path / "a.jsonl", tmp_path / "b.jsonl", 0, 1, 3)
    result, code, messages = run("audit", "a.jsonl", "--second", "b.jsonl", "--images", scored, "--format", "json")
    assert code == 0, messages
    found = json.loads(result.stdout)["all"]
    assert {name: found[name] for name in ("both", "first", "second", "neither")} == {
        "both": 3,
        "first": 1,
        "second": 2,
        "neither": 2,
    }
    assert found["agreement"]["value"] == 5 / 8
    assert found["kappa"] == pytest.approx(0.25)
    page = (tmp_path / "a.audit.html").read_text()
    assert page.count("<figure") == 6
    assert "Only the first judge finds these right" in page
    assert "Only the second judge finds these right" in page
    assert "expected something else" not in page or "first judge" in page


def test_another_detector_is_asked_and_its_verdicts_are_kept(run, scored, tmp_path):
    result, code, messages = run("audit", "a.jsonl", "--images", scored, "--device", "cpu")
    assert code == 0, messages
    assert "all" in result.stdout
    kept = read_results(tmp_path / "a.second-nanodet.jsonl")
    assert len(kept) == 8
    _, code, messages = run("audit", "a.jsonl", "--images", scored, "--device", "cpu")
    assert code == 0
    assert "8 of 8 images are in" in messages


def test_vqa_scores_and_audits(run, scored, tiny, tmp_path):
    arguments = ("--backend", "vqa", "--checkpoint", tiny, "--device", "cpu", "--out", "v.jsonl")
    _, code, messages = run("score", scored, *arguments)
    assert code in (0, 1), messages
    rows = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    assert {row["backend"] for row in rows} == {"vqa"}
    assert all(row["detections"] is None and 0 <= row["credits"]["soft_tifa_gm"] <= 1 for row in rows)
    summary, _, _ = run("summary", "v.jsonl", "--credit", "vqascore", "--format", "json")
    mean = sum(row["credits"]["vqascore"] for row in rows) / len(rows)
    assert json.loads(summary.stdout)["images_correct"]["value"] == pytest.approx(mean, abs=1e-6)
    _, code, messages = run("summary", "v.jsonl", "--rules", "confidence=.5")
    assert code == 2
    assert "expected stored detections, got none" in messages
    # It is refused for another detector, and for the same one only because a task has a single prompt here.
    _, code, messages = run("compare", "a.jsonl", "v.jsonl")
    assert (code, "--allow backend" in messages) == (2, True)
    _, code, messages = run("compare", "v.jsonl", "v.jsonl", "--name", "a", "--name", "b")
    assert (code, "at least two prompts" in messages) == (2, True)
    _, code, messages = run("report", "v.jsonl", "--images", scored, "--out", "v.html")
    assert code in (0, 1), messages
    assert (tmp_path / "v.html").is_file()
    _, code, messages = run(
        "audit", "a.jsonl", "--second", "vqa", "--checkpoint", tiny, "--images", scored, "--device", "cpu"
    )
    assert code == 0, messages
    assert len(read_results(tmp_path / "a.second-vqa.jsonl")) == 8
    _, code, messages = run("audit", "v.jsonl", "--second", "a.jsonl", "--images", scored)
    assert code == 0, messages


def test_vqa_without_a_model_or_with_foreign_options(run, images, tiny):
    _, code, messages = run("score", images, "--backend", "vqa")
    assert (code, "expected the model of the vqa backend" in messages) == (2, True)
    _, code, messages = run("score", images, "--backend", "vqa", "--checkpoint", tiny, "--rules", "confidence=.5")
    assert (code, "rules: expected no rules with the vqa backend" in messages) == (2, True)
    _, code, messages = run("score", images, "--backend", "vqa", "--checkpoint", tiny, "--engine", "ray")
    assert (code, "--engine: expected local with the vqa backend" in messages) == (2, True)


def test_a_pairwise_judge_sees_right_and_wrong_images_of_one_prompt(run, scored, tmp_path, monkeypatch):
    # All images get one prompt, so that right and wrong ones can meet.
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        row |= {key: rows[0][key] for key in ("tag", "prompt", "metadata")} | {"index": number}
    (tmp_path / "one.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    answers = iter(
        ["[Result]: 5 1", "[Result]: 1 5", "[Result]: 5 1", "[Result]: 5 1", "[Result]: 3 3", "[Result]: 3 3", "?", ""]
    )
    monkeypatch.setattr(judges, "open_model", lambda *_, **__: Oracle(None, writes=lambda *_: next(answers)))
    arguments = ("--second", "ufeval", "--checkpoint", "folder", "--images", scored, "--pairs", 4, "--format", "json")
    result, code, messages = run("audit", "one.jsonl", *arguments)
    assert code == 1, messages
    found = json.loads(result.stdout)["all"]
    assert (found["pairs"], found["decided"], found["ties"], found["consistent"], found["unread"]) == (4, 1, 2, 2, 1)
    assert "1 answer could not be read" in json.loads(result.stdout)["problems"][0]
    page = (tmp_path / "one.audit.html").read_text()
    assert len(re.findall("preferred by the pairwise judge", page)) == round(1 - found["agreement"])
    _, code, messages = run("audit", "one.jsonl", "--second", "ufeval", "--images", scored)
    assert (code, "--checkpoint: expected the model of ufeval" in messages) == (2, True)
    _, code, messages = run("audit", "one.jsonl", "--aspect", "Fidelity", "--images", scored)
    assert (code, "--aspect: expected it with --second ufeval" in messages) == (2, True)


def test_missing_and_exchanged_images_are_named(run, scored, tmp_path):
    shutil.rmtree(scored / "00000")
    _, code, messages = run("audit", "a.jsonl", "--images", scored, "--device", "cpu")
    assert code == 1
    assert "1 image of a.jsonl without a second verdict" in messages
    _, code, messages = run("audit", "a.jsonl", "--images", tmp_path / "empty")
    assert code == 2
